"""Plans of models larger than a GPU, against a model whose bytes are known."""

from __future__ import annotations

import pytest

from apex_native.errors import DeviceError
from apex_native.streaming import (
    CUDA_BYTES,
    MAX_TOKENS,
    N_PLACES,
    SCRATCH_PER_TOKEN,
    LargeBatches,
    StreamPlan,
    fit_stream,
    spread,
)

MIB, GIB = 1 << 20, 1 << 30
EXPERT, REST, HEAD = 512 * MIB, 70 * MIB, 970 * MIB
CACHE, BUFFERS = 73 * MIB, 72 * MIB  # of a chunk of 512 tokens


class Known:
    """A model of 40 layers whose bytes are known."""

    path = "known.gguf"
    n_layers = 40

    def __init__(self, free: int = 80 * GIB, bend: int = 0) -> None:
        self.free = free
        self.bend = bend
        """Buffers are that much larger than in proportion, beyond eight chunks."""

    def weight_bytes(self) -> list[tuple[str, int]]:
        names = [
            (f"blk.{layer}.ffn_{kind}_exps.weight", EXPERT)
            for layer in range(self.n_layers)
            for kind in ("down", "gate", "up")
        ]
        rest = [(f"blk.{layer}.attn_qkv.weight", REST) for layer in range(self.n_layers)]
        return [("token_embd.weight", HEAD), ("output.weight", HEAD), *names, *rest]

    def memory_use(self, *, n_seq_max: int, **_: int) -> list[tuple[str, int, int, int, int]]:
        held = sum(nbytes for name, nbytes in self.weight_bytes() if name != "token_embd.weight")
        buffers = n_seq_max * BUFFERS + (self.bend if n_seq_max > 8 else 0)
        return [("CUDA0", held, n_seq_max * CACHE, buffers, self.free), ("", HEAD, 0, 0, 0)]


def needed(n_sequences: int, n_streamed: int, beside: int = 0) -> int:
    """Bytes, added up from the model's description alone."""
    stays = 40 * REST + (40 - n_streamed) * 3 * EXPERT
    places = N_PLACES * EXPERT if n_streamed else 0
    of_chunks = n_sequences * (CACHE + BUFFERS + 512 * SCRATCH_PER_TOKEN)
    return stays + places + of_chunks + CUDA_BYTES + beside


def plan(
    gib: float, n_chunks: int = 256, beside: int = 0, model: Known | None = None
) -> StreamPlan:
    batches = LargeBatches(512, n_chunks, n_outputs=255, beside=beside)
    return fit_stream(model or Known(), int(gib * GIB), batches)


@pytest.mark.parametrize("gib", [8, 10, 12, 16, 24, 32, 48])
def test_as_many_layers_stay_as_fit_and_not_one_more(gib: int) -> None:
    found = plan(gib, beside=100 * MIB)
    n = len(found.layers)
    assert found.nbytes == needed(found.n_sequences, n, 100 * MIB) <= gib * GIB
    assert n > 0
    if n < 40:
        assert needed(found.n_sequences, n - 1, 100 * MIB) > gib * GIB


def test_nothing_is_streamed_where_all_fits() -> None:
    found = plan(72)
    assert found.layers == ()
    assert found.nbytes == needed(found.n_sequences, 0)
    # One byte less than the fewest chunks at once need, and something is.
    assert plan((needed(1, 0) - 1) / GIB).layers


def test_more_memory_is_never_more_streaming_per_token() -> None:
    plans = [plan(gib) for gib in (8, 10, 12, 16, 24, 32, 48, 64, 80)]
    per_token = [len(p.layers) / p.n_sequences for p in plans]
    assert per_token == sorted(per_token, reverse=True)
    assert all(p.n_sequences * 512 <= MAX_TOKENS for p in plans)


def test_what_is_free_is_the_limit_too() -> None:
    assert plan(80, model=Known(free=24 * GIB)) == plan(24)


def test_too_little_is_said_with_what_would_do() -> None:
    with pytest.raises(DeviceError, match=r"4\.0 GiB are too little for known.gguf .* at least"):
        plan(4)
    least = needed(1, 40)
    with pytest.raises(DeviceError, match=f"at least {least / GIB:.1f} GiB"):
        plan((least - 1) / GIB)
    assert plan(least / GIB) == StreamPlan(1, tuple(range(40)), least)


def test_a_short_text_gets_no_more_room_than_it_fills() -> None:
    assert plan(24, n_chunks=5).n_sequences == 5
    assert len(plan(24, n_chunks=5).layers) < len(plan(24, n_chunks=32).layers)


def test_buffers_that_grow_faster_than_foreseen_are_asked_for() -> None:
    bent = plan(12, model=Known(bend=2 * GIB))
    straight = plan(12)
    assert bent.n_sequences < straight.n_sequences
    extra = 2 * GIB if bent.n_sequences > 8 else 0
    assert bent.nbytes == needed(bent.n_sequences, len(bent.layers)) + extra <= 12 * GIB


def test_streamed_layers_are_spread() -> None:
    assert spread(list(range(10)), 5) == (1, 3, 5, 7, 9)
    assert spread(list(range(10)), 10) == tuple(range(10))
    assert spread(list(range(10)), 0) == ()
    for n in range(41):
        assert len(spread(list(range(40)), n)) == n


def test_the_last_pass_is_no_small_rest() -> None:
    assert StreamPlan(32).sequences_for(100) == 25
    assert StreamPlan(32).sequences_for(33) == 17
    assert StreamPlan(32).sequences_for(5) == 5
    assert StreamPlan(1).sequences_for(7) == 1
