"""Datasets through huggingface_hub itself: from its cache alone, and from a local server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from corpus_tools import prose

REPO = "someone/texts"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

PROGRAM = """
import json, sys
from pathlib import Path
from apex_native.corpus import build_corpus
from apex_native.errors import CorpusError
from corpus_tools import WordTokenizer, recipe_of

body, tokens = sys.argv[1], int(sys.argv[2])
try:
    corpus = build_corpus(recipe_of(body, allow_short=True), WordTokenizer(), tokens=tokens)
except CorpusError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"text": corpus.text, "manifest": dict(corpus.manifest)}))
"""


def build(home: Path, files: str, *, revision: str = COMMIT, **env: str) -> dict:
    """Build a text in a process of its own: the client reads its settings when imported."""
    body = (
        f'[[source]]\nkind = "hub"\nrepo = "{REPO}"\nrevision = "{revision}"\nfiles = ["{files}"]'
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, body, "400"],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cached(home: Path, files: dict[str, bytes]) -> None:
    """A dataset as the client lays it out: blobs by hash, links to them in a snapshot."""
    root = home / "hub" / f"datasets--{REPO.replace('/', '--')}"
    for name, content in files.items():
        blob = root / "blobs" / _etag(content)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = root / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


FILES = {
    "data/one.jsonl": "".join(
        json.dumps({"text": prose(60, seed=i)}) + "\n" for i in range(12)
    ).encode(),
    "README.md": b"# A dataset\n",
}


def test_from_the_cache_alone(tmp_path: Path) -> None:
    cached(tmp_path, FILES)
    made = build(tmp_path, "data/*.jsonl", HF_HUB_OFFLINE="1")
    (source,) = made["manifest"]["domains"][0]["sources"]
    assert source["name"] == f"{REPO}@{COMMIT[:8]}"
    assert source["inputs"] == [
        {
            "name": f"{REPO}@{COMMIT}/data/one.jsonl",
            "bytes": len(FILES["data/one.jsonl"]),
            "sha256": hashlib.sha256(FILES["data/one.jsonl"]).hexdigest(),
        }
    ]
    assert made["manifest"]["recipe"]["domains"]["all"]["sources"][0]["revision"] == COMMIT
    assert prose(60, seed=0)[:40] in FILES["data/one.jsonl"].decode()
    assert len(made["text"]) > 1000


def test_another_revision_is_not_there(tmp_path: Path) -> None:
    cached(tmp_path, FILES)
    other = COMMIT[::-1]
    made = build(tmp_path, "data/*.jsonl", revision=other, HF_HUB_OFFLINE="1")
    assert made["error"].startswith(f"dataset {REPO} at {other} cannot be had: ")
    assert "not in the cache; check the network, or unset HF_HUB_OFFLINE" in made["error"]


def test_no_file_matches(tmp_path: Path) -> None:
    cached(tmp_path, FILES)
    made = build(tmp_path, "*.parquet", HF_HUB_OFFLINE="1")
    assert made["error"] == (
        f"dataset {REPO} at {COMMIT} has no file that matches *.parquet; check 'files'"
    )


class _Hub(BaseHTTPRequestHandler):
    """The answers of a hub that a download needs: what a revision holds (old and new), a file."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        if path == f"/api/datasets/{REPO}/revision/{COMMIT}":
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": REPO, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}
            return self._send(json.dumps(info).encode(), with_body=with_body)
        if path == f"/api/datasets/{REPO}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in FILES.items()
            ]
            return self._send(json.dumps(tree).encode(), with_body=with_body)
        name = path.removeprefix(f"/datasets/{REPO}/resolve/{COMMIT}/")
        if name in FILES:
            return self._send(FILES[name], with_body=with_body)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _send(self, content: bytes, *, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_downloaded_once_and_then_cached(tmp_path: Path) -> None:
    with hub() as endpoint:
        first = build(tmp_path, "data/*.jsonl", HF_ENDPOINT=endpoint)
        assert "error" not in first, first["error"]
        missing = build(tmp_path, "data/*.jsonl", revision="f" * 40, HF_ENDPOINT=endpoint)
    assert "cannot be had" in missing["error"]
    again = build(tmp_path, "data/*.jsonl", HF_HUB_OFFLINE="1")
    assert again["text"] == first["text"]
