"""The models of a report: the reference first, then the candidates, and what they were run on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from apex_native.printable import counted
from apex_native.reports import numbers
from apex_native.results import (
    Candidate,
    NoiseFloor,
    Reference,
    Results,
    SpeedTest,
    TaskScore,
)

__all__ = [
    "TASK_TITLES",
    "Model",
    "SpeedSettings",
    "all_models",
    "by_size",
    "common_speed_settings",
    "kv_cache",
    "noise_floor_line",
    "speed_conditions",
    "speed_of",
    "speed_settings",
    "task_names",
    "task_of",
    "task_title",
    "tests_of",
    "text_conditions",
]

Model = Reference | Candidate

TASK_TITLES = {
    "hellaswag": "HellaSwag",
    "winogrande": "Winogrande",
    "mmlu": "MMLU",
    "arc": "ARC",
    "truthfulqa": "TruthfulQA",
}
"""The published table's columns, in its order."""

SpeedSettings = tuple[str | None, int, str, str, int | None, int | None, str]
"""device, n_threads, type_k, type_v, n_batch, n_ubatch, flash_attn: speeds compare where
all agree."""


def by_size(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The largest first; those of unknown size at the end, in their order."""
    return tuple(sorted(candidates, key=lambda candidate: -(candidate.bytes or 0)))


def all_models(results: Results) -> tuple[Model, ...]:
    """The reference, where there is one, and the candidates, the largest first."""
    reference = () if results.reference is None else (results.reference,)
    return (*reference, *by_size(results.candidates))


def text_conditions(results: Results) -> str:
    """What every heading of text metrics says: the text, the context, how much of it."""
    data = results.data
    if data is None:
        return "no text scored"
    chunks = "1 chunk" if data.n_chunks == 1 else f"{data.n_chunks:,} chunks"
    return f"{data.name}, context {data.ctx}, {chunks}"


def noise_floor_line(floor: NoiseFloor | None) -> str:
    """The line that belongs under every table of KLD."""
    if floor is None:
        return "Noise floor: not measured, so no KLD can be told from the noise of computing it."
    return (
        f"Noise floor ({floor.description}): KLD mean {numbers.kld(floor.kld_mean, floor.kld_se)},"
        f" 99.9 % {numbers.kld(floor.kld_p999)}, max {numbers.kld(floor.kld_max)}. "
        "What is not clearly above it is not a loss of quality."
    )


def kv_cache(candidate: Model) -> str:
    """``q8_0/q8_0`` where a candidate has KV-cache types of its own, else nothing."""
    if not isinstance(candidate, Candidate) or not (candidate.type_k or candidate.type_v):
        return ""
    return f"{candidate.type_k or 'f16'}/{candidate.type_v or 'f16'}"


def task_names(results: Results) -> tuple[str, ...]:
    """All tasks of any model: the published ones in their order, then the others by name."""
    found = {result.task for model in all_models(results) for result in model.tasks}
    known = [task for task in TASK_TITLES if task in found]
    return (*known, *sorted(found - set(known)))


def task_title(task: str) -> str:
    """The task as its authors write it."""
    return TASK_TITLES.get(task, task)


def task_of(model: Model, task: str) -> TaskScore | None:
    """A model's score in a task; None if it was not run."""
    return next((result for result in model.tasks if result.task == task), None)


def speed_settings(test: SpeedTest) -> SpeedSettings:
    """What a speed was measured with, the test itself apart."""
    return (
        test.device,
        test.n_threads,
        test.type_k,
        test.type_v,
        test.n_batch,
        test.n_ubatch,
        test.flash_attn,
    )


def common_speed_settings(results: Results) -> SpeedSettings | None:
    """The settings most speed tests share (the first of several); None without any test."""
    counts = Counter(speed_settings(test) for model in all_models(results) for test in model.speed)
    return counts.most_common(1)[0][0] if counts else None


def speed_of(model: Model, test: str, settings: SpeedSettings | None) -> SpeedTest | None:
    """A model's run of a test with exactly these settings."""
    runs = (run for run in model.speed if run.test == test and speed_settings(run) == settings)
    return next(runs, None)


def speed_conditions(settings: SpeedSettings | None) -> str:
    """The settings in words, for a heading."""
    if settings is None:
        return "not measured"
    device, n_threads, type_k, type_v, n_batch, n_ubatch, flash_attn = settings
    parts = [device or "device not stated"]
    parts.append(counted(n_threads, "thread"))
    if n_batch is not None:
        parts.append(f"batch {n_batch}" + (f"/{n_ubatch}" if n_ubatch is not None else ""))
    parts.append(f"KV {type_k}/{type_v}")
    if flash_attn != "auto":
        parts.append(f"flash attention {flash_attn}")
    return ", ".join(parts)


def tests_of(models: Sequence[Model], settings: SpeedSettings | None) -> tuple[str, ...]:
    """All tests run with these settings, prompt processing first, short ones first."""
    found = {t.test for m in models for t in m.speed if speed_settings(t) == settings}
    return tuple(sorted(found, key=_test_order))


def _test_order(test: str) -> tuple[bool, int, str]:
    digits = "".join(char for char in test if char.isdecimal())
    return (not test.startswith("pp"), int(digits[:9] or 0), test)
