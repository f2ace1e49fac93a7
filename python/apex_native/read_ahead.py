"""Model files brought into memory by a thread, while something else computes.

They go to the system's page cache, which gives them up where memory is needed: llama.cpp, which
maps them later, then waits for no disk.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from apex_native._native import core
from apex_native.closable import Closable
from apex_native.errors import ApexError, Cancelled

__all__ = ["ReadAhead"]

_logger = logging.getLogger("apex_native.read_ahead")


class ReadAhead(Closable):
    """Reads files in order, as long as they fit; `close` ends it within some milliseconds.

    Whatever stops it before the end is no error: who loads a file reads what is missing.
    """

    def __init__(self, paths: Sequence[Path], room: int) -> None:
        """Begin. paths: any shard of each model. room: bytes that all of them may take together."""
        self._stop = core.StopFlag()
        self._thread = threading.Thread(
            target=self._run, args=(paths, room), name="apex-native read ahead", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until everything is read that fits."""
        self._thread.join()

    def close(self) -> None:
        """Read no further."""
        self._stop.set()
        self._thread.join()

    def _run(self, paths: Sequence[Path], room: int) -> None:
        try:
            for path in paths:
                files = core.ReadAhead(os.fspath(path))
                room -= files.n_bytes
                if room < 0:
                    return
                files.run(self._stop)
        except Cancelled:
            return
        except ApexError as error:
            _logger.debug("not read ahead: %s", error)
