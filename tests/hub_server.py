"""A Hub on this machine: as much of its HTTP interface as the real client's transfers need.

Uploads: every file is asked for in the commit itself ("regular"), so no storage service is needed.
Downloads: listings with hashes, ranges, whole files; and what goes wrong with them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


@dataclass
class Faults:
    """What goes wrong: file → bytes after which the connection drops, once; files whose content is
    another than the listing says (how often); the status for everything; seconds for each 64 KiB.
    """

    drop_after: dict[str, int] = field(default_factory=dict)
    corrupt: dict[str, int] = field(default_factory=dict)
    status: int = 0
    slow_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """A file that was asked for: all of it (begin 0, end its size), or a range."""

    method: str
    path: str
    begin: int
    end: int


@dataclass
class Hub:
    """repositories: name → path → bytes; refuse: how many commits are answered with an error.

    published: repository → commit → path → bytes; branches: repository → branch → commit. requests:
    what was asked of their files.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    refuse: int = 0
    published: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)

    def publish(self, name: str, files: dict[str, bytes]) -> str:
        """Put a commit on the main branch; its number."""
        content = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.published.setdefault(name, {})[content] = dict(files)
        self.branches.setdefault(name, {})["main"] = content
        return content


def blob_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf"))


def _lfs(content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 134}


def _etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if _is_lfs(path) else blob_oid(content)


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

    def do_HEAD(self) -> None:
        self._file(self.path.split("?")[0].strip("/").split("/"))

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if "resolve" in parts[2:3]:
            self._file(parts)
            return
        name = "/".join(parts[2:4])
        if self.hub.published and name not in self.hub.repositories:
            self._revision(name, parts[5] if "revision" in parts else "main")
        elif name in self.hub.repositories:
            self._answer({"id": name, "sha": "0" * 40, "siblings": [], "private": False})
        else:
            self._answer({"error": "no such repository"}, 404)

    def _refused(self, name: str, revision: str) -> bool:
        """Answer with an error where the repository or its revision cannot be had."""
        status, code = self.hub.faults.status, "GatedRepo"
        commit = self.hub.branches.get(name, {}).get(revision, revision)
        if not status and name not in self.hub.published:
            status, code = 401, "RepoNotFound"
        elif not status and commit not in self.hub.published[name]:
            status, code = 404, "RevisionNotFound"
        if not status:
            return False
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "as the test wants it")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def _revision(self, name: str, revision: str) -> None:
        revision = unquote(revision)
        if self._refused(name, revision):
            return
        commit = self.hub.branches[name].get(revision, revision)
        siblings = [
            {
                "rfilename": path,
                "size": len(content),
                "blobId": blob_oid(content),
                **({"lfs": _lfs(content)} if _is_lfs(path) else {}),
            }
            for path, content in self.hub.published[name][commit].items()
        ]
        self._answer({"id": name, "sha": commit, "siblings": siblings, "private": False})

    def _file(self, parts: list[str]) -> None:
        name, commit, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if self._refused(name, commit):
            return
        content = self.hub.published[name][self.hub.branches[name].get(commit, commit)].get(path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(content)) if asked and asked[2] else len(content)
        self.hub.requests.append(Request(self.command, path, begin, end))
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{_etag(path, content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(end - begin))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._send(path, content, begin, end)

    def _send(self, path: str, content: bytes, begin: int, end: int) -> None:
        faults = self.hub.faults
        if faults.corrupt.get(path, 0) > 0 and (begin, end) == (0, len(content)):
            faults.corrupt[path] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        drop = faults.drop_after.get(path, len(content))
        if begin < drop < end:
            del faults.drop_after[path]
            self.wfile.write(content[begin:drop])
            self.wfile.flush()
            self.connection.close()
            return
        for at in range(begin, end, 1 << 16):
            time.sleep(faults.slow_s)
            self.wfile.write(content[at : min(at + (1 << 16), end)])

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


def point_client_at(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process talk to this hub, with a cache of its own."""
    constants = importlib.import_module("huggingface_hub.constants")
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    # Versions before 1.0 keep a copy.
    files = importlib.import_module("huggingface_hub.file_download")
    monkeypatch.setattr(files, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
