"""The plots: whole files of the stated size, no label on another, chance never unmarked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_native.reports.plots import MOST_CANDIDATES, PLOTS
from apex_native.reports.plots.axes import log_ticks
from apex_native.reports.plots.canvas import DPI, style
from apex_native.reports.plots.spread import spread
from apex_native.reports.plots.text import drawable, model_labels
from apex_native.reports.write import write_report
from apex_native.results import Candidate, Results
from plot_checks import (
    lines_beside_labels,
    on_markers,
    outside,
    overlapping,
    png_size,
    shown_texts,
)
from results_data import FLOOR, TEXT, evaluation

BY_NAME = {plot.name: plot for plot in PLOTS}
LABELLED = ("kld_vs_size", "ppl_vs_size", "size_vs_speed")


def each(results: Results, change: Callable[[int, Candidate], Candidate]) -> Results:
    changed = tuple(change(i, c) for i, c in enumerate(results.candidates))
    return replace(results, candidates=changed, comparisons=())


def tiny(n: int) -> Results:
    """Megabytes, and a KLD near the noise."""

    def change(_: int, c: Candidate) -> Candidate:
        assert c.bytes is not None
        assert c.kld_mean is not None
        assert c.kld_p999 is not None
        return replace(
            c, bytes=c.bytes // 3000, kld_mean=c.kld_mean * 1e-6, kld_p999=c.kld_p999 * 1e-6
        )

    return each(evaluation(n, n_layers=8), change)


def huge(n: int) -> Results:
    """Sizes and perplexities over many powers of ten."""

    def change(i: int, c: Candidate) -> Candidate:
        assert c.bytes is not None
        assert c.ppl is not None
        return replace(c, bytes=c.bytes * (1 + 299 * (i % 2)), ppl=c.ppl * 10.0**i)

    return each(evaluation(n, n_layers=94), change)


def long_names(n: int) -> Results:
    """Names longer than any label, with what is markup elsewhere and what no font has."""
    return each(
        evaluation(n),
        lambda i, c: replace(c, name=f"org/{'very-' * 12}long-$x_{{1}}$-\U0001f999-{c.name}-{i}"),
    )


def all_alike(n: int) -> Results:
    """Every candidate at one point of every plot."""
    first = evaluation(1).candidates[0]
    return each(evaluation(n), lambda _, c: replace(first, name=c.name, sha256=c.sha256))


def many(n: int) -> Results:
    base = evaluation(13).candidates
    copies = tuple(replace(base[i % 13], name=f"copy {i} of {i % 13}") for i in range(n))
    return replace(evaluation(1), candidates=copies, comparisons=())


CASES: dict[str, tuple[Callable[[int], Results], int]] = {
    "published-2": (evaluation, 2),
    "published-6": (evaluation, 6),
    "published-13": (evaluation, 13),
    "tiny-6": (tiny, 6),
    "huge-13": (huge, 13),
    "long-names-13": (long_names, 13),
    "all-alike-6": (all_alike, 6),
    "many-30": (many, 30),
}


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("case", CASES)
def test_labels_are_all_there_and_none_lies_on_another(case: str, name: str) -> None:
    make, n = CASES[case]
    results = make(n)
    assert BY_NAME[name].reason_missing(results) is None
    with style():
        figure = BY_NAME[name].draw(results)
        shown = shown_texts(figure)
    assert overlapping(shown) == []
    assert outside(figure, shown) == []
    if name in LABELLED:
        assert on_markers(figure, shown) == []
    texts = [text.text for text in shown]
    times = {"size_vs_speed": 2, "router_agreement": 2}.get(name, 1)
    labels = model_labels(results)
    for candidate in results.candidates:
        assert texts.count(labels[candidate.name]) == times, candidate.name


@pytest.mark.parametrize("name", ["size_vs_speed", "ppl_vs_size", "kld_vs_size"])
def test_a_line_to_a_label_keeps_off_the_others(name: str) -> None:
    with style():
        figure = BY_NAME[name].draw(evaluation(13))
        figure.draw_without_rendering()
        assert [name for axes in figure.axes for name in lines_beside_labels(axes)] == []


def test_the_checks_see_what_they_look_for() -> None:
    """The same checks on a plot whose labels stand where careless ones would."""
    with style():
        figure = BY_NAME["ppl_vs_size"].draw(evaluation(13))
        axes = figure.axes[0]
        shown = shown_texts(figure)
        assert overlapping(shown) == []
        assert on_markers(figure, shown) == []
        for text in axes.texts:
            text.set_position((0.5, 0.5))
        assert len(overlapping(shown_texts(figure))) >= 13 * 12 / 2
        axes.texts[0].set_position((1.2, 0.5))
        assert outside(figure, shown_texts(figure)) == [axes.texts[0].get_text()]
        x, y = axes.transAxes.inverted().transform(
            axes.transData.transform(axes.lines[0].get_xydata()[0])
        )
        axes.texts[1].set_position((x, y))
        assert axes.texts[1].get_text() in on_markers(figure, shown_texts(figure))


def test_files_are_whole_and_of_the_stated_size(tmp_path: Path) -> None:
    results = evaluation(3)
    written = write_report(results, tmp_path, formats=("png",))
    assert sorted(path.stem for path in written.files) == sorted(BY_NAME)
    for path in written.files:
        with style():
            inches = BY_NAME[path.stem].draw(results).get_size_inches()
        expected = tuple(int(side * DPI) for side in inches)
        assert png_size(path.read_bytes()) == expected
        assert 600 < expected[0] < 2600
    with pytest.raises(ValueError, match=r"pixels are missing|end is missing|damaged"):
        png_size(written.files[0].read_bytes()[:-20])


def test_texts_without_end_are_cut(tmp_path: Path) -> None:
    endless = "word " * 30_000
    base = evaluation(2)
    scores = tuple(
        replace(base.candidates[0].tasks[0], task=f"task {i} {'of many ' * 50}") for i in range(30)
    )
    speed = tuple(replace(t, test=t.test + "x" * 500) for t in base.candidates[0].speed)
    results = replace(
        each(base, lambda _, c: replace(c, tasks=scores, speed=speed)),
        noise_floor=replace(FLOOR, description=endless),
        data=replace(TEXT, name=endless),
    )
    written = write_report(results, tmp_path, formats=("png",))
    assert len(written.files) == len(PLOTS)
    for path in written.files:
        width, height = png_size(path.read_bytes())
        assert width < 2600
        assert height < 1600
    with style():
        figure = BY_NAME["accuracy"].draw(results)
        assert overlapping(shown_texts(figure)) == []


def test_a_plot_is_the_same_bytes_every_time() -> None:
    results = evaluation(2)
    for plot in PLOTS:
        assert plot.png(results) == plot.png(results)


def test_the_users_own_style_changes_nothing() -> None:
    import matplotlib as mpl

    results = evaluation(2)
    plain = BY_NAME["kld"].png(results)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "text.parse_math": True}):
        assert BY_NAME["kld"].png(results) == plain
        assert mpl.rcParams["font.size"] == 30


def test_chance_is_marked_on_every_plot_that_shows_a_score() -> None:
    results = evaluation(13)
    lost = results.candidates[-1]
    with style():
        texts = [t.text for t in shown_texts(BY_NAME["accuracy"].draw(results))]
    for score in lost.tasks:
        plain = f"{100 * score.score:.1f}"
        assert f"{plain} (chance)" in texts
        assert plain not in texts


def test_a_file_that_forgot_to_say_so_is_marked_all_the_same() -> None:
    results = evaluation(13)
    lost = results.candidates[-1]
    claimed = tuple(replace(score, distinguishable_from_chance=True) for score in lost.tasks)
    results = replace(results, candidates=(*results.candidates[:-1], replace(lost, tasks=claimed)))
    with style():
        texts = [t.text for t in shown_texts(BY_NAME["accuracy"].draw(results))]
    assert sum("(chance)" in text for text in texts) == len(claimed)


def nothing(results: Results) -> Results:
    """Names and sizes alone."""
    bare = tuple(Candidate(c.name, bytes=c.bytes) for c in results.candidates)
    return replace(results, candidates=bare, reference=None, comparisons=())


@pytest.mark.parametrize("n_candidates", [0, 1, 2])
def test_what_was_not_measured_is_a_sentence(tmp_path: Path, n_candidates: int) -> None:
    written = write_report(nothing(evaluation(n_candidates)), tmp_path)
    assert set(written.left_out) == set(BY_NAME)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "![" not in text
    for sentence in written.left_out.values():
        assert sentence.endswith(".")
        assert f"- {sentence}" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.csv", "report.md"]


def test_one_candidate_has_the_plots_that_need_no_second(tmp_path: Path) -> None:
    written = write_report(evaluation(1), tmp_path)
    assert set(written.left_out) == {"ppl_vs_size", "kld_vs_size"}
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "![" in text
    assert "needs two candidates with size and perplexity; there is 1." in text


def test_too_many_candidates_are_a_sentence() -> None:
    n = MOST_CANDIDATES + 1
    copies = tuple(replace(evaluation(1).candidates[0], name=str(i)) for i in range(n))
    results = replace(evaluation(1), candidates=copies, comparisons=())
    for plot in PLOTS:
        assert "61 candidates are too many for one plot" in str(plot.reason_missing(results))


@pytest.mark.parametrize("change", [{"kld_mean": 0.0}, {"kld_mean": None}, {"kld_mean": -1e-9}])
def test_a_divergence_without_a_logarithm_is_named_not_drawn(change: dict[str, Any]) -> None:
    results = evaluation(2)
    first = replace(results.candidates[0], **change)
    results = replace(results, candidates=(first, results.candidates[1]))
    with style():
        texts = [t.text for t in shown_texts(BY_NAME["kld"].draw(results))]
    assert not any(text == "Q8_0" for text in texts)
    named = any("Not above 0 and not drawn: Qwen3.5-35B-A3B-Q8_0.gguf" in t for t in texts)
    assert named is (change["kld_mean"] is not None)


def test_labels_are_short_unique_and_drawable() -> None:
    labels = model_labels(evaluation(3))
    assert list(labels.values()) == ["F16", "Q8_0", "APEX-Quality", "APEX-I-Quality"]
    swept = ["Q4_K_M", *(f"i-quality prior {p} (cache q8_0/q4_0)" for p in ("auto", "none"))]
    found = evaluation(3)
    renamed = tuple(replace(c, name=n) for c, n in zip(found.candidates, swept, strict=True))
    labels = model_labels(replace(found, candidates=renamed, comparisons=()))
    assert [labels[name] for name in swept] == [
        *("Q4_K_M", "i-quality prior auto q8_0/q4_0", "i-quality prior none q8_0/q4_0"),
    ]
    labels = model_labels(long_names(13))
    assert len(set(labels.values())) == 14
    assert all(len(label) <= 35 for label in labels.values())
    assert drawable("a\U0001f999\n\udcffé±") == "a???é±"


@given(
    st.lists(st.floats(-100, 100), max_size=30),
    st.floats(0.1, 20),
)
def test_spread_keeps_order_distance_and_bounds(wanted: list[float], gap: float) -> None:
    placed = spread(wanted, gap, -50, 50)
    assert len(placed) == len(wanted)
    assert all(-50 - 1e-9 <= p <= 50 + 1e-9 for p in placed)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    room = min(gap, 100 / max(len(wanted) - 1, 1))
    for a, b in pairwise(order):
        assert placed[b] - placed[a] >= room - 1e-6
    far = all(abs(wanted[b] - wanted[a]) > gap for a, b in pairwise(order))
    if far and all(-50 <= value <= 50 for value in wanted):
        assert placed == pytest.approx(wanted)


@given(st.floats(1e-12, 1e12), st.floats(1.6, 1e12))
def test_ticks_are_round_and_inside(low: float, factor: float) -> None:
    high = low * factor
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert all(float(f"{tick:.2g}") == tick for tick in ticks)
