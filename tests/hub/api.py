"""The JSON API: accounts, repositories, revisions, trees, refs and commits."""

import base64
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import commits, errors, views, wire
from .card import read_card
from .store import HEADS, PULLS, TAGS, Commit, File, Kind, Repo

TREE_PAGE, EXPANDED_PAGE, COMMITS_PAGE = 1000, 50, 50


async def harnesses(_: Request) -> Response:
    """GET /api/agent-harnesses: an object, or every client call crashes."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


async def whoami(request: Request) -> Response:
    """GET /api/whoami-v2."""
    return JSONResponse(views.account(wire.known_user(request)))


async def validate_yaml(request: Request) -> Response:
    """POST /api/validate-yaml: asked before every README upload, with or without a token."""
    verdict = read_card((await request.json())["content"])
    return JSONResponse(verdict.to_json(), 400 if verdict.errors else 200)


async def _named_repo(request: Request) -> tuple[Kind, str]:
    """Kind and id in the body of create and delete, where the id comes in two halves."""
    body = await request.json()
    namespace = body.get("organization") or wire.known_user(request).name
    kind = body.get("type", "model")
    if kind not in views.PREFIX:
        raise errors.HubError(400, f"Unknown repository type: {kind}")
    return kind, f"{namespace}/{body['name']}"


async def create_repo(request: Request) -> Response:
    """POST /api/repos/create: 409 names the address too, which `exist_ok=True` reads."""
    user, (kind, repo_id) = wire.known_user(request), await _named_repo(request)
    private = (await request.json()).get("visibility") == "private"
    url = f"{wire.endpoint(request)}/{views.PREFIX[kind]}{repo_id}"
    if (kind, repo_id) in wire.store(request).repos and user.may_write(repo_id.partition("/")[0]):
        raise errors.HubError(409, f"You already created this {kind} repo: {repo_id}", body={"url": url})
    repo = wire.store(request).create_repo(user, kind, repo_id, private=private)
    return JSONResponse({"url": url, "name": repo.id, "id": views.summary(repo, repo.resolve("main"))["_id"]})


async def delete_repo(request: Request) -> Response:
    """DELETE /api/repos/delete."""
    kind, repo_id = await _named_repo(request)
    wire.store(request).writable(wire.user(request), kind, repo_id)
    del wire.store(request).repos[kind, repo_id]
    return JSONResponse({})


async def settings(request: Request) -> Response:
    """PUT /api/{plural}/{id}/settings: who may see the repository; what is not named stays."""
    repo, _ = wire.writable_repo(request)
    asked = await request.json()
    repo.gated = asked.get("gated", repo.gated)
    repo.private = {"private": True, "public": False}.get(asked.get("visibility"), repo.private)
    return JSONResponse(asked)


async def list_repos(request: Request) -> Response:
    """GET /api/{plural}?author=&search=: what this user may see."""
    user, kind, asked = wire.user(request), wire.kind(request), request.query_params
    repos = [
        repo
        for repo in wire.store(request).repos.values()
        if repo.kind == kind
        and (not repo.private or (user and user.may_read(repo.namespace)))
        and asked.get("author", repo.namespace) == repo.namespace
        and asked.get("search", "").lower() in repo.id.lower()
    ]
    return wire.page(request, repos, TREE_PAGE, lambda repo: views.summary(repo, repo.resolve("main")))


async def repo_info(request: Request) -> Response:
    """GET /api/{plural}/{id}[/revision/{revision}]?blobs=&expand=."""
    repo = wire.repo(request)
    shown = views.info(repo, _revision(request, repo), blobs=wire.flag(request, "blobs"))
    wanted = [*request.query_params.getlist("expand"), *request.query_params.getlist("expand[]")]
    return JSONResponse({key: shown[key] for key in ("_id", "id", *wanted) if key in shown} if wanted else shown)


def _revision(request: Request, repo: Repo) -> Commit:
    return repo.resolve(wire.param(request, "revision") or "main")


async def tree(request: Request) -> Response:
    """GET /api/{plural}/{id}/tree/{revision}[/{path}]?recursive=&expand=."""
    repo = wire.repo(request)
    commit, folder = _revision(request, repo), wire.param(request, "path").strip("/")
    if folder not in commit.folders:
        raise errors.entry_not_found(f'{folder} does not exist on "{wire.param(request, "revision")}"', commit.sha)
    expand = wire.flag(request, "expand")
    paths = views.listing(commit, folder, recursive=wire.flag(request, "recursive"))
    size = EXPANDED_PAGE if expand else TREE_PAGE
    return wire.page(request, paths, size, lambda path: views.node(repo, commit, path, expand=expand))


async def paths_info(request: Request) -> Response:
    """POST /api/{plural}/{id}/paths-info/{revision}: a form, not JSON; missing paths are left out."""
    repo = wire.repo(request)
    commit, form = _revision(request, repo), parse_qs((await request.body()).decode())
    expand = form.get("expand", ["false"])[0].lower() == "true"
    paths = [path.strip("/") for path in form.get("paths", [])]
    return JSONResponse([views.node(repo, commit, path, expand=expand) for path in paths if commit.oid(path)])


async def list_refs(request: Request) -> Response:
    """GET /api/{plural}/{id}/refs?include_prs=1."""
    return JSONResponse(views.refs(wire.repo(request), pulls=wire.flag(request, "include_prs")))


async def list_commits(request: Request) -> Response:
    """GET /api/{plural}/{id}/commits/{revision}: newest first."""
    repo = wire.repo(request)
    return wire.page(request, list(repo.history(_revision(request, repo))), COMMITS_PAGE, views.history_entry)


async def create_branch(request: Request) -> Response:
    """POST /api/{plural}/{id}/branch/{revision}: from `startingPoint`, else from main."""
    repo, _ = wire.writable_repo(request)
    start = repo.resolve((await request.json()).get("startingPoint", "main"))
    repo.create_ref(HEADS + wire.param(request, "revision"), start)
    return JSONResponse({})


async def delete_branch(request: Request) -> Response:
    """DELETE /api/{plural}/{id}/branch/{revision}."""
    repo, _ = wire.writable_repo(request)
    repo.delete_ref(HEADS + wire.param(request, "revision"))
    return JSONResponse({})


async def create_tag(request: Request) -> Response:
    """POST /api/{plural}/{id}/tag/{revision}: the path names what is tagged, the body the tag."""
    repo, _ = wire.writable_repo(request)
    repo.create_ref(TAGS + (await request.json())["tag"], _revision(request, repo))
    return JSONResponse({})


async def delete_tag(request: Request) -> Response:
    """DELETE /api/{plural}/{id}/tag/{revision}: here the path names the tag."""
    repo, _ = wire.writable_repo(request)
    repo.delete_ref(TAGS + wire.param(request, "revision"))
    return JSONResponse({})


async def preupload(request: Request) -> Response:
    """POST /api/{plural}/{id}/preupload/{revision}: how to send each file, and what is there already.

    Clients leave a file out of the commit if `oid` is the one they computed.
    """
    repo = wire.repo(request) if wire.flag(request, "create_pr") else wire.writable_repo(request)[0]
    head, body = _revision(request, repo), await request.json()
    attributes = _text(head, ".gitattributes")
    gitignore = body.get("gitIgnore", _text(head, ".gitignore"))
    plan = []
    for file in body["files"]:
        path, there = file["path"], head.files.get(file["path"])
        mode = commits.upload_mode(path, file["size"], base64.b64decode(file["sample"]), attributes)
        oid = {"oid": there.sha256 or there.oid} if there else {}
        plan.append({"path": path, "uploadMode": mode, "shouldIgnore": commits.ignored(path, gitignore), **oid})
    return JSONResponse({"files": plan, "commitOid": head.sha})


def _text(commit: Commit, path: str) -> str:
    return commit.files.get(path, File.regular(b"")).data.decode()


async def create_commit(request: Request) -> Response:
    """POST /api/{plural}/{id}/commit/{revision}: all of it or nothing."""
    pull = wire.flag(request, "create_pr")
    repo, user = (wire.repo(request), wire.known_user(request)) if pull else wire.writable_repo(request)
    draft = commits.parse(await request.body())
    ref = repo.writable_ref(wire.param(request, "revision"))
    head = repo.resolve(ref)
    if draft.parent and not head.sha.startswith(draft.parent):
        raise errors.outdated_parent()
    files = commits.next_tree(wire.store(request), repo, head, draft)
    page = f"{wire.endpoint(request)}/{views.PREFIX[repo.kind]}{repo.id}"
    answer: views.Json = {}
    if pull:
        number = 1 + sum(name.startswith(PULLS) for name in repo.refs)
        ref = f"{PULLS}{number}"
        repo.create_ref(ref, head)
        answer = {"pullRequestUrl": f"{page}/discussions/{number}"}
    made = repo.commit(ref, files, author=user.name, title=draft.title, description=draft.description)
    url = f"{page}/commit/{made.sha}"
    return JSONResponse({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": "", **answer})


REPO = "/api/{plural}/{namespace}/{name}"
ROUTES = [
    Route("/api/agent-harnesses", harnesses),
    Route("/api/whoami-v2", whoami),
    Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
    Route("/api/repos/create", create_repo, methods=["POST"]),
    Route("/api/repos/delete", delete_repo, methods=["DELETE"]),
    Route("/api/{plural}", list_repos),
    Route(REPO, repo_info),
    Route(REPO + "/settings", settings, methods=["PUT"]),
    Route(REPO + "/revision/{revision}", repo_info),
    Route(REPO + "/tree/{revision}", tree),
    Route(REPO + "/tree/{revision}/{path:path}", tree),
    Route(REPO + "/paths-info/{revision}", paths_info, methods=["POST"]),
    Route(REPO + "/refs", list_refs),
    Route(REPO + "/commits/{revision}", list_commits),
    Route(REPO + "/branch/{revision}", create_branch, methods=["POST"]),
    Route(REPO + "/branch/{revision}", delete_branch, methods=["DELETE"]),
    Route(REPO + "/tag/{revision}", create_tag, methods=["POST"]),
    Route(REPO + "/tag/{revision}", delete_tag, methods=["DELETE"]),
    Route(REPO + "/preupload/{revision}", preupload, methods=["POST"]),
    Route(REPO + "/commit/{revision}", create_commit, methods=["POST"]),
]
