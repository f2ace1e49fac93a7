"""Whole evaluations on real models: what must be zero, equal, counted or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
import tolerances
from apex_native.demo_text import demo_text
from apex_native.errors import DataError, ModelError
from apex_native.evaluation import EvalResults
from apex_native.results import Results
from gguf_builder import ValueType, pair
from stopped_runs import CHUNK_SCORED, run_stopped
from tiny_models import ARCHITECTURES, write_tiny_model

CTX = 128
N_SCORED = CTX - 1 - CTX // 2


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(demo_text(12_000, seed=5))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in a small tier."""
    path = tmp_path_factory.mktemp("models") / "compact.gguf"
    with apex.open_gguf(apex.demo_model()) as source:
        apex.quantize(source, apex.make_plan(source, tier="compact"), path)
    return path


def evaluate(candidates: list[Path], text: Path, **settings: object) -> EvalResults:
    options = {"ctx": CTX, "chunks": 6, "n_threads": 2, **settings}
    return apex.evaluate(apex.demo_model(), candidates, text, **options)


@pytest.fixture(scope="module")
def found(small: Path, text: Path) -> EvalResults:
    return evaluate([small], text)


def test_two_runs_at_once_add_to_one_file(
    tmp_path: Path, small: Path, text: Path, found: EvalResults
) -> None:
    other = tmp_path / "other.gguf"
    apex.quantize(apex.demo_model(), apex.make_plan(apex.demo_model(), ftype="Q8_0"), other)
    theirs = evaluate([other], text).results
    output = tmp_path / "eval.json"

    def meanwhile(progress: object) -> None:
        theirs.save(output)

    evaluate([small], text, output=output, progress=meanwhile)
    names = [candidate.name for candidate in Results.load(output).candidates]
    assert sorted(names) == ["compact", "other"]


def test_results_that_do_not_go_together_are_both_kept(
    tmp_path: Path, small: Path, text: Path, found: EvalResults
) -> None:
    output = tmp_path / "eval.json"
    theirs = dataclasses.replace(
        found.results, data=dataclasses.replace(found.results.data, sha256="0" * 64)
    )
    with pytest.raises(apex.OutputError, match=r"another run meanwhile.*data.sha256.*eval-2\.json"):
        evaluate([small], text, output=output, progress=lambda _: theirs.save(output))
    assert Results.load(output) == theirs
    ours = Results.load(tmp_path / "eval-2.json")
    assert ours.candidates == found.results.candidates


def test_results_of_another_build_are_not_added_to(
    small: Path, text: Path, found: EvalResults
) -> None:
    build = dataclasses.replace(found.results.build, llama_cpp_commit="0c1e57098-native")
    theirs = dataclasses.replace(found.results, build=build)
    with pytest.raises(apex.DataError, match=r"llama\.cpp 0c1e57098-native there, \S+ here"):
        evaluate([small], text, known=theirs)


def test_what_was_there_before_a_run_of_its_own_is_replaced(
    tmp_path: Path, small: Path, text: Path, found: EvalResults
) -> None:
    output = tmp_path / "eval.json"
    dataclasses.replace(found.results, tokenizer="another").save(output)
    evaluate([small], text, output=output)  # nothing known: as with --force
    assert Results.load(output).tokenizer == found.results.tokenizer


def test_a_quantized_model_diverges_from_its_source(found: EvalResults) -> None:
    results = found.results
    assert results.reference is not None
    assert results.data is not None
    candidate = results.candidates[0]
    assert (results.data.ctx, results.data.n_chunks) == (CTX, 6)
    assert candidate.n_positions == 6 * N_SCORED
    assert candidate.kld_mean is not None
    assert candidate.kld_se is not None
    assert candidate.kld_mean > 10 * candidate.kld_se / 3 > 0
    assert candidate.ppl is not None
    assert results.reference.ppl is not None
    # A table of 4,096 equally likely tokens would have a perplexity of 4,096.
    assert 1 < results.reference.ppl < candidate.ppl < 100
    floor = results.noise_floor
    assert floor is not None
    assert floor.kld_mean is not None
    assert floor.kld_mean < candidate.kld_mean / 5


def test_token_arrays_are_the_statistics_source(found: EvalResults) -> None:
    candidate = found.results.candidates[0]
    tokens = found.tokens[candidate.name]
    assert tokens.kld.shape == (6 * N_SCORED,)
    assert candidate.kld_mean == pytest.approx(tokens.kld.mean(), rel=tolerances.STATISTICS_RTOL)
    assert candidate.ppl == pytest.approx(np.exp(tokens.nll.mean()))


def test_routers_are_counted_in_every_layer(found: EvalResults) -> None:
    layers = found.results.candidates[0].router_agreement
    assert [layer.layer for layer in layers] == list(range(8))
    for layer in layers:
        assert layer.same_set is not None
        assert layer.same_top1 is not None
        assert 0.3 < layer.same_set <= 1
        assert layer.same_top1 > 0.3
    assert any(layer.same_set is not None and layer.same_set < 1 for layer in layers)


def test_a_model_is_not_worse_than_itself(text: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(Path(apex.demo_model()).read_bytes())
    candidate = evaluate([copy], text).results.candidates[0]
    assert candidate.kld_mean == 0.0
    assert candidate.kld_max == 0.0
    assert candidate.ln_ppl_ratio == 0.0
    assert candidate.same_top == 1.0
    assert all(layer.same_set == 1.0 for layer in candidate.router_agreement)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_change_no_number(
    found: EvalResults, small: Path, text: Path, n_threads: int
) -> None:
    again = evaluate([small], text, n_threads=n_threads)
    for name, tokens in found.tokens.items():
        other = again.tokens[name]
        for field in dataclasses.fields(tokens):
            ours, theirs = getattr(tokens, field.name), getattr(other, field.name)
            assert np.array_equal(ours, theirs), (name, field.name)


def test_two_passes_find_what_lockstep_finds(found: EvalResults, small: Path, text: Path) -> None:
    again = evaluate([small], text, two_pass=True)
    lockstep, stored = found.results.candidates[0], again.results.candidates[0]
    assert stored.kld_mean == pytest.approx(lockstep.kld_mean, abs=tolerances.TWO_PASS_KLD_ATOL)
    assert stored.ppl == pytest.approx(lockstep.ppl, rel=tolerances.UPSTREAM_PPL_RTOL)


def test_a_candidate_added_later_is_computed_alone(
    found: EvalResults, small: Path, text: Path, tmp_path: Path
) -> None:
    other = tmp_path / "q8.gguf"
    with apex.open_gguf(apex.demo_model()) as source:
        apex.quantize(source, apex.make_plan(source, ftype="Q8_0"), other)
    path = tmp_path / "eval.json"
    found.save(path)
    grown = evaluate([small, other], text, known=Results.load(path))
    assert [candidate.name for candidate in grown.results.candidates] == ["compact", "q8"]
    assert grown.results.candidates[0] == found.results.candidates[0]
    assert "compact" not in grown.tokens
    pairs = {(c.first, c.second, c.metric) for c in grown.results.comparisons}
    assert ("compact", "q8", "kld_mean") in pairs


def test_a_cache_type_is_measured_like_a_weight_type(text: Path) -> None:
    candidate = evaluate([apex.demo_model()], text, type_k="q4_0").results.candidates[0]
    assert candidate.kld_mean is not None
    assert candidate.kld_mean > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kind_of_model_is_scored(architecture: str, text: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf", architecture)
    found = apex.evaluate(model, [model], text, ctx=CTX, chunks=2, n_threads=2)
    candidate = found.results.candidates[0]
    assert candidate.kld_mean == 0.0
    # Random weights know nothing: no better than guessing among 4,096 tokens.
    assert candidate.ppl is not None
    assert candidate.ppl > 4000
    assert len(candidate.router_agreement) == (2 if architecture == "qwen3moe" else 0)


def test_perplexity_needs_no_reference(found: EvalResults, text: Path) -> None:
    alone = apex.evaluate(None, [apex.demo_model()], text, ctx=CTX, chunks=6, n_threads=2)
    reference = found.results.reference
    assert reference is not None
    assert alone.results.reference is None
    assert alone.results.candidates[0].ppl == reference.ppl
    assert alone.results.candidates[0].kld_mean is None


# --- what does not fit --------------------------------------------------------------------------


def test_a_text_shorter_than_two_tokens_is_refused(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("too short")
    with pytest.raises(DataError, match="token"):
        evaluate([small], path)


def test_a_context_beyond_the_model_is_refused(small: Path, text: Path) -> None:
    with pytest.raises((DataError, ModelError, ValueError), match="4096"):
        evaluate([small], text, ctx=8192)


def test_another_vocabulary_is_refused(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    content = Path(apex.demo_model()).read_bytes()
    other.write_bytes(content.replace(b"<|im_start|>", b"<|im_begin|>"))
    with pytest.raises(DataError, match=r"tokenizer|vocabular"):
        evaluate([other], text)


def test_a_model_of_another_size_of_vocabulary_is_refused(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    content = Path(apex.demo_model()).read_bytes()
    old, new = (pair("qwen35moe.block_count", ValueType.U32, n) for n in (8, 9))
    other.write_bytes(content.replace(old, new))
    with pytest.raises(ModelError, match="cannot load"):
        evaluate([other], text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunks": 10_000}, "chunk"),
        ({"type_k": "q3_K"}, "KV cache cannot have type"),
        ({"noise_chunks": -1}, "noise_chunks"),
    ],
)
def test_settings_out_of_range_are_refused(
    small: Path, text: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises((DataError, ValueError), match=message):
        evaluate([small], text, **settings)


# --- stops --------------------------------------------------------------------------------------


def test_ctrl_c_keeps_finished_chunks(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(demo_text(100_000, seed=9))
    output = tmp_path / "eval.json"
    stopped = run_stopped(
        CHUNK_SCORED, "eval", "-r", apex.demo_model(), small, "-f", path, "-o", output,
        "--threads", "1", "--gpu-layers", "0", when="args[1].n_chunks_done",
    )  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert not output.exists()
    assert [p for p in tmp_path.iterdir() if p.name.startswith("eval.json")]
