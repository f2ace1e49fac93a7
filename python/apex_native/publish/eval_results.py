"""``.eval_results/*.yaml``: scores of tasks as the Hub shows them on a model's page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apex_native.results import Candidate

__all__ = ["eval_results"]

_DATASETS = {
    "hellaswag": ("Rowan/hellaswag", "hellaswag"),
    "winogrande": ("allenai/winogrande", "winogrande"),
    "mmlu": ("cais/mmlu", "mmlu"),
    "arc": ("allenai/ai2_arc", "arc_challenge"),
    "truthfulqa": ("truthfulqa/truthful_qa", "multiple_choice"),
}
"""Dataset on the Hub and the task's name there."""


def eval_results(candidates: Iterable[Candidate]) -> dict[str, list[dict[str, Any]]]:
    """Entries by name of file; notes say which quantized file and which items.

    Tasks under another name, and scores that guessing could have given, are left out.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    found: dict[str, list[EvalResultEntry]] = {}
    for candidate in candidates:
        for score in candidate.tasks:
            if score.task not in _DATASETS or not score.distinguishable_from_chance:
                continue
            dataset, task = _DATASETS[score.task]
            interval = f"95 % interval {100 * score.low:.2f} to {100 * score.high:.2f}"
            items = score.selection or f"{score.n} items"
            notes = f"{candidate.name}; {items}; {interval}"
            value = round(100 * score.score, 2)
            entry = EvalResultEntry(dataset_id=dataset, task_id=task, value=value, notes=notes)
            found.setdefault(score.task, []).append(entry)
    return {name: eval_result_entries_to_yaml(entries) for name, entries in found.items()}
