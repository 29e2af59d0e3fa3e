"""Xet, the clients' default way for large files: tokens from the API, then chunks to and from the CAS.

up    xet-write-token -> POST xorbs, as many as are new -> POST shards -> commit the sha256 (as `lfsFile`)
down  HEAD resolve (X-Xet-Hash, Link: rel="xet-auth") -> xet-read-token -> GET reconstructions -> GET ranges of xorbs

A client dedupes against the shards in its own cache (HF_HOME/xet), so it sends only what no earlier upload from there
held. Asking about the chunks of others (`chunks`) may miss, and always does here: a release from another machine is
sent whole. `xorb-grants` is new in hf-xet 1.8, which falls back to `xorbs` on a 404; so does v2 of shards and
reconstructions to v1.

After 429, 500 or a cut connection hf-xet repeats what it asked of the CAS; after 400 it gives up. huggingface_hub
repeats preupload and the tokens, but never a commit or a tag.
"""

import secrets
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import cas, content, errors, views, wire
from .gitobjects import sha256
from .store import Grant, Repo

TOKEN_SECONDS = 3600


async def read_token(request: Request) -> Response:
    """GET /api/{plural}/{id}/xet-read-token/{revision}."""
    repo = wire.repo(request)
    repo.resolve(wire.param(request, "revision"))
    return _token(request, repo, may_write=False)


async def write_token(request: Request) -> Response:
    """GET /api/{plural}/{id}/xet-write-token/{revision}?create_pr=: a reader may upload what he proposes."""
    repo = wire.repo(request) if wire.flag(request, "create_pr") else wire.writable_repo(request)[0]
    repo.resolve(wire.param(request, "revision"))
    return _token(request, repo, may_write=True)


def _token(request: Request, repo: Repo, *, may_write: bool) -> Response:
    """The same three facts in the body and in headers: some clients read the one, some the other."""
    token = f"xet_{secrets.token_hex(16)}"
    wire.store(request).grants[token] = Grant(repo, may_write)
    url, expiry = wire.cdn(request), int(time.time()) + TOKEN_SECONDS
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expiry)}
    return JSONResponse({"casUrl": url, "accessToken": token, "exp": expiry}, headers=headers)


def _granted(request: Request, *, to_write: bool) -> Repo:
    """The repository that the Xet token is for. A user's own token means nothing here."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    grant = wire.store(request).grants.get(token)
    if grant is None:
        raise errors.HubError(401, "Unauthorized")
    if to_write and not grant.may_write:
        raise errors.forbidden("The token is only for reading")
    return grant.repo


async def miss(request: Request) -> Response:
    """GET chunks/{hash}: nobody else has uploaded that chunk. POST xorb-grants/{hash}: upload the xorb here itself."""
    _granted(request, to_write=True)
    raise errors.HubError(404, "Not Found")


async def upload_xorb(request: Request) -> Response:
    """POST xorbs/{hash}."""
    _granted(request, to_write=True)
    inserted = wire.store(request).cas.add_xorb(wire.param(request, "hash"), await request.body())
    return JSONResponse({"was_inserted": inserted})


async def upload_shard(request: Request) -> Response:
    """POST v1/shards: from here on its files may be committed, and are on the CDN too for clients without Xet."""
    _receive_shard(request, await request.body())
    return JSONResponse({"result": 1})


async def upload_shard_streaming(request: Request) -> Response:
    """POST v2/shards: the same, with an answer that could report progress line by line."""
    _receive_shard(request, await request.body())
    return Response('{"type":"result"}\n', media_type="application/x-ndjson")


def _receive_shard(request: Request, body: bytes) -> None:
    repo, store = _granted(request, to_write=True), wire.store(request)
    for recipe, data in store.cas.read_shard(body):
        if recipe.sha256 not in (None, sha256(data)):
            raise errors.HubError(400, f"The chunks of {recipe.xet_hash} are not the content {recipe.sha256}")
        store.cas.files[recipe.xet_hash] = recipe
        store.receive_chunked(repo, recipe.xet_hash, data)


def _part(request: Request) -> cas.Part:
    """The part of the file in the address that the Range header asks for."""
    repo, store = _granted(request, to_write=False), wire.store(request)
    recipe = store.cas.files.get(wire.param(request, "hash"))
    if recipe is None or recipe.xet_hash not in {store.xet_hashes.get(oid) for oid in repo.large}:
        raise errors.HubError(404, "Not Found")
    asked = content.RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None:
        return cas.part(recipe, 0, None) if recipe.terms else cas.Part(0, [])
    return cas.part(recipe, int(asked[1]), int(asked[2]) if asked[2] else None)


def _terms(part: cas.Part) -> views.Json:
    terms = [
        {"hash": term.xorb, "unpacked_length": term.length, "range": {"start": term.start, "end": term.end}}
        for term in part.terms
    ]
    return {"offset_into_first_range": part.skipped, "terms": terms}


def _sources(request: Request, part: cas.Part) -> Mapping[str, list[tuple[views.Json, views.Json]]]:
    """Xorb -> the runs of its chunks (the last one excluded) and their bytes (the last one included)."""
    sources: dict[str, list[tuple[views.Json, views.Json]]] = {}
    for term in part.terms:
        first, last = wire.store(request).cas.xorbs[term.xorb].span(term.start, term.end)
        source = ({"start": term.start, "end": term.end}, {"start": first, "end": last})
        if source not in sources.setdefault(term.xorb, []):
            sources[term.xorb].append(source)
    return sources


def _address(request: Request, xorb: str) -> str:
    return f"{wire.cdn(request)}/xorb/{xorb}"


async def reconstruction(request: Request) -> Response:
    """GET v2/reconstructions/{hash}: where the chunks of a file, or of a range of it, are."""
    part = _part(request)
    xorbs = {
        name: [
            {"url": _address(request, name), "ranges": [{"chunks": chunks, "bytes": span}]} for chunks, span in sources
        ]
        for name, sources in _sources(request, part).items()
    }
    return JSONResponse({**_terms(part), "xorbs": xorbs})


async def reconstruction_v1(request: Request) -> Response:
    """GET v1/reconstructions/{hash}: the same in the words of older clients."""
    part = _part(request)
    fetch = {
        name: [{"url": _address(request, name), "range": chunks, "url_range": span} for chunks, span in sources]
        for name, sources in _sources(request, part).items()
    }
    return JSONResponse({**_terms(part), "fetch_info": fetch})


async def xorb(request: Request) -> Response:
    """GET a range of a xorb: no token, its address is the secret."""
    found = wire.store(request).cas.xorbs.get(wire.param(request, "hash"))
    if found is None:
        raise errors.HubError(404, "Not Found")
    return content.partial(request, found.body, {"Accept-Ranges": "bytes"})


async def telemetry(_: Request) -> Response:
    """POST /v1/telemetry: always at the root of the CAS's origin."""
    return JSONResponse({})


REPO = "/api/{plural}/{namespace}/{name}"
ROUTES = [
    Route(REPO + "/xet-read-token/{revision}", read_token),
    Route(REPO + "/xet-write-token/{revision}", write_token),
    Route("/v1/chunks/default/{hash}", miss),
    Route("/v1/xorb-grants/default/{hash}", miss, methods=["POST"]),
    Route("/v1/xorbs/default/{hash}", upload_xorb, methods=["POST"]),
    Route("/v1/shards", upload_shard, methods=["POST"]),
    Route("/v2/shards", upload_shard_streaming, methods=["POST"]),
    Route("/v1/reconstructions/{hash}", reconstruction_v1),
    Route("/v2/reconstructions/{hash}", reconstruction),
    Route("/xorb/{hash}", xorb),
    Route("/v1/telemetry", telemetry, methods=["POST"]),
]
