"""Results as a table for notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from apex_native.results.model import Candidate, MeasuredModel, Reference

__all__ = ["html_table"]


def html_table(reference: Reference | None, candidates: Sequence[Candidate]) -> str:
    """One row a model, the reference first; columns that no model has a value for are left out."""
    models = [*([] if reference is None else [reference]), *candidates]
    columns = [
        (heading, cells)
        for heading, cell in _columns(models)
        if any(cells := [cell(model) for model in models])
    ]
    head = "".join(f"<th>{escape(heading)}</th>" for heading, _ in columns)
    rows = (
        "".join(f"<td>{escape(cells[i])}</td>" for _, cells in columns) for i in range(len(models))
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _columns(models: Sequence[MeasuredModel]) -> list[tuple[str, Callable[[MeasuredModel], str]]]:
    tasks = dict.fromkeys(score.task for model in models for score in model.tasks)
    tests = dict.fromkeys(test.test for model in models for test in model.speed)
    return [
        ("model", lambda model: model.name),
        ("GiB", lambda model: "" if model.bytes is None else f"{model.bytes / (1 << 30):.3f}"),
        ("bpw", lambda model: _number(model.bpw, ".3f")),
        ("PPL", lambda model: _number(model.ppl, ".4f")),
        ("KLD mean", lambda model: _of_candidate(model, "kld_mean", ".6f")),
        ("KLD 99.9 %", lambda model: _of_candidate(model, "kld_p999", ".4f")),
        ("same top", lambda model: _of_candidate(model, "same_top", ".2%")),
        *((task, _task_cell(task)) for task in tasks),
        *((f"{test}, tokens/s", _speed_cell(test)) for test in tests),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _of_candidate(model: MeasuredModel, key: str, form: str) -> str:
    return _number(getattr(model, key), form) if isinstance(model, Candidate) else ""


def _task_cell(task: str) -> Callable[[MeasuredModel], str]:
    """A score, marked where guessing could have given it."""

    def cell(model: MeasuredModel) -> str:
        for score in model.tasks:
            if score.task == task:
                inside = score.low <= score.chance <= score.high
                at_chance = inside or not score.distinguishable_from_chance
                return f"{score.score:.1%}{' (chance)' if at_chance else ''}"
        return ""

    return cell


def _speed_cell(test: str) -> Callable[[MeasuredModel], str]:
    def cell(model: MeasuredModel) -> str:
        medians = [run.median for run in model.speed if run.test == test]
        return f"{medians[0]:,.1f}" if medians else ""

    return cell
