"""What a searched file does otherwise than the best fixed recipe, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.allocation import BudgetOutcome, Difference

__all__ = ["difference_table", "differences_as_json"]


def difference_table(found: BudgetOutcome) -> Table:
    """Kind by kind: bits in both files, bytes moved, and the KLD that the units' curves expect."""
    kinds: dict[str, list[Difference]] = {}
    for difference in found.differences:
        kinds.setdefault(difference.kind, []).append(difference)
    best = found.best_baseline
    name = "the recipe" if best is None else best.name
    rows = [_row(kind, units) for kind, units in kinds.items()]
    columns = (
        Column("kind"),
        Column("bpw there", right=True),
        Column("here", right=True),
        Column("bytes moved", right=True),
        Column("KLD there", right=True),
        Column("here", right=True),
        Column("types that changed most", wraps=True, drop=1),
    )
    return Table(
        columns,
        rows,
        title=f"what differs from {name}",
        notes=(
            "KLD: what the measured curves expect of each kind, in nats; it says why bytes moved",
        ),
    )


def _row(kind: str, units: list[Difference]) -> tuple[str, ...]:
    n_weights = sum(unit.n_weights for unit in units)
    there, here = sum(u.other_nbytes for u in units), sum(u.nbytes for u in units)
    changes: Counter[str] = Counter()
    for unit in units:
        changes.update(
            f"{other}→{own}"
            for other, own in zip(unit.other_types, unit.types, strict=True)
            if other != own
        )
    return (
        kind,
        f"{8 * there / n_weights:.2f}",
        f"{8 * here / n_weights:.2f}",
        f"{here - there:+,}",
        f"{sum(u.other_kld for u in units):.4f}",
        f"{sum(u.kld for u in units):.4f}",
        " ".join(f"{n}×{change}" for change, n in changes.most_common(3)) or "–",
    )


def differences_as_json(found: BudgetOutcome) -> list[dict[str, Any]]:
    """Unit by unit."""
    return [asdict(difference) for difference in found.differences]
