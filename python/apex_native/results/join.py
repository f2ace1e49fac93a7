"""What two files measured of one model, put together."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from apex_native.errors import ResultsError
from apex_native.results.model import Candidate, Reference, SpeedTest
from apex_native.results.tasks import McNemar, TaskScore

__all__ = ["NAMES_ONLY", "join_measurements"]

_Model = TypeVar("_Model", Candidate, Reference)

NAMES_ONLY = ("name", "path")
"""Keys that may differ: they say where a file lay, not what was in it."""

_LISTS = ("tasks", "speed")


def join_measurements(first: _Model, second: _Model) -> _Model:
    """Everything of both, with the first's name; of a speed test measured twice the second's.

    Raises ResultsError, naming the key, where both have a value and they differ.
    """
    values: dict[str, Any] = {
        "tasks": _merge_tasks(first, second),
        "speed": _merge_speed(first.speed, second.speed),
    }
    for field in dataclasses.fields(first):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if field.name in _LISTS:
            continue
        missing = ours is None or ours == ()
        if not missing and field.name not in NAMES_ONLY and theirs not in (None, (), ours):
            raise _measured_twice(first.name, field.name, ours, theirs)
        values[field.name] = theirs if missing else ours
    return dataclasses.replace(first, **values)


def _measured_twice(name: str, key: str, ours: object, theirs: object) -> ResultsError:
    return ResultsError(
        f"'{name}' has two values of {key}: {ours!s:.60} in one file and {theirs!s:.60} in "
        "another; leave one of the files out"
    )


def _merge_tasks(first: _Model, second: _Model) -> tuple[TaskScore, ...]:
    scores = {score.task: score for score in first.tasks}
    for score in second.tasks:
        ours = scores.get(score.task)
        scores[score.task] = score if ours is None else _same_score(first.name, ours, score)
    return tuple(scores.values())


def _same_score(name: str, ours: TaskScore, theirs: TaskScore) -> TaskScore:
    for field in dataclasses.fields(ours):
        if field.name == "comparisons":
            continue
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if mine != other:
            raise _measured_twice(name, f"{ours.task} ({field.name})", mine, other)
    tests: dict[str, McNemar] = {test.other: test for test in theirs.comparisons}
    tests.update((test.other, test) for test in ours.comparisons)
    return dataclasses.replace(ours, comparisons=tuple(tests.values()))


def _merge_speed(
    first: tuple[SpeedTest, ...], second: tuple[SpeedTest, ...]
) -> tuple[SpeedTest, ...]:
    tests = {_speed_settings(test): test for test in (*first, *second)}
    return tuple(tests.values())


def _speed_settings(test: SpeedTest) -> tuple[object, ...]:
    return dataclasses.astuple(dataclasses.replace(test, median=0.0, samples=()))
