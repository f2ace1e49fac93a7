"""``apex-native strategies``: rules of thumb at equal bytes, ranked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.calibration_options import CalibrationChoices
from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.hessian import HessianChoices
from apex_native.cli.options import JsonOption, ModelArgument, QuietOption, examples, spread
from apex_native.cli.output import Output
from apex_native.cli.search_options import BudgetChoices, RuleChoices, SearchTextChoices
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.allocation import Ranking, SearchRequest
    from apex_native.gguf import GgufFile
    from apex_native.imatrix import Imatrix

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "strategies",
        short_help="Rank rules of thumb at equal size, and the search.",
        epilog=examples(
            "apex-native strategies model-bf16.gguf --budget 16GiB --imatrix imatrix.gguf",
            "apex-native strategies model-bf16.gguf --budget 16GiB -f chat.txt -f code.txt --json",
            "apex-native strategies model-bf16.gguf -b 16GiB --other-matrix wiki.imatrix.gguf",
        ),
    )(spread(strategies))


def strategies(
    file: ModelArgument,
    budgets: BudgetChoices,
    texts: SearchTextChoices,
    calibration: CalibrationChoices,
    rules: RuleChoices,
    compute: ComputeChoices,
    other_matrix: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The uniform strategy with another matrix, too."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the search's measurements here.")
    ] = None,
    no_search: Annotated[
        bool, typer.Option("--no-search", help="Leave out the measured search.")
    ] = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank some thirty allocation strategies at equal bytes on text none of them was made for.

    Each is a rule of thumb (edges more precise, Q8_0 for attention) that spends the same bytes; no
    model is written.
    """
    from apex_native.allocation import check_budgets, rank_strategies
    from apex_native.cli.progress import step_progress
    from apex_native.cli.search_inputs import make_request, output_paths, search_matrix
    from apex_native.gguf import open_gguf

    out = Output(json_mode=json_mode, quiet=quiet)
    with open_gguf(file) as source:
        request = make_request(out, source, budgets, texts, rules, compute)
        for line in check_budgets(source, request):
            out.warning(line)
        paths = output_paths(source, None, request.budgets)
        imatrix, _ = search_matrix(
            out, source, paths, texts.imatrix, calibration, HessianChoices(), compute
        )
        found = []
        for budget in request.budgets:
            more = _others(source, budget, request, imatrix, other_matrix or [])
            if not no_search:
                more |= _searched(out, source, budget, request, imatrix, store)
            with step_progress(out) as progress:
                one = _only(request, budget)
                found += rank_strategies(source, one, imatrix, more=more, progress=progress)
    out.document({"budgets": [_as_json(ranking) for ranking in found]})
    for ranking in found:
        out.table(_table(ranking))
        out.text()


def _only(request: SearchRequest, budget: int) -> SearchRequest:
    from dataclasses import replace

    return replace(request, budgets=(budget,))


def _searched(
    out: Output,
    source: GgufFile,
    budget: int,
    request: SearchRequest,
    imatrix: Imatrix,
    store: Path | None,
) -> dict[str, tuple[str, Any, Imatrix | None]]:
    from apex_native.allocation import search_types
    from apex_native.cli.progress import step_progress

    with step_progress(out) as progress:
        outcome = search_types(
            source, _only(request, budget), imatrix, store=store, progress=progress
        )
    found = outcome.budgets[0]
    return {"search": ("measured on other text than this", found.types, imatrix)}


def _others(
    source: GgufFile,
    budget: int,
    request: SearchRequest,
    imatrix: Imatrix,
    paths: list[Path],
) -> dict[str, tuple[str, Any, Imatrix | None]]:
    from apex_native.allocation import uniform_types
    from apex_native.imatrix import load_imatrix

    types = uniform_types(source, _only(request, budget), imatrix)
    return {
        f"uniform-{path.stem}": (
            f"uniform with {path.name}",
            types,
            load_imatrix(path),
        )
        for path in paths
    }


def _table(ranking: Ranking) -> Table:
    rows = []
    for place, row in enumerate(ranking.rows, 1):
        ratio = row.ratio
        rows.append(
            (
                str(place),
                row.name,
                f"{row.nbytes:,}",
                f"{row.kld_mean:.4f} ± {row.kld_se:.4f}",
                "–" if ratio is None else f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
                row.says,
            )
        )
    columns = (
        Column("", right=True),
        Column("strategy"),
        Column("bytes", right=True),
        Column("KLD mean", right=True),
        Column("over the one above", right=True, drop=1),
        Column("what it says", wraps=True),
    )
    skipped = tuple(f"left out: {name}: {reason}" for name, reason in ranking.skipped.items())
    return Table(columns, rows, title=f"at most {ranking.budget:,} bytes", notes=skipped)


def _as_json(ranking: Ranking) -> dict[str, Any]:
    return {
        "budget": ranking.budget,
        "strategies": [
            {
                "name": row.name,
                "says": row.says,
                "bytes": row.nbytes,
                "kld_mean": row.kld_mean,
                "kld_se": row.kld_se,
                "ratio_to_previous": None
                if row.ratio is None
                else [row.ratio.value, row.ratio.low, row.ratio.high],
            }
            for row in ranking.rows
        ],
        "skipped": dict(ranking.skipped),
    }
