"""A Hub on this machine: the requests that huggingface_hub 2.4 makes for models, as E§4 measured them, and its faults.

It starts when this file is imported; ENVIRONMENT leads there, and must be set before huggingface_hub is imported (E§0
39). What the server does not know is written down in `unknown`: a test that finds a request there has
found a new protocol.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


Files = dict[str, bytes]


@dataclass
class Repo:
    """Branches and tags point at commits, which hold files."""

    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, ref: str, files: Files) -> str:
        """A new commit at the end of a branch; its sha."""
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha], self.refs[ref] = files, sha
        return sha

    def files(self, ref: str = "main") -> Files:
        """What a branch, tag or commit holds."""
        return self.commits[self.refs.get(ref, ref)]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD path" fits."""

    pattern: str
    kind: int | str  # a status, or "garbage", "truncate", "stall", "hang up"
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """The server; `url` is its address. Tokens may write to the names of their owners."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, str] = {}  # token -> the name that it may write to
        self.blobs: Files = {}  # by sha256: large files on their way
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.unknown: list[str] = []
        self.lfs = False  # whether weights go the way of large files
        self.released = threading.Event()  # ends stalls
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """No repos, no faults, nothing seen."""
        self.released.set()
        self.repos, self.blobs, self.faults, self.seen, self.unknown, self.lfs = {}, {}, [], [], [], False
        self.released = threading.Event()


class _Refused(Exception):
    """An answer that is an error of the Hub's."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        """Any request: find the route, or write down that there is none."""
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        asked = f"{self.command} {url.path}"
        self.server.seen.append(asked)
        fault = next((f for f in self.server.faults if f.times and re.search(f.pattern, asked)), None)
        try:
            if fault is not None:
                fault.times -= 1
                self._fail(fault)
                return
            for pattern, route in _ROUTES:
                found = re.fullmatch(pattern, asked)
                if found:
                    self._answer(*route(self, *map(unquote, found.groups())))
                    return
            self.server.unknown.append(asked)
            raise _Refused(418)
        except _Refused as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self._answer(b"", error.status, {k: v for k, v in headers.items() if v})

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None, cut: int = 0) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) - cut])

    def _fail(self, fault: Fault) -> None:
        if isinstance(fault.kind, int):
            self._answer(b"<html>Sorry</html>", fault.kind, fault.headers)
        elif fault.kind == "garbage":
            self._answer(b"<html>It works!</html>")
        else:
            self.close_connection = True
        if fault.kind == "truncate":
            self._answer(b"x" * 1000, headers={"ETag": '"cut"', "X-Repo-Commit": "0" * 40}, cut=500)
        elif fault.kind == "stall":
            self.server.released.wait(60)

    # Who may do what, as the Hub says it

    def _user(self) -> str | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        user = self.server.tokens.get(given.removeprefix("Bearer "))
        if user is None:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return user

    def _repo(self, name: str, write: bool = False) -> Repo:
        user, repo = self._user(), self.server.repos.get(name)
        owns = user == name.split("/")[0]
        if repo is None or (repo.private and not owns):
            if user is None:  # to strangers the Hub does not say what exists
                raise _Refused(401, message="Invalid username or password.")
            raise _Refused(404, "RepoNotFound", "Repository not found")
        if write and not owns:
            message = "you must use a write token" if user else "Invalid username or password."
            raise _Refused(403 if user else 401, message=message)
        return repo

    def _at(self, name: str, ref: str) -> tuple[str, Files]:
        repo = self._repo(name)
        sha = repo.refs.get(ref, ref)
        if sha not in repo.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {ref}")
        return sha, repo.commits[sha]

    # Routes

    def create(self) -> tuple[Any, ...]:
        values, user = json.loads(self.body), self._user()
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        if (values["organization"] or user) != user:
            raise _Refused(403, message="You don't have the rights to create a model under this namespace")
        name = f"{user}/{values['name']}"
        if name in self.server.repos:
            return {"url": f"{self.server.url}/{name}", "error": "You already created this model repo"}, 409
        repo = self.server.repos[name] = Repo(values.get("visibility") == "private" or bool(values.get("private")))
        repo.commit("main", {".gitattributes": b"*.bin filter=lfs\n"})
        return ({"url": f"{self.server.url}/{name}"},)

    def branch(self, name: str, ref: str) -> tuple[Any, ...]:
        repo = self._repo(name, write=True)
        if ref in repo.refs:
            raise _Refused(409)
        repo.refs[ref] = repo.refs["main"]
        return ({},)

    def validate(self) -> tuple[Any, ...]:
        from huggingface_hub import ModelCard

        try:
            card = ModelCard(json.loads(self.body)["content"])
        except Exception as error:
            return {"errors": [{"message": str(error)}], "warnings": []}, 400
        values = card.data.to_dict()
        bases = [values["base_model"]] if "base_model" in values else []
        wrong = [f"base_model {b!r} is no repo id" for b in bases if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(b))]
        wrong += [f"tag {t!r} is no text" for t in values.get("tags", []) if not isinstance(t, str)]
        wrong += ["no metadata"] if not values else []
        return {"errors": [{"message": m} for m in wrong], "warnings": []}, 400 if wrong else 200

    def preupload(self, name: str, ref: str) -> tuple[Any, ...]:
        self._repo(name, write=True)
        old = self._at(name, ref)[1]
        modes = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if self.server.lfs and path.endswith(".safetensors") else "regular"
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if path in old:
                modes[-1]["oid"] = _oid(old[path])
        return ({"files": modes},)

    def batch(self, name: str) -> tuple[Any, ...]:
        self._repo(name, write=True)
        objects = json.loads(self.body)["objects"]
        for one in objects:
            if one["oid"] not in self.server.blobs:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
        return ({"transfer": "basic", "objects": objects},)

    def put(self, oid: str) -> tuple[Any, ...]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400)
        self.server.blobs[oid] = self.body
        return (b"",)

    def commit(self, name: str, ref: str) -> tuple[Any, ...]:
        repo = self._repo(name, write=True)
        files = dict(self._at(name, ref)[1])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif item["key"] != "header":
                self.server.unknown.append(f"commit key {item['key']}")
        request = {}
        if "create_pr" in self.query:
            ref, request = "refs/pr/1", {"pullRequestUrl": f"{self.server.url}/{name}/discussions/1"}
        sha = repo.commit(ref, files)
        url = f"{self.server.url}/{name}/commit/{sha}"
        return ({"success": True, "commitOid": sha, "commitUrl": url, **request},)

    def info(self, name: str, ref: str = "main") -> tuple[Any, ...]:
        sha, files = self._at(name, ref)
        return ({"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]},)

    def tree(self, name: str, ref: str, folder: str = "") -> tuple[Any, ...]:
        files = {p: d for p, d in self._at(name, ref)[1].items() if p.startswith(folder)}
        if folder and not files:
            raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
        return ([{"type": "file", "path": p, "size": len(d), "oid": _oid(d)} for p, d in files.items()],)

    def resolve(self, name: str, ref: str, path: str) -> tuple[Any, ...]:
        sha, files = self._at(name, ref)
        if path not in files:
            return b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
        headers = {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": sha}
        return files[path], 200, headers


def _oid(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_ID, _REF = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
_ROUTES = [
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_ID}/branch/{_REF}", _Handler.branch),
    (rf"POST /api/models/{_ID}/preupload/{_REF}", _Handler.preupload),
    (rf"POST /api/models/{_ID}/commit/{_REF}", _Handler.commit),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(\w+)", _Handler.put),
    (rf"GET /api/models/{_ID}", _Handler.info),
    (rf"GET /api/models/{_ID}/revision/{_REF}", _Handler.info),
    (rf"GET /api/models/{_ID}/tree/{_REF}", _Handler.tree),
    (rf"GET /api/models/{_ID}/tree/{_REF}/(.+)", _Handler.tree),
    (rf"(?:HEAD|GET) /{_ID}/resolve/{_REF}/(.+)", _Handler.resolve),
]

assert "huggingface_hub" not in sys.modules
HUB = Hub()
TOKEN = "hf_" + "FaKe" * 8
_HOME = tempfile.TemporaryDirectory()
ENVIRONMENT = {
    "HF_ENDPOINT": HUB.url, "HF_HOME": _HOME.name, "HF_TOKEN": "", "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0",
    "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_PROXY": "127.0.0.1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
}  # fmt: skip
