"""Scores of tasks for a terminal: a table a task, the largest model first."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from apex_native.cli.output import Output
from apex_native.cli.result_tables import UNCLEAR
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.reports.labels import ShortNames
    from apex_native.results import Results, TaskScore

__all__ = ["show_tasks"]

_COLUMNS = (
    Column("model", wraps=True),
    Column("score %", right=True),
    Column("95 % interval", right=True, drop=1),
    Column("than the next row", wraps=True),
)

_CHANCE = "(chance): not distinguishable from guessing, so the score says nothing."
_MCNEMAR = (
    "Better, worse: McNemar's exact test on the same questions at 5 %; --json has every pair."
)


def show_tasks(
    out: Output, scores: Mapping[str, tuple[TaskScore, ...]], results: Results | None = None
) -> None:
    """All scores of these models, each marked where guessing could have given it.

    A model is compared with the next smaller one that answered the same questions; ``results``
    know the sizes, and without them the order is that of ``scores``.
    """
    from apex_native.reports.labels import ShortNames
    from apex_native.reports.models import all_models

    ordered = [] if results is None else [m.name for m in all_models(results) if m.name in scores]
    ordered += [name for name in scores if name not in ordered]
    known = () if results is None or results.reference is None else (results.reference.name,)
    names = ShortNames([name for name in ordered if name not in known], known)
    kinds = dict.fromkeys(_kind(score) for name in ordered for score in scores[name])
    for kind in kinds:
        own = {name: s for name in ordered for s in scores[name] if _kind(s) == kind}
        out.table(_table(own, names))
        out.text()


def _kind(score: TaskScore) -> tuple[object, ...]:
    """Scores of the same questions are of one kind."""
    return (score.task, score.n, score.data_sha256, score.selection, score.compat, score.chance)


def _table(scores: Mapping[str, TaskScore], names: ShortNames) -> Table:
    from apex_native.reports.models import task_title
    from apex_native.reports.numbers import at_chance, score

    rows = []
    for (name, own), (next_name, _) in pairwise([*scores.items(), ("", None)]):
        assert own is not None
        interval = f"{100 * own.low:.1f} to {100 * own.high:.1f}"
        rows.append((names[name], score(own), interval, _against(own, next_name)))
    first = next(iter(scores.values()))
    compat = f", compat {first.compat}" if first.compat else ""
    left_out = f"; {first.n_skipped:,} longer than the context left out" if first.n_skipped else ""
    title = (
        f"{task_title(first.task)}: {first.n:,} questions, guessing gives "
        f"{100 * first.chance:.1f} %{compat}{left_out}"
    )
    notes = [
        f"INVALID: {names[name]}: log-probabilities of {own.n_not_finite:,} of {own.n:,} questions "
        "are not finite; they count as wrong"
        for name, own in scores.items()
        if own.n_not_finite
    ]
    notes += [_CHANCE] if any(at_chance(own) for own in scores.values()) else []
    notes += [_MCNEMAR] if len(rows) > 1 else []
    notes += [names.note] if names.note else []
    return Table(_COLUMNS, rows, title=title, notes=tuple(notes))


def _against(score: TaskScore, other: str) -> str:
    """The verdict on a model and its next smaller neighbour, with its p-value."""
    from apex_native.results import Verdict

    test = next((test for test in score.comparisons if test.other == other), None)
    if test is None:
        return ""
    p = f"{test.p_value:.2g}" if test.p_value >= 1e-4 else "< 0.0001"
    unclear = test.verdict is Verdict.NOT_DISTINGUISHABLE
    return f"{UNCLEAR if unclear else test.verdict.value} (p {p})"
