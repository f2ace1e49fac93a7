"""What an iterator gives, each item made while the one before is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from apex_native.errors import Cancelled
from apex_native.interrupt import POLL_S, Call

__all__ = ["one_ahead"]

Item = TypeVar("Item")


class _End:
    """Comes behind the last item."""


def one_ahead(
    items: Iterator[Item], stop: Callable[[], None], cancel: threading.Event | None = None
) -> Generator[Item, None, None]:
    """The items in their order; the next is made in a thread meanwhile.

    stop makes what is being made end soon; it is called when the last item was given, or the caller
    wants no more, and whatever runs then is waited for. Close it to be sure of that. Raises what
    making an item raises, when its turn comes, and Cancelled where cancel is set meanwhile.
    """
    making = _start(items)
    try:
        while True:
            while not making.finished.wait(POLL_S):
                if cancel is not None and cancel.is_set():
                    raise Cancelled("stopped by the caller")
            item = making.result()
            if isinstance(item, _End):
                return
            making = _start(items)
            yield item
    finally:
        stop()
        making.wait_if_started()


def _start(items: Iterator[Item]) -> Call[Item | _End]:
    call = Call(lambda: next(items, _End()))
    call.start()
    return call
