"""Runs functions of the test modules in forked children, so that a crash is a failed test.

A server process is started once. It has one thread and has imported the package, so a fork of it
is cheap and safe, which a fork of pytest (with numpy's and our own threads) would not be. Each
call gets a child of its own; a child that dies of a signal, or hangs, fails the call.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIME_LIMIT_SECONDS = 120
"""Hundreds of times what any call takes; a child that is killed by it hangs."""


@dataclass(frozen=True)
class Outcome:
    """What a call did: its value, or the class (with bases) and message of its exception."""

    value: Any = None
    error: tuple[str, ...] = ()
    message: str = ""


class Isolation:
    """Client side: ``isolation(function, *args)`` with a module-level function and JSON values."""

    def __init__(self) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "OPENBLAS_NUM_THREADS": "1",
            },
        )

    def close(self) -> None:
        self._server.communicate()
        self._stderr.close()

    def run(self, function: Callable[..., Any], *args: Any) -> Outcome:
        """The outcome of function(*args); AssertionError if the child did not live to tell."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        module = Path(function.__code__.co_filename).stem
        request = {"module": module, "function": function.__name__, "args": args}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        call = f"{function.__name__}{args}"
        if answer["signal"]:
            name = signal.Signals(answer["signal"]).name
            raise AssertionError(f"{call} died of {name}:\n{self._errors()}")
        result = answer["result"]
        assert result is not None, f"{call} ended its process:\n{self._errors()}"
        return Outcome(result["value"], tuple(result["error"]), result["message"])

    def _errors(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-2000:].decode(errors="replace")


def _call(request: dict[str, Any]) -> dict[str, Any]:
    try:
        module = importlib.import_module(request["module"])
        value = getattr(module, request["function"])(*request["args"])
    except BaseException as error:  # noqa: BLE001  (whatever it is, the test wants to see it)
        classes = [kind.__name__ for kind in type(error).__mro__]
        traceback.print_exc()
        return {"value": None, "error": classes, "message": str(error)}
    return {"value": value, "error": [], "message": ""}


def _child(request: dict[str, Any], pipe: int) -> None:
    signal.alarm(TIME_LIMIT_SECONDS)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # ggml prints; stdout is for answers
    result = json.dumps(_call(request))
    with os.fdopen(pipe, "w") as out:
        out.write(result)
    sys.stderr.flush()
    os._exit(0)


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        importlib.import_module(request["module"])  # once, here, for all children
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(request, writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        status = os.waitpid(pid, 0)[1]
        died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(json.dumps({"signal": died_of, "result": json.loads(text) if text else None}))
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
