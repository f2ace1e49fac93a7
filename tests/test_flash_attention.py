"""``--flash-attn``: llama.cpp's default, switched, and what results say of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
import tolerances
from apex_native.demo_text import demo_text
from apex_native.errors import ResultsError
from apex_native.evaluation import EvalResults
from apex_native.results import merge_results
from cli_tools import invoke


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flash") / "text.txt"
    path.write_text(demo_text(6_000, seed=5), encoding="utf-8")
    return path


def scored(text: Path, choice: str) -> EvalResults:
    placement = apex.Placement(n_threads=1, flash_attn=choice)  # type: ignore[arg-type]
    models = [apex.demo_model()]
    return apex.evaluate(None, models, text, ctx=128, chunks=5, placement=placement)


def test_the_default_is_llama_cpps_and_results_name_the_setting(text: Path) -> None:
    found = {choice: scored(text, choice) for choice in ("auto", "on", "off")}
    nll = {choice: next(iter(f.tokens.values())).nll for choice, f in found.items()}
    assert np.array_equal(nll["auto"], nll["on"])  # a CPU can
    assert not np.array_equal(nll["on"], nll["off"])
    ppl = {choice: f.results.candidates[0].ppl for choice, f in found.items()}
    assert ppl["off"] == pytest.approx(ppl["on"], rel=tolerances.FLASH_ATTENTION_PPL_RTOL)
    for choice, results in found.items():
        assert results.results.settings is not None
        assert results.results.settings.flash_attn == choice
    with pytest.raises(ResultsError, match=r"settings\.flash_attn"):
        merge_results([found["on"].results, found["off"].results])


def test_it_is_an_option_of_eval(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "eval.json"
    options = ("-f", text, "--ctx", "128", "--chunks", "2", "--flash-attn", "off", "-o", output)
    result = invoke("eval", apex.demo_model(), *options)
    assert result.exit_code == 0, result.stderr
    assert apex.Results.load(output).settings.flash_attn == "off"


def test_another_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="flash_attn: expected auto, on or off, found 'maybe'"):
        apex.load_model(apex.demo_model(), flash_attn="maybe")  # type: ignore[arg-type]
