"""Models larger than a GPU: streamed weights against resident ones."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import Placement, load_model
from apex_native.errors import Cancelled, DeviceError, GgufError
from apex_native.evaluation import EvalResults, EvaluateProgress, ModelUnderTest, Text
from apex_native.evaluation.speed import SpeedSettings
from apex_native.gpu_layers import has_gpu
from apex_native.streaming import CUDA_BYTES, StreamPlan
from cli_tools import invoke
from tolerances import BATCH_SHAPE_PPL_RTOL, TWO_PASS_KLD_ATOL

MIB, GIB = 1 << 20, 1 << 30
CTX = 64
N_LAYERS = 8
SOME = (0, 2, 3, 5, 7)
TEXT = Text("demo", demo_text(20_000, seed=9))

# --- what is computed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> Path:
    return Path(apex.demo_model())


@pytest.fixture(scope="module")
def tokens(demo: Path) -> np.ndarray[Any, np.dtype[np.int32]]:
    model = core.Model(str(demo), vocab_only=True)
    found = model.tokenize(TEXT.content, add_special=True, parse_special=False)
    return np.ascontiguousarray(found[: 8 * CTX])


def sums(model: Any, tokens: np.ndarray[Any, Any], **options: Any) -> dict[str, Any]:
    """The importance matrix of two groups of four chunks."""
    settings = {"n_ctx": CTX, "n_batch": 4 * CTX, "n_ubatch": 4 * CTX, "n_threads": 1}
    run = core.ImatrixRun(model, **settings, scope="everything", **options)
    for group in np.split(tokens, 2):
        run.add_chunks(np.ascontiguousarray(group))
    return {entry[0]: entry[1:3] for entry in run.entries()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, arrays in expected.items():
        for ours, theirs in zip(found[name], arrays, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize(("n_places", "n_threads"), [(1, 1), (2, 3), (4, 2), (100, 2)])
def test_streamed_weights_are_the_weights(
    demo: Path, tokens: np.ndarray[Any, Any], n_places: int, n_threads: int
) -> None:
    expected = sums(core.Model(str(demo)), tokens)
    streamed = core.Model(
        str(demo),
        headless=True,
        streamed_layers=list(SOME),
        n_places=n_places,
        n_stream_threads=n_threads,
    )
    assert_same(sums(streamed, tokens), expected)
    # Once more: the passes before have left other weights in the places.
    assert_same(sums(streamed, tokens), expected)


def test_graphs_that_end_early_and_stops_leave_a_stream_that_works(
    demo: Path, tokens: np.ndarray[Any, Any]
) -> None:
    model = core.Model(str(demo), headless=True, streamed_layers=list(range(N_LAYERS)), n_places=3)
    weights = ["blk.2.ffn_up_exps.weight"]
    few = sums(model, tokens, moments=True, weights=weights)
    assert weights[0] in few
    stop = core.StopFlag()
    stop.set()
    with pytest.raises(Cancelled):
        sums(model, tokens, stop=stop)
    assert_same(sums(model, tokens), sums(core.Model(str(demo)), tokens))


def experts_last(source: Path, target: Path) -> str:
    """The same model with a layer's experts at the end of its file; the last tensor's name."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "qwen35moe")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    tensors = sorted(reader.tensors, key=lambda tensor: "7.ffn_down_exps" in tensor.name)
    for tensor in tensors:
        data = np.asarray(tensor.data)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(tensors[-1].name)


def test_a_file_that_shrinks_is_an_error(
    demo: Path, tokens: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    assert experts_last(demo, path) == "blk.7.ffn_down_exps.weight"
    model = core.Model(str(path), headless=True, streamed_layers=[6, 7], n_places=1)
    assert_same(sums(model, tokens), sums(core.Model(str(demo)), tokens))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 300_000)
    with pytest.raises(GgufError, match="truncated while being read"):
        sums(model, tokens)


def test_what_cannot_be_streamed(demo: Path) -> None:
    with pytest.raises(ValueError, match="layers from 0 to 7, found 8"):
        core.Model(str(demo), streamed_layers=[8])
    with pytest.raises(ValueError, match="use_mmap"):
        core.Model(str(demo), streamed_layers=[1], use_mmap=False)
    with pytest.raises(ValueError, match="places"):
        core.Model(str(demo), streamed_layers=[1], n_places=0)


# --- evaluations and matrices ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    path = tmp_path_factory.mktemp("streaming") / "mini.gguf"
    apex.quantize(demo, apex.make_plan(demo, tier="compact"), path)
    return path


def evaluated(reference: Any, candidates: Any, placement: Placement, **more: Any) -> EvalResults:
    options = {"ctx": CTX, "chunks": 6, "noise_chunks": 0, **more}
    return apex.evaluate(reference, candidates, TEXT, placement=placement, **options)


def streamed(n_sequences: int = 4) -> Placement:
    return Placement(n_threads=1, stream=StreamPlan(n_sequences, SOME, n_places=2))


# What ggml rearranges for this CPU rounds differently.
AS_STORED = Placement(n_threads=1, repack=False)


def assert_same_perplexities(found: EvalResults, expected: EvalResults) -> None:
    for name, scores in expected.tokens.items():
        ours, theirs = np.exp(found.tokens[name].nll.mean()), np.exp(scores.nll.mean())
        assert ours == pytest.approx(theirs, rel=BATCH_SHAPE_PPL_RTOL), name


@pytest.mark.parametrize("n_sequences", [1, 4, 6])
def test_scores_are_those_of_a_model_in_memory(demo: Path, mini: Path, n_sequences: int) -> None:
    in_memory = replace(AS_STORED, stream=StreamPlan(n_sequences))
    expected = evaluated(demo, [mini], in_memory)
    found = evaluated(demo, [mini], streamed(n_sequences))
    for name, scores in expected.tokens.items():
        for array in ("nll", "kld", "top_probability", "is_same_top", "is_finite"):
            ours, theirs = getattr(found.tokens[name], array), getattr(scores, array)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}: {array}")
        assert found.tokens[name].router == scores.router
    lockstep = evaluated(demo, [mini], AS_STORED)
    assert_same_perplexities(found, lockstep)
    ours, theirs = found.results.candidates[0], lockstep.results.candidates[0]
    assert ours.kld_mean == pytest.approx(theirs.kld_mean, rel=BATCH_SHAPE_PPL_RTOL)
    assert len(ours.router_agreement) == len(theirs.router_agreement) == N_LAYERS
    pairs = zip(ours.router_agreement, theirs.router_agreement, strict=True)
    assert all(one.n_tokens == other.n_tokens for one, other in pairs)


def test_models_alone_base_files_and_the_noise_floor(
    demo: Path, mini: Path, tmp_path: Path
) -> None:
    together = evaluated(demo, [mini], AS_STORED).results
    alone = evaluated(None, [mini], streamed()).results
    ppl = together.candidates[0].ppl
    assert alone.candidates[0].ppl == pytest.approx(ppl, rel=BATCH_SHAPE_PPL_RTOL)
    base = tmp_path / "base.kld"
    reference = evaluated(demo, [], streamed(), save_base=base, noise_chunks=2).results
    assert reference.reference is not None
    assert together.reference is not None
    assert reference.reference.ppl == together.reference.ppl
    assert reference.noise_floor is not None
    assert "chunks compared: 2" in reference.noise_floor.description
    assert 0 <= reference.noise_floor.kld_mean < TWO_PASS_KLD_ATOL * 100
    expected = evaluated(base, [mini], AS_STORED).results.candidates[0]
    found = evaluated(base, [mini], streamed()).results.candidates[0]
    assert found.kld_mean == pytest.approx(expected.kld_mean, abs=TWO_PASS_KLD_ATOL)


def test_no_noise_floor_unless_asked_for(demo: Path, mini: Path) -> None:
    """Few positions at once would stream all weights for each."""
    assert evaluated(demo, [mini], streamed(), noise_chunks=None).results.noise_floor is None


def test_a_cache_of_its_own_counts(demo: Path) -> None:
    expected = evaluated(demo, [demo], AS_STORED, type_k="q8_0").results.candidates[0]
    found = evaluated(demo, [demo], streamed(), type_k="q8_0").results.candidates[0]
    assert found.kld_mean == expected.kld_mean
    assert found.kld_mean


@pytest.mark.usefixtures("frequent_looks")
def test_a_stopped_evaluation_keeps_finished_candidates(
    demo: Path, mini: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.npz"
    candidates = [ModelUnderTest(mini, label="first"), ModelUnderTest(mini, label="second")]
    cancel = threading.Event()
    text = {"chunks": 24, "checkpoint": kept}

    def stop_in_the_second(progress: EvaluateProgress) -> None:
        if progress.share > 0.7:
            cancel.set()

    with pytest.raises(Cancelled):
        evaluated(demo, candidates, streamed(1), progress=stop_in_the_second, cancel=cancel, **text)
    assert kept.exists()
    shares: list[float] = []
    found = evaluated(
        demo,
        candidates,
        streamed(1),
        progress=lambda progress: shares.append(progress.share),
        **text,
    ).results
    first, second = found.candidates
    assert first.kld_mean == second.kld_mean
    assert shares == sorted(shares)
    assert not kept.exists()


def test_a_matrix_has_the_sums_of_its_batches(demo: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT.content, encoding="utf-8")
    expected = apex.calibrate(
        demo, text, ctx=CTX, max_chunks=6, batch=3 * CTX, ubatch=3 * CTX,
        placement=Placement(n_threads=1), output=tmp_path / "expected.gguf",
    )  # fmt: skip
    found = apex.calibrate(
        demo, text, ctx=CTX, max_chunks=6, placement=streamed(4), output=tmp_path / "found.gguf"
    )
    # Two passes of three chunks each, which is no rest, instead of four and two.
    assert found.settings["batch"] == found.settings["ubatch"] == 3 * CTX
    assert found.entries.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        np.testing.assert_array_equal(found.entries[name].sums, entry.sums, err_msg=name)


# --- what is refused ------------------------------------------------------------------------------


def test_limits_without_a_gpu_are_refused(demo: Path) -> None:
    if has_gpu():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceError, match="`gpu_memory` needs a GPU"):
        apex.evaluate(demo, [], TEXT, ctx=CTX, gpu_memory=GIB)
    done = invoke("eval", demo, "-f", __file__, "--ctx", "64", "--gpu-memory", "1GiB")
    assert done.exit_code == 1
    assert "--gpu-memory needs a GPU" in done.stderr


def test_what_does_not_go_with_a_limit_is_refused(demo: Path) -> None:
    with pytest.raises(ValueError, match="texts and importance matrices"):
        load_model(demo, gpu_memory=GIB)
    with pytest.raises(ValueError, match="measure tasks and speed without it"):
        apex.evaluate(
            demo, [], TEXT, gpu_memory=GIB, speed=[SpeedSettings(n_threads=1, n_prompt=8)]
        )
    with pytest.raises(ValueError, match="gpu_memory decides"):
        apex.evaluate(demo, [], TEXT, gpu_memory=GIB, n_ubatch=512)
    for options in (["--gpu-layers", "3"], ["--two-pass", "-r", str(demo)]):
        done = invoke("eval", demo, "-f", __file__, "--gpu-memory", "1GiB", *options)
        assert done.exit_code == 2
        assert "has no effect with --gpu-memory" in done.stderr
    assert invoke("imatrix", demo, "-f", __file__, "--gpu-memory", "much").exit_code == 2


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_streamed", [0, 3, 8])
def test_a_gpu_gives_the_bits_of_all_layers_on_it(
    demo: Path, mini: Path, tmp_path: Path, n_streamed: int
) -> None:
    if not has_gpu():
        pytest.skip("needs a GPU")
    layers = tuple(range(N_LAYERS))[:n_streamed]

    def on_gpu(stream: StreamPlan) -> Placement:
        return Placement(n_threads=2, n_gpu_layers=-1, devices=("CUDA0",), stream=stream)

    there, through = on_gpu(StreamPlan(6)), on_gpu(StreamPlan(6, layers, n_places=2))
    expected = evaluated(demo, [mini], there)
    found = evaluated(demo, [mini], through)
    for name, scores in expected.tokens.items():
        np.testing.assert_array_equal(found.tokens[name].nll, scores.nll)
        np.testing.assert_array_equal(found.tokens[name].kld, scores.kld)
    assert_same_perplexities(found, evaluated(demo, [mini], Placement(n_gpu_layers=-1)))
    text = tmp_path / "text.txt"
    text.write_text(TEXT.content, encoding="utf-8")
    matrices = [
        apex.calibrate(demo, text, ctx=CTX, max_chunks=6, placement=placement)
        for placement in (there, through)
    ]
    for name, entry in matrices[0].entries.items():
        np.testing.assert_array_equal(matrices[1].entries[name].sums, entry.sums, err_msg=name)


def test_a_limit_on_a_gpu_streams_what_does_not_fit(demo: Path, mini: Path) -> None:
    if not has_gpu():
        pytest.skip("needs a GPU")
    expected = evaluated(demo, [mini], Placement(n_gpu_layers=-1))
    limit = CUDA_BYTES + 40 * MIB  # of the demo's 36 MiB, and buffers
    found = evaluated(demo, [mini], Placement(), gpu_memory=limit)
    assert_same_perplexities(found, expected)
    with pytest.raises(DeviceError, match="at least"):
        evaluated(demo, [mini], Placement(), gpu_memory=CUDA_BYTES)
