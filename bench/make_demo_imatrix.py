"""Makes the importance matrix of the demo model that ships with the package.

    python bench/make_demo_imatrix.py --tools build/reference/reference

Runs upstream's llama-imatrix (``make parity`` builds it) on generated text and installs the
result as package data. Prints what it covers and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

import apex_native
from apex_native.demo import DEMO_IMATRIX_NAME, demo_model
from apex_native.demo_text import CALIBRATION_SEED, demo_text
from apex_native.imatrix import load_imatrix

N_CHUNKS = 40
CONTEXT = 512
CHARS_PER_TOKEN = 4
"""More than the demo tokenizer's average on this text (2.9), so that 40 chunks are always full."""


def collect(tools: Path, output: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "templates.txt"
        text.write_text(demo_text(N_CHUNKS * CONTEXT * CHARS_PER_TOKEN, seed=CALIBRATION_SEED))
        command = [tools / "llama-imatrix", "-m", demo_model(), "-f", text, "-o", output]
        command += ["--chunks", str(N_CHUNKS), "-c", str(CONTEXT), "--output-format", "gguf"]
        # In the folder, so that the file records the text's name and no path of this machine.
        relative = [str(part) for part in command]
        relative[relative.index(str(text))] = text.name
        subprocess.run(relative, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-imatrix")
    data = Path(apex_native.__file__).parent / "data"
    parser.add_argument("--output", type=Path, default=data / DEMO_IMATRIX_NAME)
    options = parser.parse_args()
    collect(options.tools.resolve(), options.output.resolve())
    matrix = load_imatrix(options.output)
    unseen = {
        name: int((entry.counts == 0).sum())
        for name, entry in matrix.entries.items()
        if (entry.counts == 0).any()
    }
    print(f"{len(matrix.entries)} entries, experts without a token: {unseen or 'none'}")
    print(
        json.dumps(
            {
                "bytes": options.output.stat().st_size,
                "sha256": hashlib.sha256(options.output.read_bytes()).hexdigest(),
                "chunks": matrix.chunk_count,
                "unseen": sum(unseen.values()),
            }
        )
    )


if __name__ == "__main__":
    main()
