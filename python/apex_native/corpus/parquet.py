"""Rows of parquet files, through pyarrow (the extra ``corpus``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apex_native.errors import CorpusError

__all__ = ["parquet_rows", "row_group_count"]

BATCH_ROWS = 256


def row_group_count(path: Path, columns: Sequence[str]) -> int:
    """Row groups of a file; CorpusError where it is no parquet or lacks one of the columns."""
    with _opened(path) as file:
        there = file.schema_arrow.names
        for column in columns:
            if column not in there:
                raise CorpusError(
                    f"{path}: no column '{column}', there are {', '.join(there)}; "
                    "name one of them with 'field' or 'messages'"
                )
        return int(file.num_row_groups)


def parquet_rows(path: Path, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of one row group, a few at a time in memory."""
    with _opened(path) as file:
        batches = file.iter_batches(
            BATCH_ROWS, row_groups=[group], columns=list(columns), use_threads=False
        )
        for batch in batches:
            yield from batch.to_pylist()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise CorpusError(
            f"{path}: parquet needs pyarrow; install it with `pip install 'apex-native[hub]'`"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path}: cannot be read as parquet: {error}; download or write it again"
        ) from error
