"""Which items of a file are asked: the same as llama-perplexity asks."""

from __future__ import annotations

from dataclasses import dataclass

from apex_native._native import core
from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import Item, TaskFile, TaskKind

__all__ = ["Selection", "select_items"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Items in the order they are asked, and how a reader can select them again."""

    items: tuple[Item, ...]
    description: str


def select_items(file: TaskFile, n_tasks: int | None) -> Selection:
    """At most n_tasks items; None or 0 for all.

    HellaSwag items are drawn uniformly, even where all are asked; those of other tasks with
    llama-perplexity's own float formula, and in the file's order where all are asked. Both begin
    with mt19937(1), so the same number of the same file is always the same items.
    """
    n_items = len(file.items)
    if n_tasks is not None and n_tasks < 0:
        raise DataError(f"number of tasks: expected at least 0 (all), found {n_tasks}")
    n = min(n_tasks or n_items, n_items)
    if file.kind is TaskKind.HELLASWAG:
        indices = core.draw_uniform(n_items, n)
    elif n < n_items:
        indices = core.draw_scaled(n_items, n)
    else:
        indices = list(range(n_items))
    description = f"all {n}" if n == n_items else f"{n} of {n_items}, mt19937 seed 1"
    return Selection(tuple(file.items[i] for i in indices), description)
