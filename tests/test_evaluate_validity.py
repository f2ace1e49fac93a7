"""What an evaluation may not conclude: from too few chunks, and from logits that are not finite."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
import tolerances
from apex_native.demo_text import demo_text
from apex_native.engine import load_model
from apex_native.evaluation.divergence.bootstrap import Paired, compare_pair
from apex_native.results import MIN_CHUNKS, ChunkSums, Verdict
from calibration_models import expert_weights, model_pairs, vocabulary_pairs, write_expert_model
from cli_tools import invoke
from gguf_builder import ValueType, f32_tensor, pair, write_gguf
from model_kinds import expert_settings
from verb_runs import write_inputs

CTX = 16
N_SCORED = CTX - 1 - CTX // 2


def paired(name: str, n_chunks: int, kld: float, n_not_finite: int = 0) -> Paired:
    sums = tuple(kld * (1 + i / 100) for i in range(n_chunks))
    return Paired(name, ChunkSums((1,) * n_chunks, sums, sums), n_not_finite)


@pytest.mark.parametrize(("n_chunks", "verdict"), [(4, "too few chunks"), (5, "worse")])
def test_without_an_interval_there_is_no_verdict(n_chunks: int, verdict: str) -> None:
    found = compare_pair(paired("a", n_chunks, 0.1675), paired("b", n_chunks, 0.0208), "kld_mean")
    assert found is not None
    assert found.verdict.value == verdict
    assert (found.low is None) == (verdict == "too few chunks")


def test_a_model_with_values_that_are_not_finite_wins_nothing() -> None:
    broken = paired("broken", 20, 0.0, n_not_finite=3)
    for two in ((broken, paired("sound", 20, 0.1)), (paired("sound", 20, 0.1), broken)):
        found = compare_pair(*two, "kld_mean")
        assert found is not None
        assert (found.verdict, found.low) == (Verdict.INVALID, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a slightly worse one, and one whose last norm-scaled layer gives NaN for "e"."""
    folder = tmp_path_factory.mktemp("validity")
    write_inputs(folder)
    other, broken = expert_weights(), expert_weights()
    other["blk.0.ffn_down_exps.weight"] *= np.float32(1.05)
    # Byte tokens follow three special ones: the embedding of "e" is not a number.
    broken["token_embd.weight"][3 + ord("e")] = np.nan
    return {
        "text": folder / "text.txt",
        "reference": write_expert_model(folder / "reference.gguf"),
        "other": write_expert_model(folder / "other.gguf", other),
        "broken": write_expert_model(folder / "broken.gguf", broken),
    }


def test_few_chunks_say_how_many_are_needed(files: dict[str, Path]) -> None:
    models = (files["other"], files["reference"])
    result = invoke(
        *("eval", "-r", files["reference"], *models, "-f", files["text"]),
        *("--ctx", CTX, "--chunks", "4"),
    )
    assert result.exit_code == 0, result.stderr
    assert "needs at least 5 chunks, found 4" in " ".join(result.stdout.split())
    assert "— to —" not in result.stdout


def test_a_candidate_that_is_not_finite_is_invalid(files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "eval.json"
    models = (files["other"], files["broken"])
    result = invoke(
        *("eval", "-r", files["reference"], *models, "-f", files["text"]),
        *("--ctx", CTX, "--chunks", "8", "-o", output),
    )
    assert result.exit_code == 3, result.stderr
    assert "INVALID" in result.stdout
    document = json.loads(output.read_text())
    sound, broken = document["candidates"]
    assert sound["n_not_finite"] == 0
    assert broken["n_not_finite"] > 0
    assert broken["n_not_finite"] + broken["n_positions"] == 8 * N_SCORED
    assert broken["first_not_finite"] == "layer 0"
    verdicts = {(row["first"], row["second"]): row["verdict"] for row in document["comparisons"]}
    assert all((verdict == "invalid") == ("broken" in pair) for pair, verdict in verdicts.items())
    report = invoke("report", output, "-o", tmp_path / "report", "--format", "md")
    assert report.exit_code == 0, report.stderr
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"{broken['n_not_finite']:,} of {8 * N_SCORED:,} positions" in text


def with_other_tokenizer(path: Path) -> Path:
    """The same model, whose texts begin without the BOS token."""
    pairs = model_pairs("llama", **expert_settings()) + vocabulary_pairs(add_bos=False)
    tensors = [f32_tensor(name, values) for name, values in expert_weights().items()]
    return write_gguf(path, tensors, pairs)


@pytest.mark.parametrize("swapped", [False, True])
def test_another_tokenizer_is_refused_by_name(
    files: dict[str, Path], tmp_path: Path, swapped: bool
) -> None:
    models = [files["reference"], with_other_tokenizer(tmp_path / "other-tokenizer.gguf")]
    first, second = models[::-1] if swapped else models
    result = invoke("eval", "-r", first, second, "-f", files["text"], "--ctx", CTX)
    assert result.exit_code == 1
    assert "tokenizer.ggml.add_bos_token differ" in result.stderr
    assert "as other tokens than" in result.stderr


def test_results_hold_a_witness_of_the_tokens(files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "eval.json"
    result = invoke(
        *("eval", files["reference"], "-f", files["text"], "--ctx", CTX, "--chunks", 4),
        *("-o", output),
    )
    assert result.exit_code == 0, result.stderr
    with load_model(files["reference"]) as model:
        text = files["text"].read_text(encoding="utf-8").removesuffix("\n")
        tokens = model.tokenize(text, add_special=True, parse_special=False)[: 4 * CTX]
    found = json.loads(output.read_text())["data"]["tokens_sha256"]
    assert found == hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()


def test_a_reference_that_is_not_finite_is_invalid(files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "eval.json"
    result = invoke(
        *("eval", "-r", files["broken"], files["other"], "-f", files["text"]),
        *("--ctx", CTX, "--chunks", "8", "-o", output),
    )
    assert result.exit_code == 3, result.stderr
    assert "INVALID: broken" in " ".join(result.stdout.split())
    document = json.loads(output.read_text())
    assert document["reference"]["n_not_finite"] > 0
    assert document["reference"]["first_not_finite"] == "layer 0"
    assert {row["verdict"] for row in document["comparisons"]} == {"invalid"}


def test_a_task_with_logits_that_are_not_finite_is_invalid(
    files: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "tasks.json"
    task = files["text"].parent / "hellaswag.txt"
    models = (files["reference"], files["broken"])
    result = invoke("eval", *models, "--hellaswag", task, "-o", output)
    assert result.exit_code == 3, result.stderr
    assert "INVALID: broken: log-probabilities of" in " ".join(result.stdout.split())
    assert "no valid results: broken" in result.stderr
    sound, broken = json.loads(output.read_text())["candidates"]
    assert sound["tasks"][0]["n_not_finite"] == 0
    assert broken["tasks"][0]["n_not_finite"] > 0
    tests = [test for model in (sound, broken) for test in model["tasks"][0]["comparisons"]]
    assert tests
    assert {test["verdict"] for test in tests} == {"invalid"}


@pytest.mark.parametrize("is_chat", [False, True])
def test_the_chat_template_is_compared_for_chat_text(
    files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, is_chat: bool
) -> None:
    template = pair("tokenizer.chat_template", ValueType.STRING, "{{ messages }}")
    pairs = model_pairs("llama", **expert_settings()) + vocabulary_pairs() + [template]
    tensors = [f32_tensor(name, values) for name, values in expert_weights().items()]
    other = write_gguf(tmp_path / "template.gguf", tensors, pairs)
    result = invoke(
        *("eval", "-r", files["reference"], other, "-f", files["text"]),
        *("--ctx", CTX, "--chunks", "4", *(["--parse-special"] if is_chat else [])),
    )
    assert result.exit_code == 0, result.stderr
    assert ("tokenizer.chat_template differ" in caplog.text) == is_chat


@pytest.fixture(scope="module")
def real_chunks() -> tuple[ChunkSums, ChunkSums]:
    """Sums of 160 chunks of the demo model in two types, scored against its source."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(demo_text(60_000, seed=9), encoding="utf-8")
        files = []
        with apex.open_gguf(apex.demo_model()) as source:
            for type in ("Q4_K_M", "Q3_K_M"):
                files.append(Path(folder) / f"{type}.gguf")
                apex.quantize(source, apex.make_plan(source, ftype=type), files[-1])
        found = apex.evaluate(
            *(apex.demo_model(), files, text),
            ctx=64, chunks=160, n_threads=1, noise_chunks=0, router=False,
        )  # fmt: skip
    first, second = (candidate.chunks for candidate in found.results.candidates)
    assert first is not None
    assert second is not None
    return first, second


@pytest.mark.parametrize("metric", ["kld_mean", "ln_ppl"])
@pytest.mark.parametrize("n_chunks", [MIN_CHUNKS, 8, 20])
def test_the_interval_of_few_chunks_holds_the_truth_as_often_as_it_says(
    real_chunks: tuple[ChunkSums, ChunkSums], n_chunks: int, metric: str
) -> None:
    """The truth is the difference over all chunks; texts are drawn from them."""
    everything = [Paired(name, chunks) for name, chunks in zip("ab", real_chunks, strict=True)]
    truth = compare_pair(*everything, metric)
    assert truth is not None
    rng = np.random.default_rng(4)
    n_texts, n_held = 200, 0
    for _ in range(n_texts):
        drawn = rng.integers(0, len(everything[0].chunks.n_positions), n_chunks)
        few = [Paired(model.name, _taken(model.chunks, drawn)) for model in everything]
        found = compare_pair(*few, metric)
        assert found is not None
        n_held += found.low <= truth.difference <= found.high
    assert n_held / n_texts >= tolerances.FEW_CHUNKS_COVERAGE


def _taken(chunks: ChunkSums, which: np.ndarray) -> ChunkSums:
    return ChunkSums(
        *(tuple(values[i] for i in which) for values in (chunks.n_positions, chunks.nll)),
        kld=tuple(chunks.kld[i] for i in which),
    )
