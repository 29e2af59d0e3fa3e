"""Files by address: small ones from the Hub, large ones by redirect from the CDN."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import errors, wire

RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


async def resolve(request: Request) -> Response:
    """GET or HEAD /{prefix}{id}/resolve/{revision}/{path}.

    A large file is a 302 to the CDN. The redirect itself carries the commit, the size and the hash, because clients do
    not follow it to ask for them. If the file came by Xet, it says how to get it by Xet too; what reads by range
    (`datasets` streaming, `HfFileSystem`) goes to the CDN all the same.
    """
    repo = wire.repo(request)
    commit = repo.resolve(wire.param(request, "revision"))
    file = commit.files.get(wire.param(request, "path"))
    if file is None:
        raise errors.entry_not_found("Entry not found", commit.sha)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if file.sha256 is None:
        return partial(request, file.data, {**headers, "ETag": f'"{file.oid}"'})
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
    if file.xet_hash:
        token = f"{wire.endpoint(request)}/api/{repo.kind}s/{quote(repo.id)}/xet-read-token/{commit.sha}"
        headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
    location = f"{wire.cdn(request)}/cdn/{quote(repo.id)}/{file.sha256}"
    return Response(status_code=302, headers={**headers, "Location": location})


async def cdn(request: Request) -> Response:
    """GET or HEAD the content of a large file: no token, its address is the secret."""
    data = wire.store(request).blobs.get(wire.param(request, "sha256"))
    if data is None:
        raise errors.HubError(404, "Not Found")
    return partial(request, data, {"Accept-Ranges": "bytes", "ETag": f'"{wire.param(request, "sha256")}"'})


def partial(request: Request, data: bytes, headers: Mapping[str, str]) -> Response:
    """The bytes, or the one range of them that was asked for."""
    asked, total = RANGE.fullmatch(request.headers.get("range", "")), len(data)
    if asked is None:
        return Response(data, 200, headers, "application/octet-stream")
    first, last, tail = asked.groups()
    start = int(first) if first else max(0, total - int(tail))
    end = min(int(last) + 1, total) if last else total
    if start >= end:
        raise errors.HubError(416, "Range Not Satisfiable", headers={**headers, "Content-Range": f"bytes */{total}"})
    headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{total}"}
    return Response(data[start:end], 206, headers, "application/octet-stream")


ROUTES = [
    Route("/{plural}/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
    Route("/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
    Route("/cdn/{namespace}/{name}/{sha256}", cdn),
]
