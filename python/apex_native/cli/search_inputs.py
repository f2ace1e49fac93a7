"""What ``apex-native search`` works on: request, texts, matrix, places of its results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from apex_native.cli.calibration_options import CalibrationChoices, matrix_path
from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.hessian import HessianChoices
from apex_native.cli.options import parse_size
from apex_native.cli.output import Output, exact_size
from apex_native.cli.search_options import (
    BudgetChoices,
    EffortChoice,
    RuleChoices,
    SearchTextChoices,
)

if TYPE_CHECKING:
    from apex_native.allocation import DomainText, Effort, SearchRequest
    from apex_native.gguf import GgufFile
    from apex_native.imatrix import Hessian, Imatrix

__all__ = ["make_request", "output_paths", "search_hessian", "search_matrix"]

DEFAULT_RECIPE = "diverse"

_SOURCE_TYPE = re.compile(r"[-._](bf16|f16|fp16|f32|fp32)$", re.IGNORECASE)
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def make_request(
    out: Output,
    source: GgufFile,
    budgets: BudgetChoices,
    texts: SearchTextChoices,
    rules: RuleChoices,
    compute: ComputeChoices,
) -> SearchRequest:
    """Everything the search is asked for; usage errors, DataError for texts."""
    from apex_native.allocation import SearchRequest
    from apex_native.types import GgmlType

    floor = None
    if rules.floor is not None:
        try:
            floor = GgmlType.parse(rules.floor)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--floor") from error
    wanted = _budgets(out, source, budgets)
    return SearchRequest(
        budgets=wanted,
        texts=_texts(out, source, texts),
        tensor_types=tuple(rules.tensor_type or ()),
        ladder=rules.ladder.value,
        floor=floor,
        together=rules.together,
        min_tg=rules.min_tg,
        surface=rules.surface,
        seed=texts.seed,
        effort=_effort(texts.effort),
        placement=compute.placement,
    )


def _effort(choice: EffortChoice) -> Effort:
    from apex_native.allocation import EFFORTS

    return EFFORTS[choice.value]


def _budgets(out: Output, source: GgufFile, choices: BudgetChoices) -> tuple[int, ...]:
    given = [part for text in choices.budget or () for part in text.split(",") if part.strip()]
    if choices.fit is None and not given:
        raise typer.BadParameter("give a size, as 12.2GiB, or --fit", param_hint="--budget")
    if choices.fit is not None and given:
        raise typer.BadParameter("says the size already; leave out --budget", param_hint="--fit")
    if choices.fit is None:
        budgets = tuple(parse_size(part) for part in given)
        if len(set(budgets)) != len(budgets):
            raise typer.BadParameter("names a size twice", param_hint="--budget")
        return budgets
    from apex_native.memory import ContextSettings, PlacedWeights, context_memory, memory_need
    from apex_native.types import GgmlType

    settings = ContextSettings(
        choices.ctx, GgmlType.parse(choices.type_k), GgmlType.parse(choices.type_v)
    )
    # The whole file is taken to lie on a GPU: what of it stays on the host depends on its types.
    beside = memory_need(PlacedWeights(0, 0, ()), context_memory(source, settings), on_gpu=True)
    budget = choices.fit - beside.total
    if budget <= 0:
        raise typer.BadParameter(
            f"KV cache, buffers and CUDA alone take {beside.total:,} bytes at a context of "
            f"{choices.ctx:,}; {choices.fit:,} are given",
            param_hint="--fit",
        )
    out.note(
        f"{exact_size(choices.fit)} less {beside.cache:,} of KV cache and state, "
        f"{beside.buffers:,} of buffers and {beside.cuda_context:,} of CUDA: a file of at most "
        f"{exact_size(budget)}"
    )
    return (budget,)


def _texts(out: Output, source: GgufFile, choices: SearchTextChoices) -> tuple[DomainText, ...]:
    from apex_native.allocation import DomainText, builtin_texts
    from apex_native.errors import DataError
    from apex_native.imatrix import read_text

    if not choices.text:
        out.note("no --text: measuring on built-in text; text of your own use says more")
        return builtin_texts(source.path, choices.seed)
    paths: list[Path] = []
    for path in choices.text:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix != ".json")
            if not inside:
                raise DataError(f"{path} holds no text files")
            paths += inside
        else:
            paths.append(path)
    return tuple(DomainText(path.name, read_text([path])) for path in paths)


def output_paths(source: GgufFile, output: Path | None, budgets: tuple[int, ...]) -> list[Path]:
    """One file for each budget."""
    stem = _SOURCE_TYPE.sub("", _SHARD.sub("", source.path.name.removesuffix(".gguf")))
    folder = output or Path()
    if len(budgets) > 1 and folder.is_file():
        raise typer.BadParameter(
            f"{folder} is no folder; several files are named after their budgets, give a folder",
            param_hint="--output",
        )
    if len(budgets) == 1 and output is not None and not output.is_dir():
        return [output]
    return [folder / f"{stem}-{budget}.gguf" for budget in budgets]


def search_matrix(
    out: Output,
    source: GgufFile,
    paths: list[Path],
    given: Path | None,
    calibration: CalibrationChoices,
    moments: HessianChoices,
    compute: ComputeChoices,
) -> tuple[Imatrix, Path | None]:
    """The matrix of a file, or one that is collected and kept beside the first result.

    With it the file of second moments, where they are asked for: given, or kept in the same way.
    """
    from apex_native.imatrix import load_imatrix

    if given is not None and calibration.calibration is not None:
        raise typer.BadParameter(
            "makes an importance matrix of its own; leave out --imatrix", param_hint="--calibration"
        )
    if given is not None and moments.collects:
        raise typer.BadParameter(
            "collects from the text of the matrix; leave out --imatrix, or give the FILE that "
            "`imatrix --hessian` wrote with it", param_hint="--hessian",
        )  # fmt: skip
    file = None if moments.hessian is None or moments.collects else Path(moments.hessian)
    with search_hessian(file):
        pass  # no file of second moments: known before the calibration
    if given is None:
        first = paths[0] if len(paths) == 1 else paths[0].with_name(source.path.name)
        first.parent.mkdir(parents=True, exist_ok=True)
        given = matrix_path(first)
        collected = given.with_name(given.name.replace(".imatrix.", ".hessian."))
        file = collected if moments.collects else file
        _collect(out, source, given, collected if moments.collects else None, calibration, compute)
    return load_imatrix(given), file


def _collect(
    out: Output,
    source: GgufFile,
    path: Path,
    hessian: Path | None,
    calibration: CalibrationChoices,
    compute: ComputeChoices,
) -> None:
    from apex_native.cli.imatrix_report import warn_of_missing
    from apex_native.cli.progress import imatrix_progress
    from apex_native.imatrix import calibrate

    try:
        with imatrix_progress(out) as progress:
            matrix = calibrate(
                source.path,
                calibration.calibration or DEFAULT_RECIPE,
                **calibration.settings(),
                placement=compute.placement,
                output=path,
                hessian=hessian,
                resume=True,
                progress=progress,
            )
    except KeyboardInterrupt as stop:
        # Always resumed here, so that there is no option for it.
        again = "the same command goes on from there"
        notes = getattr(stop, "__notes__", [])
        notes[:] = [note.replace("go on with `resume=True`", again) for note in notes]
        raise
    warn_of_missing(out, matrix, source.facts)
    out.note(f"wrote {path}" + ("" if hessian is None else f" and {hessian}"))


@contextmanager
def search_hessian(path: Path | None) -> Iterator[Hessian | None]:
    """The second moments of a file, None without one; ImatrixError where it is none."""
    from apex_native.imatrix import HessianFile

    if path is None:
        yield None
    else:
        with HessianFile(path) as file:
            yield file.hessian
