"""How far a collection says it is."""

from __future__ import annotations

from pathlib import Path

import apex_native as apex
from apex_native.imatrix.progress import ImatrixProgress
from calibration_models import write_expert_model


def test_tokens_are_counted_within_a_batch(tmp_path: Path) -> None:
    path = write_expert_model(tmp_path / "m.gguf")
    seen: list[float] = []
    with apex.load_model(path, n_threads=1) as model:
        apex.collect_imatrix(
            model,
            [5] * (8 * 1024),
            ctx=1024,
            batch=1024 * 8,
            ubatch=64,
            progress=lambda p: seen.append(p.chunks_done * p.chunk_size + p.tokens_in_work),
        )
    assert seen == sorted(seen)
    assert seen[-1] == 8 * 1024
    inside = [n for n in seen if 0 < n < 8 * 1024]
    assert inside  # one batch is all there is: they were seen before it was done
    assert all(n % 64 == 0 for n in inside)


def test_speed_and_time_left_count_what_is_in_the_works() -> None:
    begun = ImatrixProgress(
        chunks_done=0,
        n_chunks=8,
        chunks_resumed=0,
        chunk_size=512,
        elapsed_s=10,
        tokens_in_work=512,
    )
    assert begun.tokens_per_s == 51.2
    assert begun.share == 1 / 8
    assert begun.eta_s == 70
    assert begun.state == "0/8 chunks, 51 tokens/s"
