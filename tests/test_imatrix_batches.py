"""Batches of a collection: any size gives whole chunks, as llama-imatrix cuts them."""

from __future__ import annotations

import numpy as np
import pytest

import apex_native as apex
from calibration_models import N_VOCAB

CTX = 32


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"batch": 2 * CTX + 1}, {"batch": 2 * CTX}),  # as llama-imatrix rounds
        ({"batch": 4 * CTX, "ubatch": 3}, {"batch": 3 * CTX, "ubatch": 3}),
        ({"batch": 4 * CTX, "ubatch": 1}, {"batch": CTX, "ubatch": 1}),
    ],
    ids=["part of a chunk", "three places for four chunks", "one place"],
)
def test_a_batch_is_as_many_whole_chunks_as_have_a_place(
    expert_model: apex.Model, options: dict[str, int], same: dict[str, int]
) -> None:
    tokens = np.random.default_rng(5).integers(3, N_VOCAB, 8 * CTX).astype(np.int32)
    found = apex.collect_imatrix(expert_model, tokens, ctx=CTX, **options)
    assert found.settings["batch"] == same["batch"]
    wanted = apex.collect_imatrix(expert_model, tokens, ctx=CTX, **same)
    for name, entry in wanted.entries.items():
        assert np.array_equal(found.entries[name].sums, entry.sums)


def test_fewer_places_than_chunks_in_a_model_with_states() -> None:
    # llama.cpp aborted over three places for the four chunks of a batch of this hybrid.
    tokens = np.arange(3, 3 + 4 * CTX, dtype=np.int32)
    with apex.load_model(apex.demo_model(), n_threads=2) as model:
        found = apex.collect_imatrix(model, tokens, ctx=CTX, batch=4 * CTX, ubatch=3)
    assert found.settings["batch"] == 3 * CTX
