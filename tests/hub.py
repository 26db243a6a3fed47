"""A stand-in for the Hugging Face Hub on loopback: its HTTP protocol, as its real clients speak it.

Repositories are folders of bytes in memory. Faults are told in advance, by the end of a path, and
happen a given number of times: a status, a delay before the answer, a connection that is cut.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ERROR_CODES = {401: "GatedRepo", 404: "RepoNotFound"}


@dataclass
class Fault:
    """What happens to the next ``times`` requests of ``method`` whose path ends in ``ending``."""

    ending: str
    times: int
    method: str | None = None
    status: int | None = None
    delay_s: float = 0.0
    cut_after: int | None = None


class Hub:
    """Repositories, their faults, and the requests that came.

    Attributes:
        repositories: {"models/owner/name" or "datasets/owner/name": {path: bytes}}.
        requests: (method, path) of all requests so far.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []

    def add(self, name: str, files: dict[str, bytes]) -> None:
        """Publish a repository, such as ``datasets/owner/name``."""
        self.repositories[name] = files

    def fail(self, ending: str, times: int = 10_000, **how: Any) -> None:
        """Let requests fail: see :class:`Fault`."""
        self.faults.append(Fault(ending, times, **how))

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that befalls this request; it then happens one time less."""
        for fault in self.faults:
            if fault.times > 0 and path.endswith(fault.ending) and fault.method in (None, method):
                fault.times -= 1
                return fault
        return None

    def commit(self, name: str) -> str:
        """The repository's only commit."""
        digest = hashlib.sha1(name.encode())
        for path, content in sorted(self.repositories[name].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Answer requests while the block runs; yields the address."""

        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing on the terminal."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault(self.command, path) or Fault("", 0)
        time.sleep(fault.delay_s)
        if fault.status is not None:
            self.send_json({"error": "told to fail"}, fault.status)
        elif match := re.match(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?$", path):
            self.api(f"{match[1]}/{match[2]}", match[3] or "", body)
        elif match := re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path):
            self.file(f"{(match[1] or 'models/')}{match[2]}", match[4], fault)
        else:
            self.send_json({"error": "no such address"}, 404)

    # --- what the Hub's API tells ---------------------------------------------------------------

    def api(self, name: str, rest: str, body: bytes) -> None:
        if name not in self.hub.repositories:
            self.send_json({"error": "Repository not found"}, 401, "RepoNotFound")
        elif re.fullmatch(r"|/revision/[^/]+", rest):
            files = self.hub.repositories[name]
            self.send_json(
                {
                    "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
                    "id": name.split("/", 1)[1],
                    "sha": self.hub.commit(name),
                    "lastModified": "2024-01-01T00:00:00.000Z",
                    "private": False,
                    "gated": False,
                    "disabled": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [{"rfilename": path} for path in sorted(files)],
                }
            )
        elif match := re.fullmatch(r"/tree/[^/]+(?:/(.*))?", rest):
            self.tree(name, match[1] or "")
        elif re.fullmatch(r"/paths-info/[^/]+", rest):
            asked = self.asked_paths(body)
            self.send_json([entry for entry in self.entries(name) if entry["path"] in asked])
        else:
            self.send_json({"error": "no such address"}, 404)

    def asked_paths(self, body: bytes) -> list[str]:
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(body)["paths"]
        return parse_qs(body.decode()).get("paths", [])

    def tree(self, name: str, folder: str) -> None:
        recursive = "recursive=true" in urlsplit(self.path).query.lower()
        inside = f"{folder}/" if folder else ""
        found = [entry for entry in self.entries(name) if entry["path"].startswith(inside)]
        if not recursive:
            found = [entry for entry in found if "/" not in entry["path"][len(inside) :]]
        if not found and folder:
            self.send_json({"error": "Entry not found"}, 404, "EntryNotFound")
        else:
            self.send_json(found)

    def entries(self, name: str) -> list[dict[str, Any]]:
        """The files and folders of a repository, as its tree lists them."""
        files = self.hub.repositories[name]
        folders = {
            path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)
        }
        listed = [{"type": "directory", "oid": _oid(b""), "size": 0, "path": p} for p in folders]
        listed += [
            {"type": "file", "oid": _oid(content), "size": len(content), "path": path}
            for path, content in files.items()
        ]
        return sorted(listed, key=lambda entry: entry["path"])

    # --- files ----------------------------------------------------------------------------------

    def file(self, name: str, path: str, fault: Fault) -> None:
        if name not in self.hub.repositories:
            self.send_json({"error": "Repository not found"}, 401, "RepoNotFound")
            return
        content = self.hub.repositories[name].get(path)
        if content is None:
            self.send_json({"error": "Entry not found"}, 404, "EntryNotFound", name)
            return
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("X-Repo-Commit", self.hub.commit(name))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[start:][: fault.cut_after])
        if fault.cut_after is not None:
            self.close_connection = True

    def send_json(
        self, value: Any, status: int = 200, code: str | None = None, name: str | None = None
    ) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code := code or ERROR_CODES.get(status):
            self.send_header("X-Error-Code", code)
        if name is not None:
            self.send_header("X-Repo-Commit", self.hub.commit(name))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(content: bytes) -> str:
    """A file's name in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
