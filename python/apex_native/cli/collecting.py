"""Collecting an importance matrix for a verb: load the model, calibrate, say what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.output import Output
from apex_native.cli.progress import imatrix_progress

if TYPE_CHECKING:
    from apex_native.engine import Model
    from apex_native.imatrix import Imatrix, MissingData
    from apex_native.types import GgufFacts

__all__ = ["CalibrationText", "CollectRequest", "collect", "warn_of_missing"]

MOST_NAMED = 8
"""Missing tensors that are named one by one; the rest is counted."""


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """A text, what the matrix file calls it, and how it is tokenized."""

    text: str
    dataset: str
    parse_special: bool


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """What to collect, into which file; options as `collect_imatrix` takes them.

    text is asked for when the model is loaded: a recipe counts with its tokenizer.
    """

    model: Path
    text: Callable[[Model], CalibrationText]
    output: Path
    all_experts: bool
    options: dict[str, Any]


def collect(out: Output, request: CollectRequest, compute: ComputeChoices) -> Imatrix:
    """Collect with progress, once more with all experts where that is asked for."""
    if not request.all_experts:
        return _pass(out, request, compute, request.output, "calibrating")
    from apex_native.imatrix import save_imatrix, with_all_experts

    first, second = (
        request.output.with_name(f"{request.output.name}.{name}.tmp.gguf")
        for name in ("router", "all-experts")
    )
    routed = _pass(out, request, compute, first, "calibrating")
    everyone = _pass(
        out, request, compute, second, "calibrating all experts",
        expert_used_count=_n_experts(request.model),
    )  # fmt: skip
    imatrix = save_imatrix(with_all_experts(routed, everyone), request.output)
    first.unlink()
    second.unlink()
    return imatrix


def _pass(
    out: Output,
    request: CollectRequest,
    compute: ComputeChoices,
    output: Path,
    label: str,
    **more: Any,
) -> Imatrix:
    from apex_native.imatrix import collect_imatrix

    with (
        compute.load(request.model, load_mtp=True, **more) as model,
        imatrix_progress(out, label) as progress,
    ):
        text = request.text(model)
        return collect_imatrix(
            model,
            text.text,
            dataset=text.dataset,
            parse_special=text.parse_special,
            output=output,
            progress=progress,
            **request.options,
        )


def _n_experts(path: Path) -> int:
    from apex_native.errors import DataError
    from apex_native.gguf import open_gguf

    with open_gguf(path) as file:
        architecture = file.metadata.get("general.architecture")
        count = file.metadata.get(f"{architecture}.expert_count", 0)
    if not isinstance(count, int) or count < 1:
        raise DataError(f"{path} has no experts; leave out --all-experts")
    return count


def warn_of_missing(out: Output, imatrix: Imatrix, facts: GgufFacts) -> list[MissingData]:
    """Name what the matrix says nothing about."""
    from apex_native.imatrix import missing_data

    missing = missing_data(imatrix, facts)
    for item in missing[:MOST_NAMED]:
        out.warning(f"no data for {item.tensor}: {item.reason}")
    if len(missing) > MOST_NAMED:
        out.warning(f"no data for {len(missing) - MOST_NAMED} more; --json lists them")
    return missing
