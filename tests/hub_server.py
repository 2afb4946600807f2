"""A small Hub for the tests: serves the requests of `huggingface_hub` on loopback, from memory.

    with HubServer({"hf_ada": ("ada", "sslzoo")}) as server:  # ada is a member of the organisation sslzoo
        server.add("sslzoo/tiny", {"README.md": card})
        server.fail("POST", "/preupload/", status=503, times=2)
        done = server.run_python("from huggingface_hub import ...", home=tmp_path, token="hf_ada")

The client reads HF_ENDPOINT, HF_HOME and HF_HUB_DISABLE_XET when it is imported, so it runs in a process of its own, which
`python_server` starts; give each server a fresh home. Not served: Xet, pull requests, discussions, Spaces' runtimes. The files of a gated
repository are for its owners alone.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode

import uvicorn
import yaml
from python_server import run_python
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

BAD_TOKEN = "Invalid credentials in Authorization header"  # the client tells a bad token from a missing repository by this text
_LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".npy", ".npz", ".parquet", ".arrow", ".zip", ".gz", ".tar")
_LFS_SIZE = 10 * 1024 * 1024
_PREFIXED = {"license": "license", "datasets": "dataset", "base_model": "base_model", "language": "language"}  # card key -> tag
_RESULT = {"task": {"type": ...}, "dataset": {"type": ..., "name": ...}, "metrics": [{"type": ..., "value": ...}]}
_INDEX = [{"name": ..., "results": [_RESULT]}]
_LISTED = ("id", "modelId", "private", "tags", "pipeline_tag", "library_name", "downloads", "likes", "createdAt")


class Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None, **body):
        super().__init__(message)
        line = " ".join(message.split()).encode("ascii", "replace").decode()  # a header is one line
        named = {"X-Error-Message": line} | ({"X-Error-Code": code} if code else {})
        self.response = Json({"error": message} | body, status, headers=named | dict(headers or {}))


class Json(JSONResponse):
    def render(self, content) -> bytes:
        return json.dumps(content, default=str).encode()  # a card's YAML may hold dates


class Entry(NamedTuple):
    """A file of one commit."""

    etag: str  # SHA-256 of an LFS object, git's name of any other blob
    size: int
    lfs: bool

    def row(self, path: str) -> dict:
        if not self.lfs:
            return {"type": "file", "path": path, "oid": self.etag, "size": self.size}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.etag}\nsize {self.size}\n".encode()
        lfs = {"oid": self.etag, "size": self.size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "oid": _git_name(pointer), "size": self.size, "lfs": lfs}


class Commit(NamedTuple):
    sha: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Entry]


@dataclass
class Repository:
    kind: str  # models, datasets or spaces
    name: str  # namespace/name
    private: bool = False
    gated: str | bool = False
    created: str = field(default_factory=lambda: _now())
    downloads: int = 0
    likes: int = 0
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.name.split("/")[0]

    @property
    def address(self) -> str:
        return self.name if self.kind == "models" else f"{self.kind}/{self.name}"

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def commit(self, branch: str, files: dict[str, Entry], author: str, title: str, message: str = "") -> Commit:
        what = (self.branches.get(branch), title, message, author, _now(), files)
        commit = Commit(hashlib.sha1(json.dumps(what).encode()).hexdigest(), *what)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit


@dataclass
class Call:
    """One request, as the routes below see it."""

    request: Request
    account: Sequence[str]  # the user and its organisations, () if anonymous
    kind: str
    revision: str
    path: str
    repository: Repository | None = None

    @property
    def query(self):
        return self.request.query_params


class Fault(NamedTuple):
    method: str
    pattern: str
    status: int | None  # None: the connection is cut
    message: str
    answered: bool


_PARTS = {
    "{kind}": "(?P<kind>models|datasets|spaces)",
    "{prefix}": "(?:(?P<kind>datasets|spaces)/)?",
    "{name}": "(?P<name>[^/]+?(?:/[^/]+?)?)",
    "{revision}": "(?P<revision>[^/]+)",
    "{path}": "(?P<path>.+)",
}
_ROUTES: list[tuple[re.Pattern, str | None, Callable]] = []


def _route(methods: str, template: str, right: str | None = "read"):
    """right: what the account needs on the repository; None leaves that to the route."""
    for part, pattern in _PARTS.items():
        template = template.replace(part, pattern)

    def register(function):
        _ROUTES.append((re.compile(f"(?:{methods}) {template}"), right, function))
        return function

    return register


class HubServer:
    """tokens: token -> the user's name, or (user, organisation, ...); all of them are namespaces that the token may write in."""

    def __init__(self, tokens: Mapping[str, str | Sequence[str]], page_size: int = 1000):
        self.tokens = {token: (names,) if isinstance(names, str) else tuple(names) for token, names in tokens.items()}
        self.page_size = page_size
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.collections: dict[str, dict] = {}  # by slug
        self.log: list[tuple[str, str]] = []  # (method, path as sent, without the query)
        self.role = "write"  # of all tokens, as the Hub tells it
        self._faults: list[Fault] = []
        self._key = secrets.token_bytes(16)

    def __enter__(self) -> "HubServer":
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(self, http="h11", ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_) -> None:
        self._server.should_exit = True
        self._thread.join()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Of a process whose Hub is this server and whose cache is `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        chosen = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        chosen |= {f"HF_HUB_DISABLE_{name}": "1" for name in ("XET", "TELEMETRY", "PROGRESS_BARS")}
        return kept | chosen | ({"HF_TOKEN": token} if token else {})

    def run_python(self, code: str, home: Path, token: str | None = None) -> subprocess.CompletedProcess:
        return run_python(code, env=self.environment(home, token))

    def add(self, name: str, files: Mapping[str, str | bytes], kind: str = "models", private: bool = False) -> Repository:
        """Commits `files` without a client, in a new repository if there is none of that name."""
        repository = self.repositories.setdefault((kind, name), Repository(kind, name, private))
        entries = dict(repository.at("main").files) if repository.branches else {}
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entries[path] = self._keep(data, _is_lfs(path, len(data), data[:512]))
        repository.commit("main", entries, repository.namespace, "Add files")
        return repository

    def repository(self, name: str, kind: str = "models") -> Repository:
        return self.repositories[kind, name]

    def files(self, name: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        return {path: self.objects[entry.etag] for path, entry in self.repository(name, kind).at(revision).files.items()}

    def revoke(self, token: str) -> None:
        del self.tokens[token]

    def fail(self, method: str, pattern: str, status: int = 503, times: int = 1, message: str | None = None) -> None:
        """Refuses the next `times` requests whose path holds a match of the regular expression `pattern`."""
        text = message or (BAD_TOKEN if status == 401 else "injected by the test")
        self._faults += [Fault(method, pattern, status, text, False)] * times

    def cut(self, method: str, pattern: str, times: int = 1, answered: bool | None = None) -> None:
        """Closes the connection half-way through the body of the next `times` such requests.

        answered: the cut goes through the answer, after the request was carried out, as it does for any GET; else through the
        request, which is lost.
        """
        self._faults += [Fault(method, pattern, None, "", method == "GET" if answered is None else answered)] * times

    async def __call__(self, scope, receive, send) -> None:
        request = Request(scope, receive)
        # A revision or folder may hold an encoded slash, which the decoded path no longer tells from a separator.
        method, path = scope["method"], scope["raw_path"].decode()
        self.log.append((method, path))
        hit = next((at for at, fault in enumerate(self._faults) if fault.method == method and re.search(fault.pattern, path)), None)
        fault = None if hit is None else self._faults.pop(hit)
        cut = fault is not None and fault.status is None
        # uvicorn has no public way to drop a connection; the callable is its method.
        transport = receive.__self__.transport
        try:
            if cut and not fault.answered:
                half, received = int(request.headers.get("Content-Length", 0)) // 2, 0
                while received < half and (message := await receive())["type"] == "http.request":
                    received += len(message["body"])
                return await _hang_up(transport, receive)
            if fault and not cut:
                raise Refused(fault.status, fault.message)
            response = await self._answer(request, method, path)
        except Refused as refused:
            response = refused.response
        except ClientDisconnect:
            return
        if cut:
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await send({"type": "http.response.body", "body": response.body[: len(response.body) // 2], "more_body": True})
            return await _hang_up(transport, receive)
        await response(scope, receive, send)

    async def _answer(self, request: Request, method: str, path: str) -> Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise Refused(401, BAD_TOKEN)
        account = self.tokens.get(token, ())
        for pattern, right, function in _ROUTES:
            if match := pattern.fullmatch(f"{method} {path}"):
                parts = {name: unquote(value) for name, value in match.groupdict().items() if value}
                call = Call(request, account, parts.get("kind", "models"), parts.get("revision", "main"), parts.get("path", ""))
                if "name" in parts:
                    call.repository = self._find(call, parts["name"], right)
                return await function(self, call)
        raise Refused(404, "Sorry, we can't find the page you are looking for.")

    def _find(self, call: Call, name: str, right: str | None) -> Repository:
        repository = self.repositories.get((call.kind, name))
        member = repository is not None and repository.namespace in call.account
        if repository is None or (right and repository.private and not member):
            raise Refused(404 if call.account else 401, "Repository not found", "RepoNotFound")
        if right == "write" and not member:
            raise Refused(403 if call.account else 401, f"You don't have the rights to write in {name}")
        return repository

    def _keep(self, data: bytes, lfs: bool) -> Entry:
        entry = Entry(hashlib.sha256(data).hexdigest() if lfs else _git_name(data), len(data), lfs)
        self.objects[entry.etag] = data
        return entry

    def _signature(self, repository: Repository, oid: str) -> str:
        return hmac.new(self._key, f"{repository.address} {oid}".encode(), "sha256").hexdigest()

    @_route("GET", "/api/whoami-v2")
    async def _whoami(self, call: Call) -> Response:
        if not call.account:
            raise Refused(401, "Invalid username or password.")
        user, *organisations = call.account
        named = [{"type": "org", "name": name, "fullname": name, "roleInOrg": "write"} for name in organisations]
        access = {"type": "access_token", "accessToken": {"displayName": "tests", "role": self.role}}
        return Json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": named, "auth": access})

    @_route("POST", "/api/repos/create")
    async def _create(self, call: Call) -> Response:
        body = await call.request.json()
        kind, namespace = (body.get("type") or "model") + "s", body.get("organization") or next(iter(call.account), None)
        name = f"{namespace}/{body['name']}"
        url = f"{self.url}/{Repository(kind, name).address}"
        if namespace not in call.account:
            raise Refused(403 if call.account else 401, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        if (kind, name) in self.repositories:
            raise Refused(409, "You already created this repo", url=url)
        if not re.fullmatch(r"\w[\w.-]{0,95}", body["name"]):
            raise Refused(400, f"Invalid repository name: {body['name']}")
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS_SUFFIXES)
        self.add(name, {".gitattributes": attributes}, kind, body.get("visibility") == "private")
        return Json({"url": url, "name": name, "id": name})

    @_route("POST", "/api/collections")
    async def _create_collection(self, call: Call) -> Response:
        body = await call.request.json()
        title, owner = body["title"], body["namespace"]
        if owner not in call.account:
            raise Refused(403 if call.account else 401, f"You don't have the rights to create a collection in {owner}")
        if not 0 < len(title) <= 60:
            raise Refused(400, "a title has 1 to 60 characters")
        slug = f"{owner}/{re.sub('[^a-z0-9]+', '-', title.lower())}-{hashlib.sha1(f'{owner} {title}'.encode()).hexdigest()[:24]}"
        if slug in self.collections:
            raise Refused(409, "This collection already exists", slug=slug)
        fixed = {"lastUpdated": _now(), "position": 0, "theme": "orange", "upvotes": 0, "private": body["private"]}
        self.collections[slug] = {"slug": slug, "title": title, "owner": {"name": owner}, "items": [], **fixed}
        return Json(self.collections[slug])

    @_route("POST", "/api/collections/{path}/items")
    async def _add_item(self, call: Call) -> Response:
        item = (await call.request.json())["item"]
        collection = self.collections.get(call.path)
        if collection is None or (f"{item['type']}s", item["id"]) not in self.repositories:
            raise Refused(404, "Not found")
        if collection["owner"]["name"] not in call.account:
            raise Refused(403, "You don't have the rights to write in this collection")
        if any(known["id"] == item["id"] and known["type"] == item["type"] for known in collection["items"]):
            raise Refused(409, "This item is in the collection already")
        collection["items"].append({"_id": f"{len(collection['items']):024x}", **item, "position": len(collection["items"])})
        return Json(collection)

    @_route("GET", "/api/collections/{path}")
    async def _collection(self, call: Call) -> Response:
        if call.path not in self.collections:
            raise Refused(404, "Collection not found")
        return Json(self.collections[call.path])

    @_route("PUT", "/api/{kind}/{name}/settings", "write")
    async def _settings(self, call: Call) -> Response:
        body = await call.request.json()
        call.repository.private = body.get("visibility", call.repository.private) in ("private", True)
        return Json({"private": call.repository.private})

    @_route("POST", "/api/validate-yaml")
    async def _validate(self, call: Call) -> Response:
        errors, warnings = _check_card((await call.request.json())["content"])
        lists = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        return Json(lists, 400 if errors else 200)

    @_route("POST", "/api/{kind}/{name}/preupload/{revision}", "write")
    async def _preupload(self, call: Call) -> Response:
        files, rows = call.repository.at(call.revision).files, []
        for file in (await call.request.json())["files"]:
            path, lfs = file["path"], _is_lfs(file["path"], file["size"], base64.b64decode(file["sample"]))
            oid = files[path].etag if path in files else None
            rows.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        return Json({"files": rows})

    @_route("POST", "/{prefix}{name}[.]git/info/lfs/objects/batch", "write")
    async def _batch(self, call: Call) -> Response:
        address, rows = f"{self.url}/{call.repository.address}.git/info/lfs", []
        for requested in (await call.request.json())["objects"]:
            oid, row = requested["oid"], {"oid": requested["oid"], "size": requested["size"]}
            if oid not in self.objects:
                # The client sends no token with the upload itself.
                upload = f"{address}/objects/{oid}?signature={self._signature(call.repository, oid)}"
                row["actions"] = {"upload": {"href": upload}, "verify": {"href": f"{address}/verify"}}
            rows.append(row)
        return Json({"transfer": "basic", "objects": rows}, media_type="application/vnd.git-lfs+json")

    @_route("PUT", "/{prefix}{name}[.]git/info/lfs/objects/{path}", right=None)
    async def _put(self, call: Call) -> Response:
        if not hmac.compare_digest(call.query.get("signature", ""), self._signature(call.repository, call.path)):
            raise Refused(403, "SignatureDoesNotMatch")
        data = await call.request.body()
        if hashlib.sha256(data).hexdigest() != call.path:
            raise Refused(400, "the content is not what its name says")
        return Response(headers={"ETag": f'"{self._keep(data, lfs=True).etag}"'})

    @_route("POST", "/{prefix}{name}[.]git/info/lfs/verify", "write")
    async def _verify(self, call: Call) -> Response:
        body = await call.request.json()
        if len(self.objects.get(body["oid"], b"")) != body["size"]:
            raise Refused(422, "the object was not uploaded")
        return Json({})

    @_route("POST", "/api/{kind}/{name}/commit/{revision}", "write")
    async def _commit(self, call: Call) -> Response:
        if call.query.get("create_pr"):
            raise Refused(501, "this Hub has no pull requests")
        if call.revision not in call.repository.branches:
            raise Refused(404, f"Invalid rev id: {call.revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in (await call.request.body()).splitlines() if line.strip()]
        # Nothing awaits from here on, so commits are atomic and happen one after the other.
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = call.repository.at(call.revision)
        if header.get("parentCommit") not in (None, head.sha):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            self._apply(files, line["key"], line["value"])
        commit = call.repository.commit(call.revision, files, call.account[0], header["summary"], header.get("description", ""))
        url = f"{self.url}/{call.repository.address}/commit/{commit.sha}"
        return Json({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    def _apply(self, files: dict[str, Entry], key: str, value: dict) -> None:
        if key == "header":
            return
        path = value["path"]
        if {"", ".", "..", ".git"} & set(path.removesuffix("/").split("/")):
            raise Refused(422, f"Invalid path: {path}")
        if key == "file":
            data = base64.b64decode(value["content"]) if value.get("encoding") == "base64" else value["content"].encode()
            if path == "README.md" and (errors := _check_card(data.decode())[0]):
                raise Refused(400, "Invalid metadata in README.md: " + "; ".join(errors))
            files[path] = self._keep(data, lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise Refused(422, f"The LFS object of {path} was not uploaded")
            files[path] = Entry(value["oid"], len(self.objects[value["oid"]]), True)
        elif key in ("deletedFile", "deletedFolder"):
            folder = path.removesuffix("/") + "/"
            gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(folder))]
            if not gone:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refused(400, f"Unknown operation: {key}")

    @_route("POST", "/api/{kind}/{name}/tag/{revision}", "write")
    async def _tag(self, call: Call) -> Response:
        name = (await call.request.json())["tag"]
        if name in call.repository.tags:
            raise Refused(409, f"Tag {name} already exists")
        call.repository.tags[name] = call.repository.at(call.revision).sha
        return Json({})

    @_route("POST", "/api/{kind}/{name}/super-squash/{revision}", "write")
    async def _squash(self, call: Call) -> Response:
        repository = call.repository
        files = repository.at(call.revision).files
        del repository.branches[call.revision]
        repository.commit(call.revision, files, call.account[0], "Super-squash")
        return Json({})

    @_route("GET", "/api/{kind}/{name}/refs")
    async def _references(self, call: Call) -> Response:
        def listed(references: dict[str, str], place: str) -> list[dict]:
            return [{"name": name, "ref": f"refs/{place}/{name}", "targetCommit": sha} for name, sha in references.items()]

        repository = call.repository
        return Json({"branches": listed(repository.branches, "heads"), "tags": listed(repository.tags, "tags"), "converts": []})

    @_route("GET", "/api/{kind}/{name}/commits/{revision}")
    async def _commits(self, call: Call) -> Response:
        return Json(
            [
                {"id": sha, "authors": [{"user": author}], "date": date, "title": title, "message": message}
                for sha, _, title, message, author, date, _ in call.repository.history(call.revision)
            ]
        )

    @_route("GET", "/api/{kind}/{name}/tree/{revision}(?:/{path})?")
    async def _tree(self, call: Call) -> Response:
        commit = call.repository.at(call.revision)
        below = [row for row in _rows(commit.files) if not call.path or row["path"].startswith(call.path + "/")]
        if not below and call.path:
            raise _no_entry(call.path, commit)
        if call.query.get("recursive", "").lower() not in ("true", "1"):
            below = [row for row in below if "/" not in row["path"][len(call.path) + bool(call.path) :]]
        return Json(below)

    @_route("POST", "/api/{kind}/{name}/paths-info/{revision}")
    async def _paths_info(self, call: Call) -> Response:
        requested = parse_qs((await call.request.body()).decode()).get("paths", [])
        return Json([row for row in _rows(call.repository.at(call.revision).files) if row["path"] in requested])

    @_route("GET|HEAD", "/{prefix}{name}/resolve/{revision}/{path}")
    async def _resolve(self, call: Call) -> Response:
        if call.repository.gated and call.repository.namespace not in call.account:
            raise Refused(403 if call.account else 401, f"Access to model {call.repository.name} is restricted.", "GatedRepo")
        commit = call.repository.at(call.revision)
        if call.path not in commit.files:
            raise _no_entry(call.path, commit)
        entry = commit.files[call.path]
        data, status = self.objects[entry.etag], 200
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
        if entry.lfs:
            headers |= {"X-Linked-Etag": f'"{entry.etag}"', "X-Linked-Size": str(entry.size)}
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", call.request.headers.get("Range", "")):
            first, last = match.groups()
            start = int(first) if first else max(entry.size - int(last), 0)
            end = min(int(last), entry.size - 1) if first and last else entry.size - 1
            if start > end:
                raise Refused(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{entry.size}"})
            data, status = data[start : end + 1], 206
            headers["Content-Range"] = f"bytes {start}-{end}/{entry.size}"
        return Response(data, status, headers, media_type="application/octet-stream")

    @_route("GET", "/api/{kind}")
    async def _list(self, call: Call) -> Response:
        query, wanted = call.query, set(call.query.getlist("filter"))
        found = [
            self._describe(repository, repository.at("main"))
            for repository in reversed(self.repositories.values())
            if repository.kind == call.kind
            and (not repository.private or repository.namespace in call.account)
            and query.get("author") in (None, repository.namespace)
            and query.get("search", "").lower() in repository.name.lower()
        ]
        found = [row for row in found if wanted <= set(row["tags"]) and query.get("pipeline_tag") in (None, row["pipeline_tag"])]
        if sort := query.get("sort"):
            found.sort(key=lambda row: row[sort], reverse=True)
        start, count = int(query.get("cursor", 0)), min(int(query.get("limit", self.page_size)), self.page_size)
        fields = list(_LISTED)
        fields += ["author", "sha", "lastModified", "gated", "siblings"] if query.get("full") else []
        fields += [name for name in ("cardData", "config") if query.get(name)]
        rows = [_only(row, query.getlist("expand") or fields) for row in found[start : start + count]]
        if start + count >= len(found):
            return Json(rows)
        following = [(name, value) for name, value in query.multi_items() if name != "cursor"] + [("cursor", start + count)]
        return Json(rows, headers={"Link": f'<{self.url}/api/{call.kind}?{urlencode(following)}>; rel="next"'})

    # Last, because a name is as long as it can be: "a/refs" is one too.
    @_route("GET", "/api/{kind}/{name}(?:/revision/{revision})?")
    async def _info(self, call: Call) -> Response:
        row = self._describe(call.repository, call.repository.at(call.revision), blobs=bool(call.query.get("blobs")))
        return Json(_only(row, call.query.getlist("expand") or list(row)))

    def _describe(self, repository: Repository, commit: Commit, blobs: bool = False) -> dict:
        def read(path: str) -> str:
            return self.objects[commit.files[path].etag].decode() if path in commit.files else ""

        try:
            card, config = _front_matter(read("README.md")) or {}, json.loads(read("config.json") or "{}")
        except (yaml.YAMLError, ValueError):
            card, config = {}, {}
        card = card if isinstance(card, dict) else {}
        tags = [*_as_list(card.get("tags")), card.get("library_name"), card.get("pipeline_tag"), config.get("model_type"), "region:us"]
        tags += [f"{tag}:{value}" for key, tag in _PREFIXED.items() for value in _as_list(card.get(key))]
        tags += ["model-index"] * ("model-index" in card)
        siblings = []
        for row in (entry.row(path) for path, entry in sorted(commit.files.items())):
            lfs = {"lfs": {"sha256": row["lfs"]["oid"], **row["lfs"]}} if "lfs" in row else {}
            siblings.append({"rfilename": row["path"]} | ({"size": row["size"], "blobId": row["oid"]} | lfs if blobs else {}))
        return {
            "id": repository.name,
            "modelId": repository.name,
            "author": repository.namespace,
            "sha": commit.sha,
            "private": repository.private,
            "gated": repository.gated,
            "disabled": False,
            "downloads": repository.downloads,
            "downloadsAllTime": repository.downloads,
            "likes": repository.likes,
            "createdAt": repository.created,
            "lastModified": commit.date,
            "tags": list(dict.fromkeys(filter(None, tags))),
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "cardData": card,
            "model-index": card.get("model-index"),
            "config": {key: config[key] for key in ("architectures", "model_type", "auto_map") if key in config},
            "siblings": siblings,
        }


async def _hang_up(transport, receive) -> None:
    transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_lfs(path: str, size: int, sample: bytes) -> bool:
    return size > 0 and (path.endswith(_LFS_SUFFIXES) or size > _LFS_SIZE or b"\0" in sample)


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value] if value else []


def _only(row: dict, fields: Sequence[str]) -> dict:
    if unknown := [name for name in fields if name not in row]:
        raise Refused(400, f"Invalid fields to expand: {', '.join(unknown)}")
    return {name: row[name] for name in ("id", *fields)}


def _no_entry(path: str, commit: Commit) -> Refused:
    # Without the commit the client cannot remember that the file is absent.
    return Refused(404, f"Entry not found: {quote(path)}", "EntryNotFound", {"X-Repo-Commit": commit.sha})


def _rows(files: dict[str, Entry]) -> list[dict]:
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    rows = [{"type": "directory", "path": path, "oid": _git_name(path.encode()), "size": 0} for path in sorted(folders)]
    return rows + [entry.row(path) for path, entry in sorted(files.items())]


def _front_matter(text: str):
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    return yaml.safe_load(match[1]) if match else None


def _check_card(text: str) -> tuple[list[str], list[str]]:
    """(errors, warnings)"""
    try:
        card = _front_matter(text)
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {error}"], []
    if not card:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card, dict):
        return ["the metadata must be an object"], []
    return _missing(_INDEX, card["model-index"], "model-index") if "model-index" in card else [], []


def _missing(shape, value, place: str) -> list[str]:
    if isinstance(shape, dict):
        found = value if isinstance(value, dict) else {}
        return [text for key, inner in shape.items() for text in _missing(inner, found.get(key), f"{place}.{key}")]
    if isinstance(shape, list):
        items = value if isinstance(value, list) else []
        texts = [text for index, item in enumerate(items) for text in _missing(shape[0], item, f"{place}[{index}]")]
        return texts if items else [f'"{place}" must be an array of at least one']
    return [f'"{place}" is required'] if value in (None, "") else []
