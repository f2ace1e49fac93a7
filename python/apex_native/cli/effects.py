"""Options that do nothing, or undo others: refused, because nobody writes an option for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["refuse_options_without_effect"]

Values = Mapping[str, Any]

_DEVICES = ("gpu_layers", "gpu", "split_mode", "tensor_split", "main_gpu")
_PLACED = ("gpu_layers", "split_mode", "tensor_split")
"""What --gpu-memory decides."""

_OF_A_TEXT = (
    *("ctx", "chunks", "parse_special", "two_pass", "noise_chunks", "no_router", "save_base"),
    *("ubatch_size", "by_text"),
)
_OF_A_COLLECTION = (
    *("ctx", "chunks", "skip_chunks", "min_expert_tokens", "parse_special", "all_experts"),
    *("scope", "batch", "ubatch", "checkpoint_every", "resume", "threads", "gpu_memory"),
    *_DEVICES,
)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Options that need something else; unless says what, as a phrase after 'has no effect'."""

    options: tuple[str, ...]
    works: Callable[[Values], bool]
    unless: str


def _tasks(values: Values) -> bool:
    return any(values[name] for name in ("hellaswag", "winogrande", "multiple_choice"))


def _no_limit(values: Values) -> bool:
    return values["gpu_memory"] is None


def _is_base(reference: Path | None) -> bool:
    from apex_native.evaluation import is_base_file

    return reference is not None and is_base_file(Path(reference))  # older typer gives text


def _fits(values: Values) -> bool:
    return values["fit"] is not None or bool(values["gpu"])


_SIZED = _Rule(("ctx", "type_k", "type_v"), lambda v: v["fit"] is not None, "without --fit")
_COLLECTED = _Rule(
    ("calibration_chunks", "parse_special"), lambda v: v["imatrix"] is None, "with --imatrix"
)

_PLANNING = (
    _Rule(("prior",), lambda v: bool(v["imatrix"] or v.get("calibration")), "without --imatrix"),
    _Rule(("semantics",), lambda v: v["tier"] is not None, "without --tier"),
)


def _unless_planned(rule: _Rule) -> _Rule:
    def works(values: Values) -> bool:
        return values["plan_file"] is not None or rule.works(values)

    return _Rule(rule.options, works, rule.unless)


_RULES: Mapping[str, tuple[_Rule, ...]] = {
    "plan": (
        *_PLANNING,
        _Rule(("force",), lambda v: v["output"] is not None, "without -o"),
        _Rule(("on", "ctx", "type_k", "type_v"), _fits, "without --fit or --gpu"),
    ),
    "inspect": (
        _Rule(("type_k", "type_v"), lambda v: v["ctx"] is not None, "without --ctx"),
        _Rule(("threads",), lambda v: v["stats"], "without --stats"),
    ),
    "search": (_SIZED, _COLLECTED),
    "strategies": (_SIZED, _COLLECTED),
    "quantize": (
        # A saved plan refuses these itself, with a better sentence.
        *(_unless_planned(rule) for rule in _PLANNING),
        _Rule(
            ("calibration_chunks", "parse_special", *_DEVICES),
            lambda v: v["calibration"] is not None,
            "without --calibration",
        ),
        _Rule(("verify_gpu",), lambda v: v["device"] != "cpu", "without --device cuda"),
    ),
    "imatrix": (
        _Rule(_OF_A_COLLECTION, lambda v: v["model"] is not None, "where no matrix is collected"),
        _Rule(("format",), lambda v: v["show_statistics"] is None, "with --show-statistics"),
        _Rule(("batch", "ubatch", *_PLACED), _no_limit, "with --gpu-memory"),
    ),
    "eval": (
        _Rule(
            ("ctx", "parse_special", "save_base", "noise_chunks", "two_pass", "by_text"),
            lambda v: not _is_base(v["reference"]),
            "where --reference is a base file, which brings text and context",
        ),
        _Rule(
            _OF_A_TEXT,
            lambda v: bool(v["text"]) or _is_base(v["reference"]),
            "without a text to score",
        ),
        _Rule(("two_pass", "ubatch_size", *_PLACED), _no_limit, "with --gpu-memory"),
        _Rule(("tasks_limit", "compat", "all_questions"), _tasks, "without a task"),
        _Rule(
            ("two_pass", "no_router", "save_base", "by_text"),
            lambda v: v["reference"] is not None,
            "without --reference",
        ),
        _Rule(
            ("save_base", "hellaswag", "winogrande", "multiple_choice"),
            lambda v: not v["by_text"],
            "with --by-text",
        ),
    ),
    "bench": (_Rule(("force",), lambda v: v["results"] is not None, "without --results"),),
}


def refuse_options_without_effect(ctx: Any) -> None:
    """Raise a usage error for an option that was typed and changes nothing, or undoes another."""
    if ctx.params.get("resume") and ctx.params.get("force"):
        ctx.fail("--resume goes on with a run, --force starts again; leave one out")
    for rule in _RULES.get(ctx.info_name or "", ()):
        for name in rule.options:
            source = ctx.get_parameter_source(name)
            typed = source is not None and source.name == "COMMANDLINE"
            if typed and not rule.works(ctx.params):
                option = next(p for p in ctx.command.get_params(ctx) if p.name == name)
                ctx.fail(f"{max(option.opts, key=len)} has no effect {rule.unless}; leave it out")
