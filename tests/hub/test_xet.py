"""Xet: the binary forms, what the CAS refuses, and byte-equal content through the real hf-xet."""

import json
import struct
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from tests.hub import cas, shard, xorb
from tests.hub.client import request, run_client
from tests.hub.errors import HubError
from tests.hub.fixtures import hub as hub
from tests.hub.gitobjects import sha256
from tests.hub.sample import prepare
from tests.hub.server import RunningHub

# --- the forms, made by hand


def chunk(content: bytes, scheme: int, version: int = 0) -> bytes:
    grouped = b"".join(content[phase::4] for phase in range(4)) if scheme == xorb.GROUPED_LZ4 else content
    packed = grouped if scheme == xorb.PLAIN else lz4.frame.compress(grouped)
    sizes = [len(data).to_bytes(3, "little") for data in (packed, content)]
    return bytes([version]) + sizes[0] + bytes([scheme]) + sizes[1] + packed


def name(letter: str) -> str:
    """The text of a hash whose bytes are all this letter's."""
    return f"{ord(letter):02x}" * 32


def packed_shard(xet_hash: str, *terms: tuple[str, int, int, int], sha: str | None = None) -> bytes:
    flags = shard.VERIFIED | (shard.DESCRIBED if sha else 0)
    records = [struct.pack("<32s2I8x", xet_hash.encode() * 32, flags, len(terms))]
    records += [struct.pack("<32s4I", letter.encode() * 32, 0, *numbers) for letter, *numbers in terms]
    records += [bytes(shard.RECORD_SIZE)] * len(terms)
    if sha:
        words = (int(sha[at : at + 16], 16) for at in range(0, 64, 16))
        records.append(struct.pack("<4Q16x", *words))
    return b"".join([bytes(shard.RECORD_SIZE), *records, shard.BOOKEND + bytes(16)])


@pytest.mark.parametrize("scheme", [xorb.PLAIN, xorb.LZ4, xorb.GROUPED_LZ4])
@pytest.mark.parametrize("size", [1, 4, 5, 6, 7, 1000])
def test_a_chunk_unpacks_to_what_was_packed(scheme: int, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    parsed = xorb.parse(chunk(b"first", xorb.PLAIN) + chunk(content, scheme))
    assert (parsed.num_chunks, parsed.unpacked(0, 2), parsed.unpacked(1, 2)) == (2, b"first" + content, content)
    assert parsed.span(0, 1) == (0, xorb.HEADER_SIZE + 4)
    assert parsed.span(1, 2) == (xorb.HEADER_SIZE + 5, len(parsed.body) - 1)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (chunk(b"content", xorb.PLAIN)[:-1], "has 6 of its 7 bytes"),
        (chunk(b"content", xorb.PLAIN, version=1), "version 1"),
        (chunk(b"content", 7), "unknown compression scheme 7"),
        (chunk(b"content", xorb.LZ4)[:-4] + b"evil", "damaged"),
        (b"\0\1", "ends in its header"),
    ],
)
def test_a_damaged_xorb_is_refused(damaged: bytes, message: str) -> None:
    with pytest.raises(HubError, match=message):
        xorb.parse(damaged)


def test_a_shard_names_files_terms_and_sha256() -> None:
    one = packed_shard("f", ("x", 10, 0, 2), ("y", 5, 3, 4), sha=sha256(b"content"))
    terms = (shard.Term(name("x"), 10, 0, 2), shard.Term(name("y"), 5, 3, 4))
    assert shard.parse(one) == [shard.FileRecipe(name("f"), terms, sha256(b"content"))]
    assert shard.parse(packed_shard("f")) == [shard.FileRecipe(name("f"), (), None)]
    with pytest.raises(HubError, match="The shard is damaged"):
        shard.parse(one[:-60])


@pytest.mark.parametrize(
    ("first", "last", "skipped", "terms"),
    [(0, None, 0, "abc"), (0, 0, 0, "a"), (9, 10, 9, "ab"), (12, 99, 2, "bc"), (30, None, 10, "c"), (15, 19, 5, "b")],
)
def test_a_range_needs_the_terms_that_hold_it(first: int, last: int | None, skipped: int, terms: str) -> None:
    lengths = {"a": 10, "b": 10, "c": 20}
    recipe = shard.FileRecipe("f", tuple(shard.Term(x, size, 0, 1) for x, size in lengths.items()), None)
    found = cas.part(recipe, first, last)
    assert (found.skipped, "".join(term.xorb for term in found.terms)) == (skipped, terms)
    with pytest.raises(HubError) as past:
        cas.part(recipe, 40, None)
    assert past.value.status == 416


# --- the routes, by hand


def tokens(hub: RunningHub, repo_id: str) -> dict[str, str]:
    api = f"/api/datasets/{repo_id}"
    both = {way: request(hub, "GET", f"{api}/xet-{way}-token/main", token=hub.token()) for way in ("read", "write")}
    for reply in both.values():
        shown = reply.json()
        assert reply.headers["x-xet-cas-url"] == shown["casUrl"] == hub.endpoint.replace("127.0.0.1", "localhost")
        assert reply.headers["x-xet-access-token"] == shown["accessToken"]
        assert reply.headers["x-xet-token-expiration"] == str(shown["exp"])
    return {way: reply.json()["accessToken"] for way, reply in both.items()}


def test_a_file_goes_up_and_down_by_hand(hub: RunningHub) -> None:
    repo = prepare(hub, "acme/by-hand")
    token, address = tokens(hub, repo.id), f"/v1/xorbs/default/{name('x')}"
    body = chunk(b"zero", xorb.PLAIN) + chunk(b"one" * 50, xorb.LZ4) + chunk(b"two", xorb.PLAIN)
    content, before = b"one" * 50 + b"two" + b"zero", hub.store.cas.received_bytes
    sent = packed_shard("f", ("x", 153, 1, 3), ("x", 4, 0, 1), sha=sha256(content))
    assert request(hub, "POST", "/v2/shards", token=token["write"], body=sent).status == 400, "its xorb is missing"
    assert request(hub, "POST", address, token=token["read"], body=body).status == 403
    assert request(hub, "POST", address, token=hub.token(), body=body).status == 401
    for inserted in (True, False):
        assert request(hub, "POST", address, token=token["write"], body=body).json() == {"was_inserted": inserted}
    assert hub.store.cas.received_bytes - before == 2 * len(body)
    wrong = packed_shard("f", ("x", 4, 0, 1), sha=sha256(content))
    too_far = packed_shard("f", ("x", 4, 0, 4))
    too_long = packed_shard("f", ("x", 5, 0, 1))
    for refused in (wrong, too_far, too_long):
        assert request(hub, "POST", "/v1/shards", token=token["write"], body=refused).status == 400
    assert sha256(content) not in repo.large
    assert request(hub, "POST", "/v1/shards", token=token["write"], body=sent).json() == {"result": 1}
    assert request(hub, "POST", "/v2/shards", token=token["write"], body=sent).body == b'{"type":"result"}\n'
    line = {"key": "lfsFile", "value": {"path": "f.bin", "algo": "sha256", "oid": sha256(content), "size": 1}}
    commit = "\n".join(json.dumps(one) for one in ({"key": "header", "value": {"summary": "s"}}, line)).encode()
    assert request(hub, "POST", f"/api/datasets/{repo.id}/commit/main", token=hub.token(), body=commit).status == 200
    node = request(hub, "GET", f"/api/datasets/{repo.id}/tree/main").json()[-1]
    assert (node["path"], node["size"], node["xetHash"]) == ("f.bin", len(content), name("f"))
    moved = request(hub, "HEAD", f"/datasets/{repo.id}/resolve/main/f.bin")
    read = f"{hub.endpoint}/api/datasets/{repo.id}/xet-read-token/{repo.resolve('main').sha}"
    assert (moved.headers["x-xet-hash"], moved.headers["link"]) == (name("f"), f'<{read}>; rel="xet-auth"')
    cdn = request(hub, "GET", moved.headers["location"].removeprefix(hub.endpoint.replace("127.0.0.1", "localhost")))
    assert cdn.body == content, "clients that read by range find it on the CDN"

    def plan(version: str, **headers: str) -> Any:
        return request(hub, "GET", f"/{version}/reconstructions/{name('f')}", token=token["read"], headers=headers)

    def term(start: int, end: int, length: int) -> dict[str, Any]:
        return {"hash": name("x"), "unpacked_length": length, "range": {"start": start, "end": end}}

    whole, last = plan("v2").json(), plan("v2", Range="bytes=155-156").json()
    assert (whole["offset_into_first_range"], whole["terms"]) == (0, [term(1, 3, 153), term(0, 1, 4)])
    assert (last["offset_into_first_range"], last["terms"]) == (2, [term(0, 1, 4)])
    [source] = last["xorbs"][name("x")]
    assert source["ranges"] == [{"chunks": {"start": 0, "end": 1}, "bytes": {"start": 0, "end": 11}}]
    part = request(hub, "GET", f"/xorb/{name('x')}", headers={"Range": "bytes=0-11"})
    assert (part.status, part.body) == (206, body[:12])
    old = plan("v1", Range="bytes=155-156").json()["fetch_info"]
    assert old == {
        name("x"): [{"url": source["url"], "range": {"start": 0, "end": 1}, "url_range": {"start": 0, "end": 11}}]
    }
    assert plan("v2", Range="bytes=157-").status == 416


def test_a_token_of_another_repository_reads_nothing(hub: RunningHub) -> None:
    prepare(hub, "acme/elsewhere")
    token = tokens(hub, "acme/elsewhere")["read"]
    assert request(hub, "GET", f"/v2/reconstructions/{name('f')}", token=token).status == 404
    assert request(hub, "GET", f"/v2/reconstructions/{name('f')}").status == 401
    for path in (f"/xorb/{name('0')}", f"/v1/chunks/default/{name('0')}"):
        assert request(hub, "GET", path, token=tokens(hub, "acme/elsewhere")["write"]).status == 404


@pytest.mark.parametrize(("user", "read", "write", "propose"), [("reader", 200, 403, 200), ("outsider", 404, 404, 404)])
def test_who_gets_a_token(hub: RunningHub, user: str, read: int, write: int, propose: int) -> None:
    repo = prepare(hub, f"acme/token-{user}", private=True)
    api, seen = f"/api/datasets/{repo.id}", []
    for path in ("xet-read-token/main", "xet-write-token/main", "xet-write-token/main?create_pr=1"):
        seen.append(request(hub, "GET", f"{api}/{path}", token=hub.token(user)).status)
    assert seen == [read, write, propose]
    assert request(hub, "GET", f"{api}/xet-read-token/none", token=hub.token()).status == 404


# --- the real client


def upload_and_download(repo: str, path: str) -> bool:
    from pathlib import Path

    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi()
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    sha = api.upload_file(path_or_fileobj=path, path_in_repo="f.bin", repo_id=repo, repo_type="dataset").oid
    got = hf_hub_download(repo, "f.bin", repo_type="dataset", revision=sha)
    return Path(got).read_bytes() == Path(path).read_bytes()


def numbers(count: int) -> bytes:
    """Floats that wander slowly, which hf-xet packs in groups of every fourth byte."""
    return b"".join(struct.pack("<f", 1000 + i / 7) for i in range(count))


def noise(size: int) -> bytes:
    """Bytes that do not compress."""
    return b"".join(bytes.fromhex(sha256(str(i).encode())) for i in range(size // 32))


@pytest.mark.parametrize("old", [False, True], ids=["v2", "v1"])
def test_real_client_moves_equal_bytes(hub: RunningHub, tmp_path: Path, old: bool) -> None:
    if old:
        hub.fail_next("POST", "/v2/shards", 404, times=9)
        hub.fail_next("GET", "/v2/reconstructions/", 404, times=9)
    content = b"text that repeats\n" * 20_000 + numbers(200_000) + noise(500_000)
    (tmp_path / "f.bin").write_bytes(content)
    repo, before = f"acme/equal-{old}", len(hub.calls)
    assert run_client(hub, upload_and_download, repo, str(tmp_path / "f.bin"), home=tmp_path, token=hub.token()) is True
    hub.faults_left()
    stored = hub.store.repos["dataset", repo].resolve("main").files["f.bin"]
    assert hub.store.content(stored) == content
    assert stored.xet_hash in hub.store.cas.files
    answered = {call.path.partition("/default/")[0] for call in hub.calls[before:] if call.status == 200}
    version = "/v1" if old else "/v2"
    assert {f"{version}/shards", f"{version}/reconstructions/{stored.xet_hash}"} <= answered
    assert not any("/lfs/" in call.path for call in hub.calls[before:])


def test_a_second_version_sends_what_is_new(hub: RunningHub, tmp_path: Path) -> None:
    first, path, sent = noise(4_000_000), tmp_path / "f.bin", []
    for content in (first, first[:2_000_000] + b"inserted" + first[2_000_000:], first):
        path.write_bytes(content)
        before = hub.store.cas.received_bytes
        args = ("acme/second", str(path))
        assert run_client(hub, upload_and_download, *args, home=tmp_path / "home", token=hub.token()) is True
        sent.append(hub.store.cas.received_bytes - before)
    assert sent[0] >= len(first)
    assert 8 <= sent[1] < len(first) / 10
    assert sent[2] == 0, "the first version again"
