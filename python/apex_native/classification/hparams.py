"""Counts from the metadata, checked: a wrong one would silently shift every layer rule."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import GgufError
from ..types import MetadataValue

__all__ = ["read_count", "read_max_count"]


def read_count(metadata: Mapping[str, MetadataValue], key: str) -> int | None:
    """The count stored under key, None if there is none; GgufError unless it is an integer >= 0."""
    value = metadata.get(key)
    return None if value is None else _checked(value, key)


def read_max_count(metadata: Mapping[str, MetadataValue], key: str) -> int:
    """The count stored under key, of an array (one count per layer) the largest, 0 if absent.

    llama.cpp does the same: ``llama_hparams::n_expert_used_max``. Raises GgufError unless all
    are integers >= 0.
    """
    value = metadata.get(key, 0)
    counts = value if isinstance(value, tuple) else (value,)
    return max((_checked(count, key) for count in counts), default=0)


def _checked(value: MetadataValue, key: str) -> int:
    # bool is an int to isinstance, but not a count.
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        found = f"an array of {len(value)}" if isinstance(value, tuple) else f"{value!r:.60}"
        raise GgufError(
            f"metadata key '{key}': expected a count (integer, 0 or more), found {found}; "
            "the file is damaged or not a model, convert it again"
        )
    return value
