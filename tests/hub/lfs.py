"""Large files in: the batch that plans, the uploads in one or many parts, the check at the end.

Upload addresses are signed: a secret in the path stands for the token, which clients do not send to storage.
"""

import secrets

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import errors, views, wire
from .gitobjects import sha256
from .store import Repo, Upload

PART_SIZE = 5 * 1024 * 1024
MEDIA_TYPE = "application/vnd.git-lfs+json"


async def batch(request: Request) -> Response:
    """POST /{prefix}{id}.git/info/lfs/objects/batch: where to send each object that is not here yet."""
    repo, _ = wire.writable_repo(request)
    asked = await request.json()
    if asked.get("operation") != "upload" or asked.get("hash_algo", "sha256") != "sha256":
        raise errors.HubError(422, "Only uploads of sha256 objects are supported")
    multipart = "multipart" in asked.get("transfers", []) and any(_parts(o["size"]) > 1 for o in asked["objects"])
    objects = [_plan(request, repo, o["oid"], o["size"], multipart=multipart) for o in asked["objects"]]
    transfer = "multipart" if multipart else "basic"
    return JSONResponse({"transfer": transfer, "objects": objects}, media_type=MEDIA_TYPE)


def _parts(size: int) -> int:
    return -(-size // PART_SIZE)


def _plan(request: Request, repo: Repo, oid: str, size: int, *, multipart: bool) -> views.Json:
    """One object of the batch; without `actions` if it is stored already."""
    plan = {"oid": oid, "size": size, "authenticated": True}
    if oid in repo.large:
        return plan
    secret = secrets.token_hex(16)
    wire.store(request).uploads[secret] = Upload(repo, oid, size)
    storage = f"{wire.cdn(request)}/upload/{secret}"
    upload: views.Json = {"href": storage, "header": {}}
    if multipart and _parts(size) > 1:
        parts = {f"{part:05d}": f"{storage}/{part}" for part in range(1, _parts(size) + 1)}
        upload = {"href": f"{wire.endpoint(request)}/upload/{secret}/complete"}
        upload["header"] = {"chunk_size": str(PART_SIZE), **parts}
    verify = f"{wire.endpoint(request)}/{views.PREFIX[repo.kind]}{repo.id}.git/info/lfs/objects/verify"
    return {**plan, "actions": {"upload": upload, "verify": {"href": verify, "header": {}}}}


def _upload(request: Request) -> Upload:
    upload = wire.store(request).uploads.get(wire.param(request, "secret"))
    if upload is None:
        raise errors.HubError(403, "Request signature is not valid")
    return upload


async def put_object(request: Request) -> Response:
    """PUT a whole object."""
    data = await request.body()
    wire.store(request).receive(_upload(request), data)
    return Response(headers={"ETag": f'"{sha256(data)}"'})


async def put_part(request: Request) -> Response:
    """PUT one part; its ETag is the receipt that the completion shows."""
    data = await request.body()
    _upload(request).parts[int(wire.param(request, "part"))] = data
    return Response(headers={"ETag": f'"{sha256(data)}"'})


async def complete(request: Request) -> Response:
    """POST the receipts of all parts: they become the object."""
    upload, listed = _upload(request), (await request.json())["parts"]
    receipts = [(part, f'"{sha256(upload.parts[part])}"') for part in sorted(upload.parts)]
    if [(part["partNumber"], part["etag"]) for part in listed] != receipts:
        raise errors.HubError(400, "The parts are not the ones that were uploaded")
    wire.store(request).receive(upload, b"".join(upload.parts[part] for part, _ in receipts))
    return JSONResponse({})


async def verify(request: Request) -> Response:
    """POST verify: whether the object arrived."""
    repo, _ = wire.writable_repo(request)
    asked = await request.json()
    if asked["oid"] not in repo.large or len(wire.store(request).blobs[asked["oid"]]) != asked["size"]:
        raise errors.HubError(404, f"LFS object {asked['oid']} does not exist")
    return JSONResponse({})


ROUTES = [
    *(
        Route(prefix + "/{namespace}/{name}.git/info/lfs/objects/" + action, handler, methods=["POST"])
        for prefix in ("/{plural}", "")
        for action, handler in (("batch", batch), ("verify", verify))
    ),
    Route("/upload/{secret}", put_object, methods=["PUT"]),
    Route("/upload/{secret}/complete", complete, methods=["POST"]),
    Route("/upload/{secret}/{part}", put_part, methods=["PUT"]),
]
