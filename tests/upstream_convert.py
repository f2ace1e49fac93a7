"""Runs upstream's own script, as it is in the archive, over several checkpoints in one process.

    python upstream_convert.py SOURCE PRE_TOKENIZER JOBS.json

JOBS.json: lists of arguments for the script. Only what upstream makes of a tokenizer that it does
not know is replaced: a tiny one is in no table. Prints a JSON list: null, or why a job failed.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path


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
