"""Reports as Markdown and CSV, compared with text files, and what must hold for any of them.

After a change that is meant, `python tests/test_report_text.py` writes the files anew; review the
difference like code.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from apex_native.reports import numbers
from apex_native.reports.csv_table import csv_text
from apex_native.reports.markdown import markdown_text
from apex_native.reports.markdown_table import escape
from apex_native.results import Candidate, Results
from results_data import (
    BUILD,
    TASKS,
    candidate,
    comparison,
    evaluation,
    speed_tests,
    task_score,
    with_mcnemar,
)

GOLDEN = Path(__file__).parent / "golden"


def small_and_broken() -> Results:
    """Q8_0 beside a file that lost everything, on two layers."""
    pair = (candidate(1, n_layers=2), candidate(13, n_layers=2))
    pair = (pair[0], replace(pair[1], n_not_finite=12))
    results = replace(
        evaluation(0),
        candidates=pair,
        comparisons=tuple(comparison(*pair, metric) for metric in ("kld_mean", "ln_ppl")),
    )
    return with_mcnemar(results)


def speed_alone() -> Results:
    models = (Candidate("a.gguf", bytes=20 << 20), Candidate("b.gguf", bytes=9 << 20))
    fast, slow = speed_tests(60.5), speed_tests(1440.0)
    models = (replace(models[0], speed=fast), replace(models[1], speed=slow))
    return Results(BUILD, "2026-11-25T03:00:00Z", models)


CASES = {"evaluation": small_and_broken, "speed": speed_alone}


def markdown(results: Results, *, plots: bool = False) -> str:
    shown = {"kld": ("kld.png", "KLD"), "accuracy": ("accuracy.png", "scores")} if plots else {}
    return markdown_text(results, title="Test", plots=shown, left_out={})


def outputs(case: str) -> dict[str, str]:
    results = CASES[case]()
    text = markdown_text(
        results,
        title="Two quantizations" if case == "evaluation" else "Speed",
        plots={"kld": ("kld.png", "KLD of both")},
        left_out={"accuracy": "Accuracy needs more."},
    )
    return {f"report_{case}.md": text, f"report_{case}.csv": csv_text(results)}


@pytest.mark.parametrize("case", CASES)
def test_reports_are_the_golden_text(case: str) -> None:
    for name, text in outputs(case).items():
        assert text == (GOLDEN / name).read_text("utf-8"), name


PUBLISHED_COLUMNS = (
    *("Quantization", "Size (GiB)", "bpw", "PPL", "KLD mean", "KLD max", "KLD 99.9 %"),
    *("Same top (%)", "HellaSwag (%)", "Winogrande (%)", "MMLU (%)", "ARC (%)"),
    *("TruthfulQA (%)", "pp512 (t/s)", "tg128 (t/s)"),
)


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, the line of dashes left out."""
    lines = text.split(f"## {heading}", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [table[0], *table[2:]]


def test_core_metrics_have_the_published_columns() -> None:
    heading, *rows = rows_of(markdown(evaluation(13)), "Core Metrics")
    assert tuple(heading) == PUBLISHED_COLUMNS
    assert len(rows) == 14
    sizes = [float(row[1]) for row in rows[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert rows[5] == [
        *("Qwen3.5-35B-A3B-APEX-Quality.gguf", "21.30", "5.279", "6.5270 ± 0.0411"),
        *("0.011400 ± 0.000127", "5.850", "0.3307", "96.44 ± 0.05"),
        *("83.0", "74.5", "41.2", "56.2", "37.7", "1,461", "62.3"),
    ]


def test_columns_that_nobody_was_measured_in_are_named_instead() -> None:
    bare = tuple(replace(c, tasks=(), kld_p999=None) for c in evaluation(2).candidates)
    results = replace(evaluation(2), candidates=bare, comparisons=())
    results = replace(results, reference=replace(results.reference, tasks=()))
    text = markdown(results)
    heading, *_ = rows_of(text, "Core Metrics")
    assert set(PUBLISHED_COLUMNS) - set(heading) == {
        *("KLD 99.9 %", "HellaSwag (%)", "Winogrande (%)", "MMLU (%)", "ARC (%)"),
        "TruthfulQA (%)",
    }
    assert "Not measured: KLD 99.9 %, HellaSwag (%), Winogrande (%)" in text


@pytest.mark.parametrize("with_floor", [True, False])
def test_every_table_of_divergences_has_its_noise_floor(with_floor: bool) -> None:
    results = evaluation(3)
    if not with_floor:
        results = replace(results, noise_floor=None)
    text = markdown(results)
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    with_kld = [s for s in sections if "KLD" in s and "|" in s and "First is" not in s]
    assert len(with_kld) == 3
    for section in with_kld:
        assert "Noise floor" in section, section.splitlines()[0]
        assert ("not measured" in section) is not with_floor


def test_every_heading_says_what_was_measured() -> None:
    text = markdown(evaluation(3), plots=True)
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert len(headings) == 9
    for heading in headings:
        if heading not in ("What exactly was measured",):
            assert heading.endswith(")"), heading
    texts = [h for h in headings if "context 2048, 145 chunks" in h]
    assert len(texts) == 6


def scores_in(text: str, score: float) -> list[str]:
    """What follows each time a percentage stands as a number of its own."""
    number = f"{100 * score:.1f}"
    return re.findall(rf"(?<![\d.]){re.escape(number)}0?(?!\d)([^|,\n]*)", text)


def test_a_score_at_chance_is_never_unmarked() -> None:
    results = small_and_broken()
    lost = results.candidates[1]
    _, _, row = csv.DictReader(io.StringIO(csv_text(results)))
    for task, score in zip(TASKS, lost.tasks, strict=True):
        assert numbers.score(score).endswith(" (chance)"), task
        assert row[f"{task}_mark"] == "chance"
        assert float(row[f"{task}_percent"]) == pytest.approx(100 * score.score, abs=1e-4)
        found = scores_in(markdown(results), score.score)
        assert len(found) >= 2
        assert all("(chance)" in rest for rest in found), (task, found)


def test_below_chance_is_marked_too() -> None:
    score = replace(task_score("winogrande", 20.0), distinguishable_from_chance=True)
    assert numbers.score(score) == "20.0 (below chance)"
    assert numbers.score(task_score("winogrande", 75.0)) == "75.0"
    assert numbers.score(None) == "—"


def test_a_verdict_about_guesses_is_marked() -> None:
    results = small_and_broken()
    section = markdown(results).split("Differences in accuracy", 1)[1]
    # Q8_0 knows HellaSwag, the other guesses: their comparison is no comparison.
    assert "| HellaSwag (chance) |" in section


def test_positions_that_were_not_finite_are_loud() -> None:
    text = markdown(small_and_broken())
    assert "**Qwen3.5-35B-A3B-IQ1_S.gguf: invalid: 12 of 148,492 positions had logits" in text
    assert "not finite" not in markdown(evaluation(3))


def test_verdicts_and_what_cannot_be_told_apart() -> None:
    results = evaluation(3)
    text = markdown(results)
    near, every = text.split("<details><summary>All 6 comparisons</summary>", 1)
    heading, *rows = rows_of(near, "Differences between candidates")
    assert heading[4:] == ["95 % interval", "First is"]
    assert [row[:3] for row in rows] == [
        [f"Qwen3.5-35B-A3B-{first}.gguf", f"Qwen3.5-35B-A3B-{second}.gguf", metric]
        for metric in ("KLD mean", "ln PPL")
        for first, second in (("Q8_0", "APEX-Quality"), ("APEX-Quality", "APEX-I-Quality"))
    ]
    heading, *rows = rows_of("## All" + every, "All")
    assert [row[5] for row in rows] == [c.verdict.value for c in results.comparisons]
    assert len({row[5] for row in rows}) == 3
    n_alike = sum(c.verdict == "not distinguishable" for c in results.comparisons)
    counted = re.findall(r"(\d+) of 3 pairs are not distinguishable: ", text)
    assert sum(map(int, counted)) == n_alike > 0
    apart = replace(results, comparisons=(results.comparisons[0],))
    assert "KLD mean: every pair is distinguishable." in markdown(apart)


def test_many_comparisons_are_folded_away() -> None:
    text = markdown(evaluation(13))
    folded = text.split("<details><summary>All 156 comparisons</summary>\n\n|", 1)[1]
    assert folded.count("\n| ", 0, folded.index("</details>")) == 157


def test_pairs_from_different_runs_are_named() -> None:
    results = evaluation(3)
    results = replace(results, comparisons=results.comparisons[:1])
    assert "2 pairs were measured in different runs and not compared" in markdown(results)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Q4_K_M", "Q4_K_M"),
        ("a|b", r"a\|b"),
        ("<b>*x*</b>", r"\<b\>\*x\*\</b\>"),
        ("_x_ [y](z) `c` #1", r"\_x\_ \[y\](z) \`c\` \#1"),
        ("a\nb\x00\udcff", "a\\nb\\x00\\udcff".replace("\\", "\\\\")),
        ("&lt; & co", r"\&lt; & co"),
    ],
)
def test_names_are_no_markup(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_hostile_names_keep_tables_and_files_whole() -> None:
    name = 'a|b\n| c | "d", <script>\udcff'
    results = evaluation(1)
    hostile = replace(results.candidates[0], name=name)
    results = replace(results, candidates=(hostile,), comparisons=())
    text = markdown(results)
    text.encode("utf-8")
    assert "<script>" not in text.replace(r"\<script\>", "")
    heading, *rows = rows_of(text, "Core Metrics")
    assert all(len(re.split(r" (?<!\\)\| ", " | ".join(row))) == len(heading) for row in rows)
    rows = list(csv.reader(io.StringIO(csv_text(results))))
    csv_text(results).encode("utf-8")
    assert [len(row) for row in rows] == [len(rows[0])] * 3


def test_csv_has_every_number_in_full() -> None:
    results = evaluation(13)
    reference, *rows = csv.DictReader(io.StringIO(csv_text(results)))
    assert reference["role"] == "reference"
    by_name = {candidate.name: candidate for candidate in results.candidates}
    for row in rows:
        found = by_name.pop(row["name"])
        assert int(row["bytes"]) == found.bytes
        for key in ("ppl", "ppl_se", "kld_mean", "kld_se", "kld_p999", "same_top", "delta_p_rms"):
            assert float(row[key]) == getattr(found, key)
        assert float(row["tg128_tokens_per_second"]) == found.speed[1].median
        assert (row["data"], row["ctx"], row["n_chunks"]) == ("wiki.test.raw", "2048", "145")
        assert float(row["noise_floor_kld_mean"]) == 2.1e-6
    assert not by_name
    assert (rows[-1]["mmlu_percent"], rows[-1]["mmlu_mark"]) == ("24.6124", "chance")
    assert (rows[1]["mmlu_percent"], rows[1]["mmlu_mark"]) == ("41.2145", "")
    assert float(rows[1]["size_gib"]) == pytest.approx(34.4)


def test_csv_columns_hold_numbers_or_text_never_both() -> None:
    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return False
        return True

    rows = list(csv.DictReader(io.StringIO(csv_text(evaluation(13)))))
    words = {"role", "name", "sha256", "data", "data_sha256", "fingerprint", "type_k", "type_v"}
    words |= {f"{task}_mark" for task in TASKS}
    for key in rows[0]:
        cells = [row[key] for row in rows if row[key]]
        assert all(map(is_number, cells)) or key in words, key


def test_csv_columns_do_not_depend_on_what_was_measured() -> None:
    full = csv_text(evaluation(2)).splitlines()[0]
    assert csv_text(Results(BUILD, "2026", (Candidate("a"),))).splitlines()[0] == full


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (numbers.kld(0.005362, 0.00025), "0.005362 ± 0.000250"),
        (numbers.kld(0.8123, 0.009), "0.812300 ± 0.009000"),
        (numbers.kld(2.1e-6, 3e-7), "2.10e-06 ± 3.00e-07"),
        (numbers.kld(14.71), "14.71"),
        (numbers.kld(0.0), "0"),
        (numbers.kld(0.0, 0.0), "0.000000 ± 0.000000"),
        (numbers.kld(None), "—"),
        (numbers.signed(-0.00123), "-0.001230"),
        (numbers.signed(2e-5), "+2.00e-05"),
        (numbers.perplexity(6.527, 0.0411), "6.5270 ± 0.0411"),
        (numbers.perplexity(123.456), "123.46"),
        (numbers.perplexity(1.5e7), "1.5e+07"),
        (numbers.gib(1 << 30), "1.00"),
        (numbers.gib(7873536, numbers.size_decimals([19787840, 7873536])), "0.00733"),
        (numbers.percent(0.9774, 0.0005), "97.74 ± 0.05"),
        (numbers.speed(30.44), "30.4"),
        (numbers.speed(1173.6), "1,174"),
    ],
)
def test_numbers_have_the_digits_that_were_measured(shown: str, text: str) -> None:
    assert shown == text


def main() -> None:
    for case in CASES:
        for name, text in outputs(case).items():
            (GOLDEN / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
