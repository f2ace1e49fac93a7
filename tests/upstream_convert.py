"""Runs upstream's own script, as it is in the archive, over several checkpoints in one process.

    python upstream_convert.py SOURCE PRE_TOKENIZER JOBS.json

JOBS.json: lists of arguments for the script. Only what upstream makes of a tokenizer that it does
not know is replaced: a tiny one is in no table. Prints a JSON list: null, or why a job failed.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRE_TOKENIZER = "qwen2"
"""Tiny tokenizers are in no table of upstream's; both sides are told this name."""


def convert_all(jobs: Sequence[Sequence[str | os.PathLike[str]]]) -> None:
    """Run upstream's script with each list of arguments; it is started once for all."""
    fetch = ROOT / "third_party" / "llama.cpp" / "fetch.py"
    source = subprocess.run(
        [sys.executable, fetch, "--part", "converter"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([[os.fspath(argument) for argument in job] for job in jobs], file)
        file.flush()
        done = subprocess.run(
            [sys.executable, __file__, source, PRE_TOKENIZER, file.name],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert [pair for pair in zip(jobs, errors, strict=True) if pair[1] is not None] == []


def main() -> None:
    source, pre_tokenizer, jobs = sys.argv[1:]
    sys.path[:0] = [source, f"{source}/gguf-py"]
    from conversion import base

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre_tokenizer
    results = []
    for arguments in json.loads(Path(jobs).read_text()):
        for classes in base.ModelBase._model_classes.values():
            for model in classes.values():  # the script leaves its options in them
                for option in {"no_mtp", "mtp_only"} & model.__dict__.keys():
                    delattr(model, option)
        sys.argv = ["convert_hf_to_gguf.py", *arguments]
        try:
            runpy.run_path(f"{source}/convert_hf_to_gguf.py", run_name="__main__")
            results.append(None)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (reported as it is)
            results.append(f"{type(error).__name__}: {error}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
