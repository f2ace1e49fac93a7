"""What ``apex-native search`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_native.cli.search_speed_tables import speed_table, surface_table
from apex_native.cli.search_why import difference_table, differences_as_json
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.allocation import BudgetOutcome, SearchOutcome

__all__ = [
    "document",
    "notes",
    "picture_path",
    "recipe_path",
    "report_path",
    "surface_path",
    "tables",
]


def recipe_path(path: Path) -> Path:
    """``NAME.recipe.toml`` for ``NAME.gguf``."""
    return path.with_name(path.name.removesuffix(".gguf") + ".recipe.toml")


def picture_path(path: Path) -> Path:
    """``NAME.bits.png`` for ``NAME.gguf``."""
    return path.with_name(path.name.removesuffix(".gguf") + ".bits.png")


def report_path(path: Path) -> Path:
    """``NAME.search.json`` for ``NAME.gguf``."""
    return path.with_name(path.name.removesuffix(".gguf") + ".search.json")


def surface_path(path: Path) -> Path:
    """``NAME.surface.png`` for ``NAME.gguf``."""
    return path.with_name(path.name.removesuffix(".gguf") + ".surface.png")


def tables(outcome: SearchOutcome, paths: list[Path]) -> Iterator[Table]:
    """The results, where each budget's bits went, why, and speeds where they were asked for."""
    yield _results(outcome, paths)
    for found, path in zip(outcome.budgets, paths, strict=True):
        yield _types(found, path)
        if found.differences and found.name == "search":
            yield difference_table(found)
    if any(found.predicted_speed for found in outcome.budgets):
        yield speed_table(outcome, paths)
    if outcome.report.get("surface"):
        yield surface_table(outcome)


def _results(outcome: SearchOutcome, paths: list[Path]) -> Table:
    rows = []
    for found, path in zip(outcome.budgets, paths, strict=True):
        best = found.best_baseline
        rows.append(
            (
                path.name,
                f"{found.nbytes:,}",
                f"{found.kld_mean:.4f} ± {found.kld_se:.4f}",
                f"{found.predicted:.4f}",
                "–" if best is None else best.name,
                "–" if best is None else f"{best.kld_mean:.4f}",
                _ratio(found),
            )
        )
    least = outcome.report.get("speed", {}).get("least_tg")
    fast = "" if least is None else f", of {least:.1f} tokens/s at least as predicted"
    columns = (
        Column("file"),
        Column("bytes", right=True),
        Column("KLD mean", right=True),
        Column("predicted", right=True, drop=2),
        Column("best fixed"),
        Column("its KLD", right=True, drop=1),
        Column("ratio [95 %]", right=True),
    )
    return Table(
        columns,
        rows,
        notes=(
            "KLD in nats from the source, on text that nothing was fitted or chosen on",
            "best fixed: of all tiers and mixes that are not larger, with the same matrix" + fast,
        ),
    )


def _ratio(found: BudgetOutcome) -> str:
    best = found.best_baseline
    if best is None or best.ratio is None:
        return "–"
    return f"{best.ratio.value:.3f} [{best.ratio.low:.3f}, {best.ratio.high:.3f}]"


def _types(found: BudgetOutcome, path: Path) -> Table:
    roles: dict[str, Counter[str]] = {}
    sizes: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for tensor in found.plan.tensors:
        roles.setdefault(tensor.role.value, Counter())[tensor.type.name] += 1
        sizes[tensor.role.value] += tensor.nbytes
        weights[tensor.role.value] += tensor.n_elements
    rows = [
        (
            role,
            f"{8 * sizes[role] / weights[role]:.2f}",
            " ".join(f"{n}×{name}" for name, n in counts.most_common()),
        )
        for role, counts in roles.items()
    ]
    columns = (Column("role"), Column("bpw", right=True), Column("types", wraps=True))
    return Table(columns, rows, title=path.name)


def notes(outcome: SearchOutcome) -> Iterator[str]:
    """What should be known beside the numbers."""
    for found in outcome.budgets:
        best = found.best_baseline
        if found.name != "search" and best is not None:
            yield (
                f"at {found.budget:,} bytes the search did not beat {best.name} with its interval; "
                f"the file is {best.name}"
            )
    domain = outcome.report.get("dominating_domain")
    if domain:
        yield (
            f"warning: {domain} diverges far more than the other text; it has a larger voice than "
            "they have, but less so than its KLD"
        )


def document(outcome: SearchOutcome, paths: list[Path], seconds: float) -> dict[str, Any]:
    """The JSON document."""
    return {
        "budgets": [
            _as_json(found, path) for found, path in zip(outcome.budgets, paths, strict=True)
        ],
        "seconds": seconds,
        "report": dict(outcome.report),
    }


def _as_json(found: BudgetOutcome, path: Path) -> dict[str, Any]:
    best = found.best_baseline
    ratio = None if best is None else best.ratio
    return {
        "budget": found.budget,
        "bytes": found.nbytes,
        "file": str(path),
        "kld_mean": found.kld_mean,
        "kld_se": found.kld_se,
        "kld_p999": found.kld_p999,
        "ppl": found.ppl,
        "predicted": found.predicted,
        "baseline": None if best is None else best.name,
        "ratio": None if ratio is None else ratio.value,
        "ratio_low": None if ratio is None else ratio.low,
        "ratio_high": None if ratio is None else ratio.high,
        "recipe": str(recipe_path(path)),
        "written": found.name,
        "predicted_speed": None if found.predicted_speed is None else asdict(found.predicted_speed),
        "measured_speed": None if found.measured_speed is None else asdict(found.measured_speed),
        "differences": differences_as_json(found),
        "tried": found.tried,
        "baselines": [
            {
                "name": b.name,
                "bytes": b.nbytes,
                "predicted": b.predicted,
                "kld_mean": b.kld_mean,
                "kld_p999": b.kld_p999,
                "ratio": None if b.ratio is None else [b.ratio.value, b.ratio.low, b.ratio.high],
                "ln_ppl_difference": None
                if b.ln_ppl is None
                else [b.ln_ppl.value, b.ln_ppl.low, b.ln_ppl.high],
            }
            for b in found.baselines
        ],
    }
