"""Every verb on one file, in this process: its arguments, and what a run may never say."""

from __future__ import annotations

import re
from pathlib import Path

from cli_tools import invoke

__all__ = ["VERBS", "arguments", "complaints", "run_verb", "run_verbs", "write_inputs"]

VERBS = (
    "inspect",
    "plan",
    "quantize",
    "imatrix",
    "corpus",
    "eval",
    "tasks",
    "bench",
    "report",
    "doctor",
)

_FORBIDDEN = re.compile(
    r"GGML_ASSERT|internal error|[\w./-]+\.(?:cpp|cu|cuh|c|h|hpp|py):\d+"
    r"|/(?:ggml|llama\.cpp)[\w-]*/"
)


def write_inputs(folder: Path) -> None:
    """The text and the task that the verbs take."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "The quick brown fox jumps over the lazy dog. Größe, 12 × 3 = 36.\n" * 8
    (folder / "text.txt").write_text(text, encoding="utf-8")
    lines = ["A man sits", "0", "down", "up", "on", "off"] * 3
    (folder / "hellaswag.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def arguments(verb: str, file: str | Path, inputs: str | Path) -> list[str]:
    """The command line of a verb for a file; outputs go to inputs/out."""
    out = f"{inputs}/out"
    text = f"{inputs}/text.txt"
    return {
        "inspect": ["inspect", f"{file}"],
        "plan": ["plan", f"{file}", "--type", "Q8_0"],
        "quantize": ["quantize", f"{file}", "--type", "Q8_0", "-o", f"{out}.gguf", "--force"],
        "imatrix": [
            "imatrix", f"{file}", "-f", text, "-o", f"{out}.imatrix.gguf", "--ctx", "16",
            "--chunks", "2", "--force",
        ],
        "corpus": [
            "corpus", f"{file}", "--tokens", "4000", "-o", f"{out}.txt", "--allow-short", "--force",
        ],
        "eval": ["eval", f"{file}", "--text", text, "--ctx", "16", "--chunks", "4"],
        "tasks": ["eval", f"{file}", "--hellaswag", f"{inputs}/hellaswag.txt"],
        "bench": ["bench", f"{file}", "-p", "8", "-n", "2", "-r", "1", "-t", "2", "--no-warmup"],
        "report": ["report", f"{file}", "-o", f"{out}.report"],
        "doctor": ["doctor", f"{file}"],
    }[verb]  # fmt: skip


def run_verb(verb: str, file: str, inputs: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = invoke(*arguments(verb, file, inputs))
    return result.exit_code, result.stdout, result.stderr


def run_verbs(file: str, inputs: str) -> dict[str, tuple[int, str, str]]:
    """What each verb makes of a file."""
    return {verb: run_verb(verb, file, inputs) for verb in VERBS}


def complaints(text: str) -> list[str]:
    """What no message may hold: places in somebody's source, assertions, internal errors."""
    return [match.group() for match in _FORBIDDEN.finditer(text)]
