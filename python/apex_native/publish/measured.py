"""What results know of the files of a folder: numbers of exactly these files, or none."""

from __future__ import annotations

from collections.abc import Sequence

from apex_native.errors import DataError
from apex_native.publish.files import ModelFiles
from apex_native.results import Candidate, Results

__all__ = ["measured_models"]


def measured_models(models: Sequence[ModelFiles], results: Results | None) -> dict[str, Candidate]:
    """Each model's numbers by its name, for those that were measured with a cache in F16.

    By fingerprint; by name where results hold none. Raises DataError where a file was measured
    under the name of another: it was made again since.
    """
    rows = [] if results is None else [c for c in results.candidates if not (c.type_k or c.type_v)]
    found = {}
    for model in models:
        row = _row_of(model, rows)
        if row is not None:
            found[model.name] = row
    return found


def _row_of(model: ModelFiles, rows: Sequence[Candidate]) -> Candidate | None:
    named = [row for row in rows if row.name.removesuffix(".gguf") == model.stem]
    for row in [*rows, *named]:
        if row.fingerprint == model.fingerprint or (row in named and row.fingerprint is None):
            return row
    if named:
        raise DataError(
            f"{model.name}: results of this name are of another file (fingerprint "
            f"{(named[0].fingerprint or '')[:12]}, this one's is {model.fingerprint[:12]}); "
            "evaluate it again"
        )
    return None
