"""Where a model's computation first goes wrong: the layer after which a value is not finite."""

from __future__ import annotations

from apex_native._native import core, forward_log
from apex_native.engine import Model
from apex_native.evaluation.divergence.scores import TokenScores
from apex_native.evaluation.divergence.text import Chunks
from apex_native.interrupt import run_interruptible

__all__ = ["first_not_finite"]

_PLACES = {
    "inp_embd": "the token embedding",
    "result_norm": "the last norm",
    "result_output": "the output",
}
"""llama.cpp's names of what is no layer's output."""


def first_not_finite(model: Model, scores: TokenScores, chunks: Chunks) -> str | None:
    """Compute the first chunk with such a position again and look at every layer's output.

    "layer 3" (from 0) where that layer's output has the first NaN or infinity; None where all
    positions are finite, or where they are this time.
    """
    bad = (scores.is_finite == 0).nonzero()[0]
    if not len(bad):
        return None
    ctx = chunks.data.ctx
    begin = int(bad[0]) // chunks.n_scored * ctx
    stop = core.StopFlag()
    name: str = run_interruptible(
        lambda: core.first_non_finite(
            model.native, chunks.tokens[begin : begin + ctx], n_threads=model.n_threads, stop=stop
        ),
        stop.set,
    )
    forward_log()
    if name.startswith("l_out-"):
        return f"layer {name.removeprefix('l_out-')}"
    return _PLACES.get(name, name) or None
