"""``KEY=TYPE:VALUE``: metadata that is written, and planned with, instead of the source's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apex_native.classification import classify_tensors
from apex_native.errors import PlanError
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.types import Classification

__all__ = ["overridden", "parse_override", "with_overrides"]

_MAX_KEY_BYTES = 127
_MAX_TEXT_BYTES = 127
"""llama.cpp's limits (common/common.cpp, string_parse_kv_override)."""

_UINT32 = 1 << 32
_FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def parse_override(text: str) -> MetadataEntry:
    """The pair that llama-quantize's ``--override-kv`` would write: an int becomes its UINT32.

    Raises PlanError for another syntax, a value that is none of its type, and texts beyond
    llama.cpp's limits.
    """
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not key or not equals or not colon or kind not in ("int", "float", "bool", "str"):
        raise PlanError(
            f"override '{text}': expected KEY=TYPE:VALUE with the type int, float, bool or str, "
            "like general.name=str:Mine"
        )
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise PlanError(f"override '{text}': the key is longer than {_MAX_KEY_BYTES} bytes")
    if kind == "str" and len(value.encode()) > _MAX_TEXT_BYTES:
        raise PlanError(f"override of {key}: a text has at most {_MAX_TEXT_BYTES} bytes")
    try:
        return _entry(key, kind, value)
    except PlanError:
        raise
    except ValueError:
        raise PlanError(f"override '{text}': '{value}' is no {kind}") from None


def _entry(key: str, kind: str, value: str) -> MetadataEntry:
    if kind == "int":
        if abs(int(value)) >= _UINT32:
            raise PlanError(f"override of {key}: {value} is beyond the 32 bits that are written")
        return MetadataEntry(key, GgufValueType.UINT32, abs(int(value)))
    if kind == "float":
        if not abs(float(value)) <= _FLOAT32_MAX:
            raise PlanError(f"override of {key}: {value} is no finite number of 32 bits")
        return MetadataEntry(key, GgufValueType.FLOAT32, float(value))
    if kind == "bool":
        if value not in ("true", "false"):
            raise ValueError
        return MetadataEntry(key, GgufValueType.BOOL, value == "true")
    return MetadataEntry(key, GgufValueType.STRING, value)


def overridden(classification: Classification, texts: Sequence[str]) -> Classification:
    """The model as its metadata would describe it with these overrides."""
    if not texts:
        return classification
    values = {entry.key: entry.value for entry in map(parse_override, texts)}
    facts = classification.facts
    return classify_tensors(replace(facts, metadata={**facts.metadata, **values}))


def with_overrides(
    written: Sequence[MetadataEntry], texts: Sequence[str]
) -> tuple[MetadataEntry, ...]:
    """The pairs to write, overrides in place of others; the last one of a key counts."""
    overrides = {entry.key: entry for entry in map(parse_override, texts)}
    return (*(e for e in written if e.key not in overrides), *overrides.values())
