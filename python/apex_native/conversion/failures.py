"""From what upstream's converter raises to one sentence that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apex_native.errors import ApexError, CheckpointError

__all__ = ["explained"]

_ADVICE = (
    (
        "pre-tokenizer was not recognized",
        (
            "upstream does not know this tokenizer's rules for cutting text; name a known one with "
            "`pre_tokenizer`, if you know it to cut alike (`apex-native convert` takes it and "
            "writes a file for every command)"
        ),
    ),
    (
        "trust_remote_code",
        (
            "the checkpoint comes with Python code of its own; read it, then allow it with "
            "`trust_remote_code=True`"
        ),
    ),
    (
        "instantiate the backend tokenizer",
        "download the checkpoint's tokenizer files too (tokenizer.json or tokenizer.model)",
    ),
    ("Can not map tensor", "upstream's converter does not know this tensor of the architecture"),
    ("not supported", "a newer version of this package may know it"),
)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise CheckpointError for every error inside, with the folder and what to do."""
    try:
        yield
    except (ApexError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return f"{_first_line(error)}; download the checkpoint's tokenizer files too"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}; download it again"
    if isinstance(error, json.JSONDecodeError):
        return f"a JSON file is damaged ({error}); download it again"
    if isinstance(error, AssertionError):
        return _assertion(error)
    if isinstance(error, KeyError):
        return f"upstream's converter looks for {error}, which is not there; download it again"
    text = _first_line(error).rstrip(": ")
    advice = next((advice for words, advice in _ADVICE if words in str(error)), None)
    return f"{text}; {advice or 'the checkpoint is not what its config.json says'}"


def _assertion(error: AssertionError) -> str:
    """Upstream's assertions often say nothing: name the place, and what they are mostly about."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ""
    if trace is not None:
        code = trace.tb_frame.f_code
        where = f" in {Path(code.co_filename).name}, {code.co_name}"
    said = f": {_first_line(error)}" if str(error) else ""
    return (
        f"upstream's converter found something it does not expect{where}{said}; config.json "
        "promises tensors that the checkpoint lacks, or has them in another form (MTP layers that "
        "were not saved: leave them out with `part='model-without-mtp'`)"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
