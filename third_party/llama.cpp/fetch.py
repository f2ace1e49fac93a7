"""Put the pinned llama.cpp source on disk and print its folder; CMake calls this when it configures.

The source travels inside a source package on the Python package index (see pin.json), so pip is
the only client needed. pip checks the hash before it runs anything of the package, the folders
this project builds are unpacked into a cache, and the next build finds them there. The converter of
checkpoints, which is Python, has a folder of its own: it changes without a compiler at work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PIN = json.loads((Path(__file__).parent / "pin.json").read_text())
CONVERTER = PIN.pop("converter")
PARTS = {"llama.cpp": PIN, "converter": {**PIN, **CONVERTER}}
STAMP = ".apex-complete"
BOTH_WAYS_OUT = (
    "the pinned llama.cpp source ({package} {version}) is not in the cache ({cache}) and could not be "
    "downloaded: connect to a network whose package index pip can reach, or point APEX_LLAMA_CPP_DIR "
    "at a llama.cpp checkout of commit {commit}"
)


def default_cache() -> Path:
    """Where unpacked sources stay between builds."""
    base = os.environ.get("APEX_CACHE_DIR")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apex-native"


def download(folder: Path) -> Path:
    """The verified archive, fetched by pip into folder."""
    requirement = folder / "pin.txt"
    requirement.write_text(f"{PIN['package']}=={PIN['version']} --hash=sha256:{PIN['sha256']}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--no-build-isolation",
        "--require-hashes",
        "--dest",
        str(folder),
        "--requirement",
        str(requirement),
    ]
    run = subprocess.run(command, text=True, capture_output=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if run.returncode != 0 or len(archives) != 1:
        raise RuntimeError((run.stderr or run.stdout).strip().splitlines()[-1:] or ["pip failed"])
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != PIN["sha256"]:
        raise RuntimeError(
            [f"sha256 of {archives[0].name}: expected {PIN['sha256']}, found {digest}"]
        )
    return archives[0]


def wanted(part: str, name: str) -> bool:
    """Does this path inside the llama.cpp tree belong to a part of what is built?"""
    pin = PARTS[part]
    return name in pin["files"] or any(name.startswith(folder + "/") for folder in pin["folders"])


def unpack(archive: Path, part: str, target: Path) -> None:
    """Extract a part of the archive so that target appears complete or not at all."""
    prefix = f"{archive.name.removesuffix('.tar.gz')}/{PIN['source']}/"
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpacking-"))
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.startswith(prefix) and wanted(
                    part, member.name.removeprefix(prefix)
                ):
                    member.name = member.name.removeprefix(prefix)
                    tar.extract(member, partial, filter="data")
        (partial / STAMP).write_text(PIN["sha256"] + "\n")
        try:
            partial.rename(target)
        except OSError:  # another build finished first; its copy is the same
            if not (target / STAMP).exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def folder_of(part: str, cache: Path) -> Path:
    """Where a part is unpacked.

    What is wanted is part of the name: a build that needs more does not meet an old copy.
    """
    key = hashlib.sha256(json.dumps(PARTS[part], sort_keys=True).encode()).hexdigest()[:12]
    return cache / f"{part}-{PIN['commit']}-{key}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--part", choices=sorted(PARTS), default="llama.cpp")
    arguments = parser.parse_args()
    cache = arguments.cache
    targets = {part: folder_of(part, cache) for part in PARTS}
    missing = {part: t for part, t in targets.items() if not (t / STAMP).exists()}
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                archive = download(Path(folder))
                for part, target in missing.items():
                    shutil.rmtree(target, ignore_errors=True)
                    unpack(archive, part, target)
        except (RuntimeError, OSError) as error:
            reason = error.args[0] if isinstance(error, RuntimeError) else [str(error)]
            print(
                BOTH_WAYS_OUT.format(cache=cache, **PIN) + f" (pip said: {reason[0]})",
                file=sys.stderr,
            )
            return 1
    print(targets[arguments.part])
    return 0


if __name__ == "__main__":
    sys.exit(main())
