"""What people see, compared with text files.

After a change that is meant, `python tests/test_cli_golden.py` writes the files anew; review the
difference like code.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from apex_native.demo import demo_imatrix, demo_model
from cli_tools import invoke, write_experts

GOLDEN = Path(__file__).parent / "golden"

CASES: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "DEMO", "--stats"),
    "inspect_split": ("inspect", "SPLIT"),
    "plan_compact": ("plan", "DEMO", "--tier", "compact", "--compare", "Q4_K_M"),
    "plan_mini_imatrix": ("plan", "DEMO", "--tier", "mini", "--imatrix", "IMATRIX"),
    "plan_explain": ("plan", "TINY", "--tier", "mini", "--explain"),
    "plan_rules": ("plan", "DEMO", "--type", "Q4_K_M", "--tensor-type", "nothing=q8_0"),
    "dry_run": (
        *("quantize", "TINY", "--type", "Q8_0", "-o", "FOLDER/q.gguf"),
        *("--dry-run", "--split-max-size", "1M"),
    ),
    "corpus": ("corpus", "DEMO", "--tokens", "20000", "-o", "FOLDER/c.txt"),
    "corpus_list": ("corpus", "--list"),
    "quantize": (
        *("quantize", "DEMO", "--tier", "quality", "-o", "FOLDER/q.gguf"),
        *("--threads", "1"),
    ),
}


def output_of(case: str, folder: Path) -> str:
    """What a case prints, with what differs from run to run replaced."""
    tiny = write_experts(folder / "tiny-bf16.gguf", n_layers=4, rows=64)
    places = {
        "DEMO": str(demo_model()),
        "IMATRIX": str(demo_imatrix()),
        "TINY": str(tiny),
        "FOLDER": str(folder),
    }
    if "SPLIT" in CASES[case]:
        split = folder / "split.gguf"
        invoke("quantize", tiny, "--type", "F16", "-o", split, "--split-max-size", "1M")
        places["SPLIT"] = str(next(folder.glob("split-00001-of-*.gguf")))
    args = [re.sub("|".join(places), lambda m: places[m[0]], arg) for arg in CASES[case]]
    result = invoke(*args)
    assert result.exit_code == 0, result.stderr
    text = result.stdout.replace(str(folder), "FOLDER")
    return re.sub(r"in [\d.]+ s \(\d+ MB/s", "in N s (N MB/s", text)


@pytest.mark.parametrize("case", CASES)
def test_output_is_the_golden_text(case: str, tmp_path: Path) -> None:
    expected = (GOLDEN / f"cli_{case}.txt").read_text("utf-8")
    assert output_of(case, tmp_path) == expected


def main() -> None:
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            (GOLDEN / f"cli_{case}.txt").write_text(output_of(case, Path(folder)), "utf-8")


if __name__ == "__main__":
    main()
