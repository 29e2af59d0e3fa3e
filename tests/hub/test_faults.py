"""Faults, each seen from the other end of the wire."""

import http.client
import json
import time

import pytest

from tests.hub.client import request
from tests.hub.fixtures import hub as hub
from tests.hub.sample import LARGE, prepare
from tests.hub.server import RunningHub


def test_a_refusal_says_when_to_come_back(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/busy")
    hub.fail_next("GET", "/acme/busy/", 429, retry_after=7, times=2)
    replies = [request(hub, "GET", f"/datasets/{repo.id}/resolve/main/README.md") for _ in range(3)]
    assert [reply.status for reply in replies] == [429, 429, 200]
    assert [reply.headers.get("retry-after") for reply in replies] == ["7", "7", None]


def test_a_cut_request_is_not_done(hub: RunningHub) -> None:
    repo, body = prepare(hub, "acme/cut-in"), json.dumps({"tag": "v1", "message": "x" * 100_000}).encode()
    address = f"/api/datasets/{repo.id}/tag/main"
    hub.cut_next_request("POST", address, 10_000)
    with pytest.raises(ConnectionError):
        request(hub, "POST", address, token=hub.token(), body=body)
    assert "refs/tags/v1" not in repo.refs
    assert request(hub, "POST", address, token=hub.token(), body=body).status == 200


def test_a_cut_answer_is_done_all_the_same(hub: RunningHub) -> None:
    repo, body = prepare(hub, "acme/cut-out"), json.dumps({"tag": "v1"}).encode()
    address = f"/api/datasets/{repo.id}/tag/main"
    hub.cut_next_answer("POST", address, 1)
    with pytest.raises(http.client.IncompleteRead) as cut:
        request(hub, "POST", address, token=hub.token(), body=body)
    assert cut.value.partial == b"{"
    assert "refs/tags/v1" in repo.refs


def test_a_download_stops_in_the_middle(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/cut-down")
    moved = request(hub, "GET", f"/datasets/{repo.id}/resolve/main/data/big.bin").headers["location"]
    path = "/cdn/" + moved.partition("/cdn/")[2]
    hub.cut_next_answer("GET", "/cdn/acme/cut-down", 1_000)
    with pytest.raises(http.client.IncompleteRead) as cut:
        request(hub, "GET", path)
    assert cut.value.partial == LARGE[:1_000]
    assert request(hub, "GET", path).body == LARGE


def test_a_slow_answer_is_the_same_answer(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/slow")
    address = f"/api/datasets/{repo.id}"
    at_once = request(hub, "GET", address)
    hub.delay_next("GET", address, 0.3)
    start = time.monotonic()
    assert request(hub, "GET", address).body == at_once.body
    assert time.monotonic() - start >= 0.3


def test_faults_that_did_not_strike_are_counted_and_forgotten(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/spared")
    hub.fail_next("GET", "/acme/spared", 500, times=3)
    assert request(hub, "GET", f"/api/datasets/{repo.id}").status == 500
    assert hub.faults_left() == 2
    assert request(hub, "GET", f"/api/datasets/{repo.id}").status == 200
