"""The output's inputs as errors of its logits weigh them: second moments for groups of tokens.

An error e of a logit whose token has probability p costs p (1 - p) e^2 / 2 of KL divergence, to
second order and but for what the errors of several logits have in common. So a row of the output
matters where its token is likely, and an input counts p (1 - p) for it. Rows of like tokens share a
moment: spherical k-means of the rows finds the groups.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from apex_native._native import core
from apex_native.engine import Model
from apex_native.errors import ModelError
from apex_native.imatrix.collection_plan import CollectionPlan
from apex_native.imatrix.hessian import Counts, Hessian, InputMoment
from apex_native.imatrix.one_model import open_run
from apex_native.interrupt import run_interruptible

Floats = npt.NDArray[np.float64]

__all__ = ["with_output_groups"]

_logger = logging.getLogger("apex_native.imatrix")

N_GROUPS = 16
"""Measured with 8 to 64: more have too few tokens each."""

LEAST_ROWS = 128
"""Of a group, on average; a smaller vocabulary has fewer groups."""

MOST_TOKENS = 64
"""For each column: whose logits are computed."""

MOST_PRODUCTS = 4e12
"""Multiplications for logits: of a large vocabulary fewer tokens are computed."""

SHARED_TOKENS = 2
"""For each column: so many tokens of the output's plain moment, which all of the text's tokens tell
of, are blended into each group's; where a group has seen few, it has little else."""

OUTPUTS = ("output.weight", "token_embd.weight")
"""The output, or what it is tied to."""


def with_output_groups(model: Model, plan: CollectionPlan, hessian: Hessian) -> Hessian:
    """The moments, those of the output's input replaced by one for each group of its rows.

    Computes chunks of the plan's text anew, evenly spread, at most 64 tokens for each column. Where
    no input of the output was collected, the vocabulary is small, or logits cannot be computed
    apart from the model, nothing changes; the last is said.
    """
    weight = next((name for name in OUTPUTS if name in hessian.inputs), None)
    n_groups = min(N_GROUPS, model.n_vocab // LEAST_ROWS)
    if weight is None or n_groups < 2 or list(hessian.input_of.values()).count(weight) > 1:
        return hessian
    plain = hessian.inputs[weight]
    stop = core.StopFlag()
    sample = _sample(plan, plain.n_per_row, model.n_vocab)
    run = open_run(model, replace(sample, weights=(weight,)), stop, output_rows=True)

    def compute() -> Any:
        n_seq = int(run.n_seq)
        for group in range(-(-sample.n_chunks // n_seq)):
            run.add_chunks(sample.group(group, n_seq), group % 2 == 1)
        return run.output_moments(n_groups)

    try:
        moment = _blended(plain, *run_interruptible(compute, stop.set))
    except ModelError as error:
        _logger.warning("the output is fitted under one moment for all its rows: %s", error)
        return hessian
    return replace(hessian, inputs={**hessian.inputs, weight: moment})


def _sample(plan: CollectionPlan, n: int, n_vocab: int) -> CollectionPlan:
    """Whole chunks of the plan's, evenly spread."""
    most = min(MOST_TOKENS * n, int(MOST_PRODUCTS / (n * n_vocab)))
    n_taken = min(plan.n_chunks, max(most // plan.ctx, 2))
    chunks = plan.tokens[: plan.n_chunks * plan.ctx].reshape(plan.n_chunks, plan.ctx)
    taken = np.ascontiguousarray(chunks[np.arange(n_taken) * plan.n_chunks // n_taken]).reshape(-1)
    return replace(plan, tokens=taken, moments=True, output=None, min_expert_tokens=0)


def _blended(
    plain: InputMoment,
    groups: npt.NDArray[np.int32],
    part: Floats,
    rest: Floats,
    part_weights: Floats,
    rest_weights: Floats,
) -> InputMoment:
    shared = SHARED_TOKENS * plain.n_per_row / 2

    def blend(sums: Floats, tokens: Floats, of_all: Floats) -> tuple[Floats, Counts]:
        counts = np.rint(tokens + shared).astype(np.int64)
        return (sums + shared * of_all) / (tokens + shared)[:, None] * counts[:, None], counts

    part_total, part_counts = blend(part, part_weights, _mean(plain, of_part=True))
    rest_total, rest_counts = blend(rest, rest_weights, _mean(plain, of_part=False))
    return InputMoment(
        plain.n_per_row,
        (part_total + rest_total).astype(np.float32),
        part_total.astype(np.float32),
        part_counts + rest_counts,
        part_counts,
        groups=groups,
    )


def _mean(plain: InputMoment, *, of_part: bool) -> Floats:
    """Packed, over the tokens of one half; over all where it has none."""
    n_part, n_all = int(plain.part_counts[0]), int(plain.counts[0])
    total, part = plain.total[0].astype(np.float64), plain.part[0].astype(np.float64)
    if of_part and n_part > 0:
        return np.asarray(part / n_part)
    if not of_part and n_all > n_part:
        return np.asarray((total - part) / (n_all - n_part))
    return np.asarray(total / max(n_all, 1))
