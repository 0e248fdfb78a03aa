"""A fake Hub on loopback: repositories in memory, and the endpoints that huggingface_hub's client uses.

It checks that what is sent can be read back and that commits are complete, and it can misbehave in tests of the client.
It is not the Hub: it has no Xet, no large files in parts, no search, and one token.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_standinstandinstandin"  # noqa: S105 - what the stand-in takes for one
LARGE = (".safetensors", ".png")


class File(NamedTuple):
    """A file of a commit; large ones are kept as the Hub keeps them, by SHA-256."""

    content: bytes
    large: bool

    @property
    def blob(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content, usedforsecurity=False).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob


class Repository:
    """Commits by name, and the references to them."""

    def __init__(self, private: bool):
        self.private = private
        self.commits: dict[str, tuple[str, dict[str, File]]] = {}
        self.references: dict[str, str] = {}
        self.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, "initial commit")

    def commit(self, reference: str, files: dict[str, File], message: str) -> str:
        """Point ``reference`` at a new commit."""
        content = f"{len(self.commits)} {message} {sorted((name, file.blob) for name, file in files.items())}"
        oid = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = message, files
        self.references[reference] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.references.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The content of every file."""
        return {name: file.content for name, file in self.commits[self.references[revision]][1].items()}


class Trouble(NamedTuple):
    """What goes wrong for requests that match.

    A status, "cut" for half a body, "hang" for silence until the server stops, "drip" for a header of a letter now and
    then, "flood" for a body without an end, "wait" for the wish to be asked again in two hours, or "empty" for a list
    without entries.
    """

    pattern: str
    kind: int | str
    times: list[int]


class Hub(ThreadingHTTPServer):
    """The server; ``address`` is its endpoint."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.troubles: list[Trouble] = []
        self.requests: list[str] = []
        self.reached = threading.Event()
        self.stopping = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def trouble(self, pattern: str, kind: int | str, times: int = 1) -> None:
        """Let the next ``times`` requests that match "METHOD path" go wrong."""
        self.troubles.append(Trouble(pattern, kind, [times]))

    def next_trouble(self, request: str) -> int | str | None:
        for trouble in self.troubles:
            if trouble.times[0] and re.search(trouble.pattern, request):
                trouble.times[0] -= 1
                return trouble.kind
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def running() -> Iterator[Hub]:
    """A server that runs until the end of the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopping.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


@contextmanager
def in_place_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server that the client of this process uses, with a token, and with a cache in ``folder``."""
    with running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no_token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once, for the Hub of that time
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


_KIND = r"(?P<kind>models|spaces)"
_ID = r"(?P<id>[\w.-]+/[\w.-]+)"


class Handler(BaseHTTPRequestHandler):
    """One method per endpoint; `ROUTES` says which."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._dispatch("GET")

    def do_HEAD(self) -> None:
        self._dispatch("HEAD")

    def do_POST(self) -> None:
        self._dispatch("POST")

    def do_PUT(self) -> None:
        self._dispatch("PUT")

    def log_message(self, *_arguments: Any) -> None:
        """Print nothing."""

    def _dispatch(self, method: str) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self._read_body()
        request = f"{method} {unquote(parts.path)}"
        self.server.requests.append(request)
        trouble = self.server.next_trouble(request)
        self.cut = trouble == "cut"
        if trouble == "hang":
            self.server.reached.set()
            self.server.stopping.wait()
            self.close_connection = True
            return
        if isinstance(trouble, int):
            self._json({"error": f"trouble {trouble}"}, trouble)
            return
        if trouble in MISBEHAVIOURS:
            MISBEHAVIOURS[trouble](self)
            return
        for pattern, endpoint in ROUTES.items():
            found = re.fullmatch(pattern, f"{'GET' if method == 'HEAD' else method} {parts.path}")
            if found:
                endpoint(self, **{name: unquote(value) for name, value in found.groupdict().items() if value})
                return
        self._json({"error": f"no such endpoint: {request}"}, 404)

    def drip(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.server.stopping.wait(0.05):
            self.wfile.write(b"x")

    def flood(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not self.server.stopping.is_set():
            self.wfile.write(bytes(2**20))

    def wait(self) -> None:
        self._json({"error": "later"}, 429, **{"Retry-After": "7200"})

    def empty(self) -> None:
        self._json([])

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.cut else content)
        if self.cut:
            self.close_connection = True

    def _json(self, answer: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **headers})

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._json({"error": "Invalid credentials in Authorization header"}, 401)
        return False

    def _repository(self, kind: str, name: str) -> Repository | None:
        found = self.server.repositories.get(f"{kind}/{name}")
        hidden = found is not None and found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if found is None or hidden:
            self._json({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def _commit(self, kind: str, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self._repository(kind, name)
        if repository is None:
            return None
        oid = repository.resolve(revision)
        if oid is None:
            self._json({"error": "Revision not found"}, 404, **{"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, oid

    def who_am_i(self) -> None:
        if self._may_write():
            self._json({"name": "me", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def validate_card(self) -> None:
        content = json.loads(self.body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no front-matter"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self) -> None:
        if not self._may_write():
            return
        asked = json.loads(self.body)
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.server.address}/{'spaces/' if kind == 'spaces' else ''}{name}"
        known = f"{kind}/{name}" in self.server.repositories
        if not known:
            self.server.repositories[f"{kind}/{name}"] = Repository(asked.get("visibility") == "private")
        self._json({"url": url, "name": name}, 409 if known else 200)

    def branch(self, kind: str, id: str, branch: str) -> None:
        repository = self._repository(kind, id)
        if repository is not None and self._may_write():
            if branch in repository.references:
                self._json({"error": "Reference already exists"}, 409)
            else:
                repository.references[branch] = repository.references["main"]
                self._json({})

    def preupload(self, kind: str, id: str, revision: str) -> None:
        found = self._commit(kind, id, revision)
        if found is None or not self._may_write():
            return
        present = found[0].commits[found[1]][1]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": present[file["path"]].etag if file["path"] in present else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def batch(self, id: str) -> None:
        if not self._may_write():
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.address}/large/{asked['oid']}"}
            verify = {"href": f"{self.server.address}/verify", "header": {}}
            known = asked["oid"] in self.server.large
            objects.append({**asked, **({} if known else {"actions": {"upload": upload, "verify": verify}})})
        self._json({"transfer": "basic", "objects": objects})

    def put_large(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._json({"error": "the body is not what was announced"}, 400)
            return
        self.server.large[oid] = self.body
        self._send(200, b"", {})

    def verify_large(self) -> None:
        known = json.loads(self.body)["oid"] in self.server.large
        self._json({}, 200 if known else 404)

    def commit(self, kind: str, id: str, revision: str) -> None:
        found = self._commit(kind, id, revision)
        if found is None or not self._may_write():
            return
        repository, oid = found
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        pull_request = self.query.get("create_pr") == ["1"]
        if header.get("parentCommit") not in (None, oid) and not pull_request:
            self._json({"error": "The branch has moved since the parent commit"}, 412)
            return
        files = dict(repository.commits[oid][1])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    files[value["path"]] = File(self.server.large[value["oid"]], True)
                case "deletedFile":
                    del files[value["path"]]
        number = sum(name.startswith("refs/pr/") for name in repository.references) + 1
        reference = f"refs/pr/{number}" if pull_request else revision
        new = repository.commit(reference, files, header["summary"])
        url = f"{self.server.address}/{id}"
        answer = {"success": True, "commitUrl": f"{url}/commit/{new}", "commitOid": new}
        self._json(answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if pull_request else {}))

    def info(self, kind: str, id: str, revision: str = "main") -> None:
        found = self._commit(kind, id, revision)
        if found is not None:
            repository, oid = found
            names = [{"rfilename": name} for name in sorted(repository.commits[oid][1])]
            self._json({"_id": "0", "id": id, "sha": oid, "private": repository.private, "tags": [], "siblings": names})

    def tree(self, kind: str, id: str, revision: str) -> None:
        found = self._commit(kind, id, revision)
        if found is not None:
            self._json(
                [
                    {"type": "file", "path": name, "size": len(file.content), "oid": file.blob}
                    | ({"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 1}} if file.large else {})
                    for name, file in sorted(found[0].commits[found[1]][1].items())
                ]
            )

    def commits(self, kind: str, id: str, revision: str) -> None:
        found = self._commit(kind, id, revision)
        if found is not None:
            listed = [{"id": oid, "title": message} for oid, (message, _) in found[0].commits.items()]
            self._json([entry | {"message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []} for entry in listed])

    def resolve(self, id: str, revision: str, path: str, space: str | None = None) -> None:
        found = self._commit("spaces" if space else "models", id, revision)
        if found is None:
            return
        repository, oid = found
        file = repository.commits[oid][1].get(path)
        if file is None:
            self._json({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
            return
        headers = {"X-Repo-Commit": oid, "ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))} if file.large else {}
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        self._send(206 if start else 200, file.content[int(start[1]) if start else 0 :], headers | linked)


MISBEHAVIOURS: dict[Any, Callable[[Handler], None]] = {
    "drip": Handler.drip,
    "flood": Handler.flood,
    "wait": Handler.wait,
    "empty": Handler.empty,
}
ROUTES: dict[str, Callable[..., None]] = {
    "GET /api/whoami-v2": Handler.who_am_i,
    "POST /api/validate-yaml": Handler.validate_card,
    "POST /api/repos/create": Handler.create,
    rf"POST /api/{_KIND}/{_ID}/branch/(?P<branch>[^/]+)": Handler.branch,
    rf"POST /api/{_KIND}/{_ID}/preupload/(?P<revision>[^/]+)": Handler.preupload,
    rf"POST /(?:spaces/)?{_ID}\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /large/(?P<oid>\w+)": Handler.put_large,
    "POST /verify": Handler.verify_large,
    rf"POST /api/{_KIND}/{_ID}/commit/(?P<revision>[^/]+)": Handler.commit,
    rf"GET /api/{_KIND}/{_ID}(?:/revision/(?P<revision>[^/]+))?": Handler.info,
    rf"GET /api/{_KIND}/{_ID}/tree/(?P<revision>[^/]+)(?:/.*)?": Handler.tree,
    rf"GET /api/{_KIND}/{_ID}/commits/(?P<revision>[^/]+)": Handler.commits,
    rf"GET /(?P<space>spaces/)?{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": Handler.resolve,
}
