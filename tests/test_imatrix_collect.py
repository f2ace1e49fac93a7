"""Collecting: against numpy on a model small enough for it, and what must not change the sums."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native.imatrix import Imatrix, expert_coverage, missing_data, with_all_experts
from calibration_models import (
    N_EMBD,
    N_EXPERT,
    N_USED,
    N_VOCAB,
    derived_demo,
    expected_sums,
    expert_weights,
    rms_norm,
    with_bos,
    write_expert_model,
    write_recurrent_model,
)
from tolerances import CALIBRATION_RTOL

CTX = 32

Tokens = npt.NDArray[np.int32]


def some_tokens(n: int, seed: int = 5) -> Tokens:
    return np.random.default_rng(seed).integers(3, N_VOCAB, n).astype(np.int32)


@pytest.fixture(scope="module")
def demo() -> Iterator[apex.Model]:
    with apex.load_model(apex.demo_model(), n_threads=2) as model:
        yield model


def assert_same(one: Imatrix, other: Imatrix) -> None:
    assert one.entries.keys() == other.entries.keys()
    for name, entry in one.entries.items():
        np.testing.assert_array_equal(entry.counts, other.entries[name].counts, err_msg=name)
        np.testing.assert_array_equal(entry.sums, other.entries[name].sums, err_msg=name)


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "ubatch"),
    [(4 * CTX, 2 * CTX), (4 * CTX, 4 * CTX), (CTX, CTX), (CTX // 2, CTX // 2), (4 * CTX, 24)],
    ids=["two sequences", "four", "one", "half a chunk", "uneven"],
)
def test_sums_and_counts_are_those_of_numpy(
    expert_model: apex.Model, batch: int, ubatch: int
) -> None:
    tokens = some_tokens(7 * CTX + 9)
    imatrix = apex.collect_imatrix(expert_model, tokens, ctx=CTX, batch=batch, ubatch=ubatch)
    expected = expected_sums(expert_weights(), with_bos(tokens, CTX))
    assert expected.sums.keys() | {"blk.0.attn_output.weight"} == imatrix.entries.keys()
    for name, sums in expected.sums.items():
        entry = imatrix.entries[name]
        np.testing.assert_array_equal(entry.counts, expected.counts[name], err_msg=name)
        np.testing.assert_allclose(entry.sums, sums, rtol=CALIBRATION_RTOL, err_msg=name)
    assert imatrix.chunk_count == 7
    assert imatrix.chunk_size == CTX


def test_tokens_visit_as_many_experts_as_the_model_uses(demo: apex.Model) -> None:
    imatrix = apex.collect_imatrix(demo, demo_tokens(demo, 6), ctx=CTX)
    coverage = expert_coverage(imatrix)
    assert [router.layer for router in coverage.routers] == list(range(8))
    assert {router.total for router in coverage.routers} == {6 * CTX * 2}
    dense = [e for e in imatrix.entries.values() if not e.is_routed]
    assert {int(entry.counts[0]) for entry in dense} == {6 * CTX}


def demo_tokens(model: apex.Model, n_chunks: int, ctx: int = CTX) -> Tokens:
    from apex_native.demo_text import demo_text

    tokens = model.tokenize(
        demo_text(n_chunks * ctx * 6, seed=11), add_special=True, parse_special=False
    )
    assert len(tokens) >= n_chunks * ctx
    return tokens[: n_chunks * ctx]


def test_a_recurrent_model_is_collected(tmp_path: Path) -> None:
    path = write_recurrent_model(tmp_path / "mamba.gguf")
    tokens = some_tokens(4 * CTX)
    with apex.load_model(path, n_threads=2) as model:
        imatrix = apex.collect_imatrix(model, tokens, ctx=CTX)
        assert model.native.is_recurrent
    with apex.open_gguf(path) as file:
        embeddings = file.to_float32("token_embd.weight").astype(np.float64)
        norm = file.to_float32("blk.0.attn_norm.weight")
        names = {t.name for t in file.tensors}
        missing = missing_data(imatrix, file.facts)
    inputs = rms_norm(embeddings[with_bos(tokens, CTX)], norm)
    np.testing.assert_allclose(
        imatrix.entries["blk.0.ssm_in.weight"].sums[0],
        (inputs**2).sum(axis=0),
        rtol=CALIBRATION_RTOL,
    )
    products = {f"blk.0.ssm_{kind}.weight" for kind in ("in", "x", "dt", "out")}
    assert imatrix.entries.keys() == products | {"token_embd.weight"}
    assert products < names
    assert missing == []


def test_fused_experts_are_collected_as_one_weight(tmp_path: Path, demo: apex.Model) -> None:
    tokens = demo_tokens(demo, 4)
    apart = apex.collect_imatrix(demo, tokens, ctx=CTX)
    path = derived_demo(apex.demo_model(), tmp_path / "fused.gguf", fuse=True)
    with apex.load_model(path, n_threads=2) as model:
        fused = apex.collect_imatrix(model, tokens, ctx=CTX)
    for layer in range(8):
        gate = apart.entries[f"blk.{layer}.ffn_gate_exps.weight"]
        both = fused.entries[f"blk.{layer}.ffn_gate_up_exps.weight"]
        np.testing.assert_array_equal(both.counts, gate.counts)
        np.testing.assert_allclose(both.sums, gate.sums, rtol=CALIBRATION_RTOL)
    assert not any("gate_exps" in name for name in fused.entries)


def test_the_mtp_block_is_collected(tmp_path: Path, demo: apex.Model) -> None:
    tokens = demo_tokens(demo, 5)
    path = derived_demo(apex.demo_model(), tmp_path / "mtp.gguf", mtp=True)
    with apex.open_gguf(path) as file:
        embeddings = file.to_float32("token_embd.weight").astype(np.float64)
        enorm = file.to_float32("blk.8.nextn.enorm.weight")
        facts = file.facts
    with apex.load_model(path, n_threads=2, load_mtp=True) as model:
        imatrix = apex.collect_imatrix(model, tokens, ctx=CTX)
        batches = apex.collect_imatrix(model, tokens, ctx=CTX, batch=CTX // 2, ubatch=CTX // 2)
    with apex.load_model(path, n_threads=2) as model:
        without = apex.collect_imatrix(model, tokens, ctx=CTX)
    # The embedding of each token but a chunk's first, beside the state of the one before it.
    chunks = tokens.reshape(-1, CTX)
    if demo.add_bos:
        chunks[:, 0] = demo.bos_token
    rows = embeddings[chunks[:, 1:].ravel()]
    scale = 1 / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-6)
    expected = ((rows * scale * enorm) ** 2).sum(axis=0)
    for matrix in (imatrix, batches):
        entry = matrix.entries["blk.8.nextn.eh_proj.weight"]
        assert entry.counts.tolist() == [5 * (CTX - 1)]
        np.testing.assert_allclose(entry.sums[0, : len(expected)], expected, rtol=1e-4)
        assert (entry.sums[0, len(expected) :] > 0).all()
    assert {n for n in imatrix.entries if n.startswith("blk.8.")} == {
        n.replace("blk.7.", "blk.8.") for n in imatrix.entries if n.startswith("blk.7.")
    } | {"blk.8.nextn.eh_proj.weight"}
    np.testing.assert_array_equal(
        imatrix.entries["output.weight"].counts, without.entries["output.weight"].counts
    )
    assert [m.tensor for m in missing_data(imatrix, facts) if "blk.8" in m.tensor] == []
    left_out = [m for m in missing_data(without, facts) if "blk.8" in m.tensor]
    assert {m.reason for m in left_out} == {"MTP block: not computed"}
    assert "blk.8.nextn.eh_proj.weight" in {m.tensor for m in left_out}


def test_upstream_scope_leaves_out_what_llama_imatrix_does(expert_model: apex.Model) -> None:
    tokens = some_tokens(3 * CTX)
    everything = apex.collect_imatrix(expert_model, tokens, ctx=CTX)
    upstream = apex.collect_imatrix(expert_model, tokens, ctx=CTX, scope="upstream")
    assert everything.entries.keys() - upstream.entries.keys() == {"token_embd.weight"}
    for name, entry in upstream.entries.items():
        np.testing.assert_array_equal(entry.sums, everything.entries[name].sums)


# --- what must not matter -----------------------------------------------------------------------


def test_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    path = write_expert_model(tmp_path / "experts.gguf")
    hashes = set()
    for n_threads in (1, 2, 3):
        for source, tokens in ((path, some_tokens(5 * CTX)), (apex.demo_model(), None)):
            with apex.load_model(source, n_threads=n_threads) as model:
                text = demo_tokens(model, 3) if tokens is None else tokens
                matrix = apex.collect_imatrix(model, text, ctx=CTX)
                hashes.add((source, matrix.sha256))
    assert len(hashes) == 2


def test_halves_add_up_to_the_whole(expert_model: apex.Model) -> None:
    tokens = some_tokens(8 * CTX)
    whole = apex.collect_imatrix(expert_model, tokens, ctx=CTX)
    halves = [
        apex.collect_imatrix(expert_model, tokens, ctx=CTX, max_chunks=4),
        apex.collect_imatrix(expert_model, tokens, ctx=CTX, skip_chunks=4),
    ]
    merged = apex.merge_imatrices(halves)
    assert merged.chunk_count == whole.chunk_count == 8
    for name, entry in whole.entries.items():
        np.testing.assert_array_equal(merged.entries[name].counts, entry.counts)
        # Each half was rounded to float once.
        np.testing.assert_allclose(merged.entries[name].sums, entry.sums, rtol=2**-22)


@pytest.mark.parametrize("how", ["cancel", "ctrl-c"])
def test_a_stopped_collection_goes_on_to_the_same_bytes(
    tmp_path: Path, expert_model: apex.Model, how: str
) -> None:
    tokens = some_tokens(9 * CTX)
    options = {"ctx": CTX, "batch": 2 * CTX, "ubatch": 2 * CTX, "dataset": "tokens"}
    whole = apex.collect_imatrix(expert_model, tokens, output=tmp_path / "whole", **options)
    cancel = threading.Event()

    def stop(progress: apex.imatrix.ImatrixProgress) -> None:
        if progress.chunks_done >= 4:
            if how == "ctrl-c":
                raise KeyboardInterrupt
            cancel.set()

    path = tmp_path / "stopped"
    kind = KeyboardInterrupt if how == "ctrl-c" else apex.Cancelled
    with pytest.raises(kind) as stopped:
        apex.collect_imatrix(
            expert_model,
            tokens,
            output=path,
            checkpoint_every=2,
            progress=stop,
            cancel=cancel,
            **options,
        )
    assert "4 of 9 chunks are done; go on with `resume=True`" in stopped.value.__notes__
    assert not path.exists()
    with pytest.raises(apex.OutputError, match="left from an interrupted collection"):
        apex.collect_imatrix(expert_model, tokens, output=path, **options)
    with pytest.raises(apex.OutputError, match="n_tokens was"):
        apex.collect_imatrix(expert_model, tokens[:-CTX], output=path, resume=True, **options)
    seen = []
    resumed = apex.collect_imatrix(
        expert_model, tokens, output=path, resume=True, progress=seen.append, **options
    )
    assert seen[0].chunks_done == seen[0].chunks_resumed == 4
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert resumed.sha256 == whole.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stopped", "whole"]
    again = apex.collect_imatrix(expert_model, tokens, output=path, resume=True, **options)
    assert again.sha256 == whole.sha256


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, expert_model: apex.Model) -> None:
    path = tmp_path / "imatrix.gguf"
    checkpoint = tmp_path / "imatrix.gguf.checkpoint"
    for content in (b"", b"PK\x03\x04 nothing", b"some text"):
        checkpoint.write_bytes(content)
        with pytest.raises(apex.ImatrixError, match="not a checkpoint"):
            apex.collect_imatrix(
                expert_model, some_tokens(2 * CTX), ctx=CTX, output=path, resume=True
            )


# --- experts ------------------------------------------------------------------------------------


def test_it_ends_when_every_expert_is_covered(expert_model: apex.Model) -> None:
    tokens = some_tokens(40 * CTX)
    options = {"ctx": CTX, "batch": CTX, "ubatch": CTX}
    covered = apex.collect_imatrix(expert_model, tokens, min_expert_tokens=40, **options)
    least = expert_coverage(covered).least_tokens
    assert least is not None
    assert least >= 40
    assert covered.chunk_count < 40
    before = apex.collect_imatrix(
        expert_model, tokens, max_chunks=covered.chunk_count - 1, **options
    )
    assert (expert_coverage(before).least_tokens or 0) < 40
    limited = apex.collect_imatrix(
        expert_model, tokens, min_expert_tokens=10**6, max_chunks=3, **options
    )
    assert limited.chunk_count == 3


def test_all_experts_see_all_tokens(tmp_path: Path) -> None:
    path = write_expert_model(tmp_path / "experts.gguf")
    tokens = some_tokens(3 * CTX)
    with apex.load_model(path, n_threads=2) as model:
        routed = apex.collect_imatrix(model, tokens, ctx=CTX)
    with apex.load_model(path, n_threads=2, expert_used_count=N_EXPERT) as model:
        everyone = apex.collect_imatrix(model, tokens, ctx=CTX)
    both = with_all_experts(routed, everyone)
    saved = apex.save_imatrix(both, tmp_path / "both.gguf")
    assert saved.sha256 == both.sha256
    read = apex.load_imatrix(tmp_path / "both.gguf")
    for name, entry in read.entries.items():
        np.testing.assert_array_equal(entry.sums, routed.entries[name].sums)
        np.testing.assert_array_equal(entry.counts, routed.entries[name].counts)
        if not entry.is_routed:
            assert entry.all_experts is None
            continue
        assert entry.all_experts is not None
        assert entry.counts.sum() == 3 * CTX * N_USED
        assert (entry.all_experts[1] == 3 * CTX).all()
        np.testing.assert_array_equal(entry.all_experts[0], everyone.entries[name].sums)
    router = read.entries["blk.0.ffn_gate_inp.weight"].sums[0]
    for expert in range(N_EXPERT):  # each saw what the router saw
        own = everyone.entries["blk.0.ffn_up_exps.weight"].sums[expert]
        np.testing.assert_allclose(own, router, rtol=CALIBRATION_RTOL)


# --- bad input ----------------------------------------------------------------------------------


def test_not_finite_activations_name_the_weight(tmp_path: Path) -> None:
    weights = expert_weights()
    weights["blk.0.ffn_norm.weight"][3] = np.inf
    path = write_expert_model(tmp_path / "broken.gguf", weights)
    with (
        apex.load_model(path, n_threads=2) as model,
        pytest.raises(apex.ModelError) as caught,
    ):
        apex.collect_imatrix(model, some_tokens(2 * CTX), ctx=CTX)
    assert "blk.0.ffn_gate_inp.weight: its input is" in str(caught.value)
    assert "in column 3" in str(caught.value)


def test_an_expert_whose_input_is_not_finite_is_named(tmp_path: Path) -> None:
    weights = expert_weights()
    weights["blk.0.ffn_gate_exps.weight"][4, 7] = np.nan
    path = write_expert_model(tmp_path / "broken.gguf", weights)
    with (
        apex.load_model(path, n_threads=2) as model,
        pytest.raises(apex.ModelError) as caught,
    ):
        apex.collect_imatrix(model, some_tokens(8 * CTX), ctx=CTX)
    assert "blk.0.ffn_down_exps.weight, expert 4: its input is nan in column 7" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"ctx": 10_000}, apex.DataError, "has 96 tokens, expected at least 10000"),
        ({"ctx": CTX, "skip_chunks": 3}, apex.DataError, "expected at least 128"),
        ({"ctx": 1}, ValueError, "ctx >= 2"),
        ({"ctx": CTX, "max_chunks": 0}, ValueError, "max_chunks >= 1"),
        ({"ctx": CTX, "ubatch": 0}, ValueError, "from 1 to"),
        ({"ctx": CTX, "scope": "some"}, ValueError, "everything or upstream"),
    ],
    ids=["short", "short after skipping", "ctx", "chunks", "ubatch", "scope"],
)
def test_settings_that_cannot_be(
    expert_model: apex.Model, options: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        apex.collect_imatrix(expert_model, some_tokens(3 * CTX), **options)  # type: ignore[arg-type]


def test_tokens_of_another_vocabulary(expert_model: apex.Model) -> None:
    tokens = some_tokens(2 * CTX)
    tokens[40] = N_VOCAB
    with pytest.raises(ValueError, match=f"token 40: expected 0 to {N_VOCAB - 1}"):
        apex.collect_imatrix(expert_model, tokens, ctx=CTX)


def test_outputs_that_are_in_the_way(tmp_path: Path, expert_model: apex.Model) -> None:
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(b"precious")
    with pytest.raises(apex.OutputError, match="exists"):
        apex.collect_imatrix(expert_model, some_tokens(CTX), ctx=CTX, output=path)
    assert path.read_bytes() == b"precious"
    with pytest.raises(apex.OutputError, match="no such folder"):
        apex.collect_imatrix(
            expert_model, some_tokens(CTX), ctx=CTX, output=tmp_path / "nowhere" / "x"
        )
    apex.collect_imatrix(expert_model, some_tokens(CTX), ctx=CTX, output=path, force=True)
    assert apex.load_imatrix(path).chunk_count == 1


def test_hostile_restores(expert_model: apex.Model) -> None:
    from apex_native._native import core

    run = core.ImatrixRun(
        expert_model.native, n_ctx=CTX, n_batch=CTX, n_ubatch=CTX, n_threads=1, scope="everything"
    )
    sums = np.ones((N_EXPERT, N_EMBD))
    for counts in ([1, 2], [-1], [2**62]):
        with pytest.raises(ValueError, match="blk"):
            run.restore("blk.0.x.weight", sums, np.array(counts, np.int64), False)
    with pytest.raises(ValueError, match="expected 1 to 1 chunks"):
        run.add_chunks(some_tokens(CTX - 1))
    run.restore("blk.0.attn_q.weight", np.ones((1, 3)), np.array([1], np.int64), False)
    with pytest.raises(apex.ModelError, match=r"blk\.0\.attn_q\.weight: collected as 1 x 3 before"):
        run.add_chunks(some_tokens(CTX))
