"""One evaluation file: what was measured, on what, with what; as JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from apex_native.atomic_write import write_atomically
from apex_native.errors import ResultsError
from apex_native.json_codec import decode, encode
from apex_native.results.checks import check_consistent
from apex_native.results.html import html_table
from apex_native.results.model import Candidate, Reference
from apex_native.results.settings import Build, NoiseFloor, Settings, TextData
from apex_native.results.verdict import Comparison

__all__ = ["METRICS_VERSION", "SCHEMA_VERSION", "Results"]

SCHEMA_VERSION = 1
"""Changes when a key changes its place or type; new optional keys do not count."""

METRICS_VERSION = 1
"""Changes when a number would be another for the same models and text: numbers of different
metrics versions must never stand in one table."""

_NAMES_SHOWN = 4

MAX_FILE_BYTES = 256 << 20
"""Far above any real file: 100 candidates with 10,000 chunks each are 60 MB."""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything of one file. Text metrics need data and settings; tasks and speed do not.

    Without a reference there is no KLD (accuracy or speed alone). tokenizer is a fingerprint of
    the vocabulary. created is ISO 8601 in UTC. n_values_not_finite counts numbers that were NaN
    or infinite and are stored as null.
    """

    build: Build
    created: str
    candidates: tuple[Candidate, ...]
    reference: Reference | None = None
    data: TextData | None = None
    tokenizer: str | None = None
    settings: Settings | None = None
    noise_floor: NoiseFloor | None = None
    comparisons: tuple[Comparison, ...] = ()
    n_values_not_finite: int = 0

    def __repr__(self) -> str:
        names = [candidate.name for candidate in self.candidates]
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
        against = "" if self.reference is None else f" against {self.reference.name!r}"
        text = "" if self.data is None else f", {self.data.name!r}, {self.data.n_chunks} chunks"
        return f"Results({len(names)} candidates{against}{text}: {shown})"

    def _repr_html_(self) -> str:
        return html_table(self.reference, self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, versions first; what is not finite is None and counted."""
        values, n_not_finite = _without_non_finite(encode(self))
        values["n_values_not_finite"] += n_not_finite
        return {"schema_version": SCHEMA_VERSION, "metrics_version": METRICS_VERSION, **values}

    def to_json(self) -> str:
        """`to_dict` as text that `from_json` reads; ResultsError where values contradict."""
        document = self.to_dict()
        _from_document(document, "results")
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the JSON, whole or not at all; OutputError on failure."""
        write_atomically(path, self.to_json(), what="results")

    @classmethod
    def from_json(cls, text: str, *, source: str = "results") -> Results:
        """Read `to_json`'s text; source names it in errors.

        Unknown keys are ignored, missing optional ones are not measured. Raises ResultsError for
        another schema or metrics version, malformed JSON, wrong types, NaN and contradictions.
        """
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ResultsError(f"{source}: no readable JSON ({reason}); evaluate again") from None
        return _from_document(document, source)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a saved file; ResultsError if it cannot be read or is none."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ResultsError(
                    f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; this is no results file"
                )
            text = data.decode("utf-8")
        except OSError as error:
            raise ResultsError(
                f"cannot read results {path}: {error.strerror}; check the path"
            ) from error
        except UnicodeDecodeError as error:
            raise ResultsError(
                f"{path}: byte {error.start} is no UTF-8; this is no results file"
            ) from error
        return cls.from_json(text, source=str(path))


def _from_document(document: object, source: str) -> Results:
    if not isinstance(document, dict) or "candidates" not in document:
        raise ResultsError(
            f"{source}: expected an object with schema_version, metrics_version and candidates; "
            "this is no results file"
        )
    for key, wanted in (("schema_version", SCHEMA_VERSION), ("metrics_version", METRICS_VERSION)):
        found = document.get(key)
        if found != wanted or isinstance(found, bool):
            raise ResultsError(
                f"{source}: {key} must be {wanted}, found {str(found)[:40]}; "
                "evaluate again, or use the apex-native that wrote it"
            )
    results = decode(Results, document, source, error=ResultsError, use_defaults=True)
    check_consistent(
        results.reference,
        results.candidates,
        results.comparisons,
        has_text=results.data is not None,
        source=source,
    )
    return results


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _without_non_finite(value: Any) -> tuple[Any, int]:
    """The value with None for every NaN and infinity, and how many there were."""
    if isinstance(value, float):
        return (value, 0) if math.isfinite(value) else (None, 1)
    if isinstance(value, dict):
        cleaned = {key: _without_non_finite(item) for key, item in value.items()}
        return {k: item for k, (item, _) in cleaned.items()}, sum(n for _, n in cleaned.values())
    if isinstance(value, list):
        items = [_without_non_finite(item) for item in value]
        return [item for item, _ in items], sum(n for _, n in items)
    return value, 0
