"""Commands that are stopped halfway: the process sends itself the signal, at a point of its work.

A test that waits for a file or a line and then sends the signal depends on how fast the machine
is: on a fast one, or where the test gets no turn, the command has ended before.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from cli_tools import MANY_SECONDS, default_interrupt, environment

_SCRIPT = """
import functools, importlib, os, sys

point, when, number, sync_every_s, *sys.argv[1:] = sys.argv[1:]
module, _, path = point.partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
real = getattr(owner, name)
sent = False

@functools.wraps(real)
def stops(*args, **kwargs):
    global sent
    result = real(*args, **kwargs)
    if not sent and eval(when, {"args": args}):
        sent = True
        os.kill(os.getpid(), int(number))
    return result

setattr(owner, name, stops)

from apex_native import interrupt
from apex_native.quantization import conversion, recorder
interrupt.POLL_S = 0.002  # looks often: the point is there whatever the machine's speed
conversion.POLL_MS = 2
if sync_every_s:
    recorder.SYNC_EVERY_S = float(sync_every_s)

from apex_native.cli.__main__ import main
main()
"""


def run_stopped(
    point: str,
    *args: str | Path,
    how: signal.Signals = signal.SIGINT,
    when: str = "True",
    sync_every_s: float | None = None,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command that gets a signal as soon as a function has returned.

    point: "module:function" or "module:Class.method". when: an expression on the call's args that
    must hold too. sync_every_s: how often `quantize` notes finished tensors, unless as always.
    env: variables of the environment.
    """
    words = (point, when, str(int(how)), "" if sync_every_s is None else str(sync_every_s))
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, *words, *(str(arg) for arg in args)],
        capture_output=True, text=True, check=False, timeout=MANY_SECONDS, env=environment(**env),
        preexec_fn=default_interrupt,
    )  # fmt: skip


TENSOR_DONE = "apex_native.quantization.recorder:Recorder.add"
"""Called at every look; args[1] are the tensors finished since."""

TENSORS_NOTED = "apex_native.quantization.journal:Journal.record"
"""Finished tensors are in the journal."""

CHUNK_SCORED = "apex_native.evaluation.divergence.together:_Keeper.tick"
"""Called at every look; args[1].n_chunks_done are scored."""

CHECKPOINT_WRITTEN = "apex_native.imatrix.collection:write_checkpoint"
"""A calibration's checkpoint is on disk."""

RESULT_STORED = "apex_native.sweeps.store:SweepStore.add"
"""A job's result is in a sweep's store."""
