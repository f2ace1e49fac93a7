"""How far a collection says it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import apex_native as apex
from apex_native.imatrix.collection import bytes_to_write
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


@pytest.mark.parametrize(("seconds", "is_kept"), [(0.0, True), (1e9, False)])
def test_sums_are_written_down_between_batches_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, is_kept: bool
) -> None:
    monkeypatch.setattr("apex_native.imatrix.collection.CHECKPOINT_EVERY_S", seconds)
    output = tmp_path / "m.imatrix.gguf"
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    kept: dict[int, int] = {}

    def look(progress: ImatrixProgress) -> None:
        kept[progress.chunks_done] = checkpoint.stat().st_size if checkpoint.exists() else 0

    path = write_expert_model(tmp_path / "m.gguf")
    with apex.load_model(path, n_threads=1) as model:
        apex.collect_imatrix(
            model, [5] * (4 * 64), ctx=64, batch=64, ubatch=64, output=output, progress=look
        )
    assert not kept[0]
    assert bool(kept[3]) == is_kept  # three batches are done and the fourth is not
    assert not checkpoint.exists()  # no longer needed
    with apex.open_gguf(path) as file:  # two of them fit into what was asked of the disk
        assert 2 * kept[3] <= bytes_to_write(file.facts)


def test_a_matrix_that_appears_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path, other = tmp_path / "m.gguf", tmp_path / "other.gguf"
    model = write_expert_model(tmp_path / "model.gguf")
    with apex.load_model(model, n_threads=1) as loaded:

        def collect(output: Path, n_chunks: int, meanwhile: bytes | None) -> apex.Imatrix:
            return apex.collect_imatrix(
                loaded,
                [5] * (n_chunks * 64),
                ctx=64,
                output=output,
                progress=lambda _: None if meanwhile is None else output.write_bytes(meanwhile),
            )

        collect(other, 3, None)
        theirs = other.read_bytes()
        with pytest.raises(apex.OutputError, match=r"another run meanwhile.* is in .*m-2\.gguf"):
            collect(path, 2, theirs)
        assert path.read_bytes() == theirs
        assert apex.load_imatrix(tmp_path / "m-2.gguf").chunk_count == 2
        path.unlink()
        # The same bytes are no error.
        assert collect(path, 3, theirs).sha256 == apex.load_imatrix(other).sha256
    kept = {"m-2.gguf", "m.gguf", "model.gguf", "other.gguf"}
    assert {p.name for p in tmp_path.iterdir()} == kept


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
