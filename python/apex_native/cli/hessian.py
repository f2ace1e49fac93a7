"""``--hessian``: second moments from a file, or collected layer by layer on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.calibration_options import CALIBRATION, CalibrationChoices
from apex_native.cli.model_file import loadable
from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from pathlib import Path

    from apex_native.cli.compute_options import ComputeChoices
    from apex_native.conversion import ModelInput
    from apex_native.quantization import HessianSource, QuantizeManifest

__all__ = [
    "HessianChoices",
    "hessian_source",
    "output_error_table",
    "require_consistent_hessian",
    "with_hessian_value",
]

COLLECT = "collect"
DEFAULT_MEMORY_SHARE = 0.5
"""Of the memory that is free, for moments that are collected on the way."""

FALLBACK_MEMORY = 4 << 30
"""Where the system does not tell."""


@dataclass(frozen=True)
class HessianChoices:
    """Where second moments come from."""

    hessian: Annotated[
        str | None,
        typer.Option(
            "--hessian", metavar="FILE|collect", rich_help_panel=CALIBRATION,
            help="Fit bytes to second moments of inputs: from a FILE of `imatrix --hessian`; or, "
            "with --calibration and no value, collected layer by layer, nothing kept.",
        ),
    ] = None  # fmt: skip

    @property
    def collects(self) -> bool:
        """Nothing is read: moments are collected on the way."""
        return self.hessian == COLLECT


def with_hessian_value(args: Sequence[str]) -> list[str]:
    """The arguments with a bare ``--hessian`` written out: typer knows no optional values."""
    result = []
    for i, arg in enumerate(args):
        bare = arg == "--hessian" and (i + 1 == len(args) or args[i + 1].startswith("-"))
        result.append(f"--hessian={COLLECT}" if bare else arg)
    return result


def require_consistent_hessian(
    choices: HessianChoices, calibration: CalibrationChoices, plan_file: Path | None
) -> None:
    """Raise a usage error where options contradict each other."""
    if choices.collects and calibration.calibration is None:
        raise typer.BadParameter(
            "collects from a text; add --calibration, or give a file", param_hint="--hessian"
        )
    if choices.hessian is not None and plan_file is not None:
        raise typer.BadParameter(
            "is recorded in the file, which this plan does not foresee; leave out --plan and give "
            "its recipe", param_hint="--hessian",
        )  # fmt: skip


@contextmanager
def hessian_source(
    out: Output,
    source: ModelInput,
    choices: HessianChoices,
    calibration: CalibrationChoices,
    compute: ComputeChoices,
    max_memory: int | None,
) -> Iterator[HessianSource | None]:
    """What `quantize_model` takes; a model is loaded where moments are collected."""
    if choices.hessian is None:
        yield None
    elif not choices.collects:
        from apex_native.imatrix import HessianFile

        with HessianFile(choices.hessian) as file:
            yield file.hessian
    else:
        path = loadable(out, source)
        with _collected(out, path, calibration, compute, max_memory) as collected:
            yield collected


@contextmanager
def _collected(
    out: Output,
    model_path: Path,
    calibration: CalibrationChoices,
    compute: ComputeChoices,
    max_memory: int | None,
) -> Iterator[HessianSource]:
    from apex_native.cli.progress import imatrix_progress
    from apex_native.imatrix import LayeredHessian, open_text, plan_collection
    from apex_native.machine import free_memory

    free = free_memory()
    share = FALLBACK_MEMORY if free is None else int(free * DEFAULT_MEMORY_SHARE)
    assert calibration.calibration is not None
    with (
        compute.placement.load(model_path, load_mtp=True) as model,
        imatrix_progress(out) as progress,
    ):
        chosen = open_text(calibration.calibration, parse_special=calibration.parse_special)
        text = chosen(model)
        plan = plan_collection(
            model, text.text, max_chunks=calibration.calibration_chunks,
            parse_special=text.parse_special,
        )  # fmt: skip
        source = LayeredHessian(model, plan, max_memory=max_memory or share, progress=progress)
        windows = source.plan_windows(source.all_weights())
        out.note(
            f"second moments: {len(windows)} passes over {source.n_tokens:,} tokens, at most "
            f"{source.most_bytes(windows) / 1e6:,.0f} MB at a time"
        )
        yield source


def output_error_table(manifest: QuantizeManifest) -> Table:
    """Errors of outputs by role, beside those of ggml's bytes."""
    rows = []
    for role, errors in manifest.outputs_by_role():
        held_out = errors.held_out_ratio
        rows.append((
            role.value,
            f"{errors.relative_error:.3%}",
            f"{errors.ratio:.3f}",
            "-" if held_out is None else f"{held_out:.3f}",
            f"{errors.n_kept}/{errors.n_slices}",
        ))  # fmt: skip
    return Table(
        (
            Column("role"),
            Column("output error", right=True),
            Column("of ggml's", right=True),
            Column("held out", right=True),
            Column("kept ggml's", right=True),
        ),
        rows,
        notes=(
            "of ggml's: squared output error as a share of that of ggml's bytes, calibration text",
            "held out: the same, half of the tokens judging the other; kept: tensors or experts",
        ),
    )
