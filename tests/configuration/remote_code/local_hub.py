"""A Hub on this machine: what huggingface_hub asks of huggingface.co to create a repository of models, push commits to
it and read its files, kept in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

USER = "tester"
NAME = r"(?P<name>[^/]+/[^/]+)"


@dataclass
class Repository:
    """The files of a repository after each commit; a commit is named by the hash of its files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add_commit({})

    def add_commit(self, files: dict[str, bytes]) -> str:
        """Keeps the files as the newest commit and returns its name."""
        content = json.dumps([len(self.commits), sorted((path, hash_file(data)) for path, data in files.items())])
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name] = files
        return name

    def find_commit(self, revision: str) -> str | None:
        """Returns the name of the commit of a revision, "main" or its own name."""
        newest = list(self.commits)[-1]
        return newest if revision == "main" else next((name for name in self.commits if name == revision), None)


class Answer(NamedTuple):
    """What the server answers: a status, a body (bytes, or JSON), headers."""

    status: HTTPStatus
    body: Any = b""
    headers: dict[str, str] = {}


def hash_file(data: bytes) -> str:
    """Returns git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def refuse(code: str, message: str, **headers: str) -> Answer:
    """Returns the answer for what is not there, as huggingface_hub tells its kinds apart."""
    return Answer(
        HTTPStatus.NOT_FOUND, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **headers}
    )


@dataclass
class LocalHub:
    """The repositories, and what is answered for each path."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    endpoint: str = ""

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Returns the answer to a request; the first pattern that fits decides."""
        for pattern, respond in (
            ("POST /api/repos/create", self.create),
            ("GET /api/whoami-v2", lambda body: Answer(HTTPStatus.OK, {"type": "user", "name": USER, "orgs": []})),
            ("POST /api/validate-yaml", lambda body: Answer(HTTPStatus.OK, {"errors": [], "warnings": []})),
            (f"POST /api/models/{NAME}/preupload/(?P<revision>.+)", self.plan_upload),
            (f"POST /api/models/{NAME}/commit/(?P<revision>.+)", self.commit),
            (f"GET /api/models/{NAME}/tree/(?P<revision>[^/]+)", self.list_files),
            (f"GET /api/models/{NAME}(/revision/(?P<revision>.+))?", self.describe),
            (f"(GET|HEAD) /{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.read),
        ):
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return self.find_revision(respond, found.groupdict(), body)
        return refuse("NotFound", f"no answer for {method} {path}")

    def find_revision(self, respond: Any, found: dict[str, str | None], body: bytes) -> Answer:
        """Calls a response with the repository and the commit that a path names, or says what is missing."""
        if "name" not in found:
            return respond(body)
        repository = self.repositories.get(str(found["name"]))
        if repository is None:
            return refuse("RepoNotFound", f"no repository {found['name']}")
        commit = repository.find_commit(found["revision"] or "main")
        if commit is None:
            return refuse("RevisionNotFound", f"no revision {found['revision']}")
        path = {"path": found["path"]} if "path" in found else {}
        return respond(repository, commit, body=body, name=str(found["name"]), **path)

    def create(self, body: bytes) -> Answer:
        """Creates a repository, or says that it exists."""
        asked = json.loads(body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        url = {"url": f"{self.endpoint}/{name}", "name": name, "id": name}
        if name in self.repositories:
            return Answer(HTTPStatus.CONFLICT, {"error": f"{name} exists", **url})
        self.repositories[name] = Repository()
        return Answer(HTTPStatus.OK, url)

    def plan_upload(self, repository: Repository, commit: str, body: bytes, name: str) -> Answer:
        """Says that every file comes inside the commit."""
        files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                 for each in json.loads(body)["files"]]  # fmt: skip
        return Answer(HTTPStatus.OK, {"files": files, "commitOid": commit})

    def commit(self, repository: Repository, commit: str, body: bytes, name: str) -> Answer:
        """Adds and deletes the files that the lines of JSON name."""
        files = dict(repository.commits[commit])
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        made = repository.add_commit(files)
        return Answer(HTTPStatus.OK, {"commitOid": made, "commitUrl": f"{self.endpoint}/{name}/commit/{made}"})

    def list_files(self, repository: Repository, commit: str, body: bytes, name: str) -> Answer:
        """Lists the files of a commit."""
        files = repository.commits[commit].items()
        return Answer(
            HTTPStatus.OK,
            [{"type": "file", "path": path, "size": len(data), "oid": hash_file(data)} for path, data in files],
        )

    def describe(self, repository: Repository, commit: str, body: bytes, name: str) -> Answer:
        """Describes a repository at a commit."""
        files = [{"rfilename": path} for path in repository.commits[commit]]
        return Answer(HTTPStatus.OK, {"id": name, "sha": commit, "private": False, "tags": [], "siblings": files})

    def read(self, repository: Repository, commit: str, body: bytes, name: str, path: str) -> Answer:
        """Returns the bytes of a file."""
        data = repository.commits[commit].get(path)
        if data is None:
            return refuse("EntryNotFound", f"no file {path}", **{"X-Repo-Commit": commit})
        return Answer(HTTPStatus.OK, data, {"X-Repo-Commit": commit, "ETag": f'"{hash_file(data)}"'})


def build_handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    """Returns the class that reads requests and writes the hub's answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            """Prints nothing."""

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def respond(self) -> None:
            status, body, headers = hub.answer(self.command, unquote(urlsplit(self.path).path), self.read_body())
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = respond

    return Handler


@contextmanager
def serve_hub() -> Iterator[LocalHub]:
    """Opens a hub at a free port of this machine; `endpoint` is its address."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), build_handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
