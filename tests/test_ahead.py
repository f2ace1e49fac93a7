"""Items made while the one before is in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from apex_native.ahead import one_ahead
from apex_native.errors import Cancelled


def test_items_keep_their_order() -> None:
    assert list(one_ahead(iter(range(20)), lambda: None)) == list(range(20))
    assert list(one_ahead(iter(()), lambda: None)) == []


def test_one_is_made_while_another_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    ahead = one_ahead(items(), lambda: None)
    assert next(ahead) == 0
    assert made[1].wait(10)
    assert not made[2].is_set()
    assert list(ahead) == [1, 2]


def test_an_error_comes_when_its_item_does() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    ahead = one_ahead(items(), lambda: None)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second"):
        next(ahead)


def test_what_is_being_made_is_stopped_and_waited_for() -> None:
    stop, ended = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert stop.wait(10)
        ended.set()

    ahead = one_ahead(items(), stop.set)
    next(ahead)
    ahead.close()
    assert ended.is_set()


def test_a_caller_who_waits_can_cancel() -> None:
    stop, cancel = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        cancel.set()
        stop.wait(10)
        yield 1

    with pytest.raises(Cancelled):
        next(one_ahead(items(), stop.set, cancel))
    assert stop.is_set()
