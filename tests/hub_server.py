"""A Hub on this machine: as much of its HTTP interface as the real client's upload needs.

Every file is asked for in the commit itself ("regular"), so no storage service is needed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """repositories: name → path → bytes; refuse: how many commits are answered with an error."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    refuse: int = 0


def blob_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4])
        if name in self.hub.repositories:
            self._answer({"id": name, "sha": "0" * 40, "siblings": [], "private": False})
        else:
            self._answer({"error": "no such repository"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts == ["api", "validate-yaml"]:
            self._answer({"errors": [], "warnings": []})
        elif "preupload" in parts:
            self._preupload("/".join(parts[2:4]), json.loads(body))
        elif "commit" in parts:
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": f"no such route {self.path}"}, 404)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.hub.repositories:
            self._answer({"url": f"{self.hub.url}/{name}", "error": "exists"}, 409)
            return
        self.hub.repositories[name] = {}
        self.hub.private[name] = bool(asked.get("private"))
        self._answer({"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def _preupload(self, name: str, asked: dict[str, Any]) -> None:
        there = self.hub.repositories[name]
        files = [
            {
                "path": file["path"],
                "uploadMode": "regular",
                "shouldIgnore": False,
                "oid": blob_oid(there[file["path"]]) if file["path"] in there else None,
            }
            for file in asked["files"]
        ]
        self._answer({"files": files})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if self.hub.refuse:
            self.hub.refuse -= 1
            self._answer({"error": "not now"}, 403)
            return
        added = [line["value"] for line in lines if line["key"] == "file"]
        for file in added:
            content = base64.b64decode(file["content"])
            self.hub.repositories[name][file["path"]] = content
        self.hub.commits.append([file["path"] for file in added])
        number = f"{len(self.hub.commits):040d}"
        self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{number}", "commitOid": number})


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
