"""A file that has a model's header and a hole where its weights are: enough to add up memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apex_native.errors import OutputError
from apex_native.gguf_encode import encode_header
from apex_native.gguf_layout import layout_file
from apex_native.weights import WeightSource

__all__ = ["sparse_twin"]

_OF_THE_ORIGINAL = ("split.", "general.alignment")


@contextmanager
def sparse_twin(source: WeightSource) -> Iterator[Path]:
    """The twin of a source of any kind, whole or header only, as one file; gone afterwards.

    It takes a header's room on the disk. Raises OutputError where there is no place for it.
    """
    facts = source.facts
    pairs = [
        source.encoded_pair(key) for key in facts.kv_sizes if not key.startswith(_OF_THE_ORIGINAL)
    ]
    layout = layout_file(facts.tensors, sum(map(len, pairs)))
    header = encode_header(pairs, facts.tensors, [t.type for t in facts.tensors], layout)
    try:
        with tempfile.TemporaryDirectory(prefix="apex-memory-") as folder:
            path = Path(folder) / "twin.gguf"
            with path.open("wb") as file:
                file.write(header)
                file.truncate(layout.total_bytes)
            yield path
    except OSError as error:
        raise OutputError(
            f"{error.filename or tempfile.gettempdir()}: {error.strerror}; memory is added up from "
            "a copy of the header there, set TMPDIR to a folder with some room"
        ) from error
