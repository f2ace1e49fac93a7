"""What a notebook shows: short texts for large values, tables for results."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native.corpus import Corpus
from apex_native.evaluation import Text, TokenScores
from apex_native.imatrix import CalibrationText
from apex_native.results import Candidate, ChunkSums, Results, SpeedTest, TaskScore
from mix_models import MODELS
from results_data import evaluation

SCREEN = 80 * 4
"""Four lines of a terminal."""


def values() -> dict[str, object]:
    table = MODELS["qwen35moe_mtp"]()
    plan = apex.plan.make_plan(table.classification, tier="quality")
    doubles = np.zeros(50_000)
    flags = np.zeros(50_000, np.uint8)
    chunks = ChunkSums(tuple([255] * 4000), tuple([1.5] * 4000))
    manifest = {"text": {"tokens": 5000}, "recipe": {"name": "diverse"}, "parse_special": True}
    return {
        "facts": table.facts,
        "classification": table.classification,
        "plan": plan,
        "imatrix": apex.load_imatrix(apex.demo_imatrix()),
        "results": evaluation(3),
        "candidate": Candidate("mini", bytes=10**9, kld_mean=0.1, chunks=chunks),
        "score": TaskScore("mmlu", 10_000, 0.5, 0.4, 0.6, 0.25, True, items="f" * 2500),
        "tokens": TokenScores(doubles, flags, doubles, flags, doubles),
        "evaluation": apex.EvalResults(evaluation(3)),
        "corpus": Corpus("word " * 5000, manifest),
        "text": Text("wiki", "word " * 5000),
        "calibration text": CalibrationText("word " * 5000),
    }


@pytest.mark.parametrize("name", list(values()))
def test_it_fits_a_screen(name: str) -> None:
    value = values()[name]
    assert len(repr(value)) < SCREEN, repr(value)
    assert repr(value).startswith(type(value).__name__ + "(")


def test_a_manifest_fits_a_screen(tmp_path: Path) -> None:
    with apex.open_gguf(apex.demo_model()) as source:
        plan = apex.make_plan(source, ftype="Q8_0")
        manifest = apex.quantize(source, plan, tmp_path / "q8.gguf")
    assert len(repr(manifest)) < SCREEN + len(str(tmp_path))
    assert f"{manifest.total_bytes:,} bytes" in repr(manifest)


def test_what_matters_is_in_it() -> None:
    candidate = Candidate("mini", ppl=6.25, kld_mean=0.0123)
    assert repr(candidate) == "Candidate('mini', ppl=6.2500, kld_mean=0.012300)"
    shown = repr(apex.load_imatrix(apex.demo_imatrix()))
    assert "entries" in shown
    assert "chunks of 512 tokens" in shown


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


def cells_of(results: Results) -> list[list[str]]:
    cells = Cells()
    cells.feed(results._repr_html_())
    return cells.rows


def test_results_are_a_table_in_a_notebook() -> None:
    results = evaluation(3)
    heading, *rows = cells_of(results)
    assert heading[:2] == ["model", "GiB"]
    assert len(rows) == 1 + len(results.candidates)
    assert all(len(row) == len(heading) for row in rows)
    assert [row[0] for row in rows[1:]] == [candidate.name for candidate in results.candidates]
    kld = results.candidates[0].kld_mean
    assert rows[1][heading.index("KLD mean")] == f"{kld:.6f}"
    assert rows[0][heading.index("KLD mean")] == ""


def test_a_table_leaves_out_what_nobody_measured_and_escapes_names() -> None:
    speed = SpeedTest("pp512", 2, "f16", "f16", 1234.5)
    score = TaskScore("arc", 40, 0.25, 0.14, 0.4, 0.25, distinguishable_from_chance=False)
    results = Results(
        build=evaluation(3).build,
        created="2026-01-01T00:00:00+00:00",
        candidates=(Candidate("<b>", speed=(speed,), tasks=(score,)),),
    )
    assert cells_of(results) == [
        ["model", "arc", "pp512, tokens/s"],
        ["<b>", "25.0% (chance)", "1,234.5"],
    ]
    assert "<b>" not in results._repr_html_()
