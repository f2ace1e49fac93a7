"""Which files are worth their size, whose recipes they are, and who stands next to whom."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_native.reports.frontier import kld_frontier
from apex_native.reports.kinds import FileKind, file_kind
from apex_native.reports.labels import ShortNames
from apex_native.reports.neighbours import neighbour_comparisons, turned
from apex_native.reports.plots import PLOTS
from apex_native.reports.plots.canvas import style
from apex_native.results import Candidate, Verdict
from results_data import evaluation

models = st.lists(
    st.tuples(st.integers(1, 9), st.one_of(st.none(), st.integers(0, 9).map(lambda k: k / 8))),
    max_size=12,
)


@given(models)
def test_the_frontier_is_what_nothing_beats(sizes: list[tuple[int, float | None]]) -> None:
    """Against the definition: another one no larger and no worse, and better in one of both."""
    candidates = [Candidate(str(i), bytes=n, kld_mean=kld) for i, (n, kld) in enumerate(sizes)]
    known = [c for c in candidates if c.kld_mean is not None]
    expected = {
        c.name
        for c in known
        if not any(
            o.bytes <= c.bytes and o.kld_mean <= c.kld_mean and (o.bytes, o.kld_mean) != key
            for o in known
            if (key := (c.bytes, c.kld_mean))
        )
    }
    found = kld_frontier(candidates)
    assert {c.name for c in found} == expected
    assert [c.bytes for c in found] == sorted(c.bytes for c in found if c.bytes)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Qwen3.5-35B-A3B-APEX-I-Quality.gguf", FileKind.TIER),
        ("demo-APEX-Mini.gguf", FileKind.TIER),
        ("Qwen3.5-35B-A3B-APEX-IQ4_XS_IQUALITY.gguf", FileKind.TIER),
        ("m-APEX-Q6_K_QUALITY.gguf", FileKind.TIER),
        ("m-APEX-Q6_K_CUSTOMQUALITY.gguf", FileKind.OTHER),
        ("m-Q8_0_CUSTOM.gguf", FileKind.OTHER),
        ("i-compact.gguf", FileKind.TIER),
        ("model-APEX-Quality-custom.gguf", FileKind.OTHER),
        ("Qwen3.5-35B-A3B-Q8_0.gguf", FileKind.MIX),
        ("model.Q4_K_M.gguf", FileKind.MIX),
        ("q3_k_s", FileKind.MIX),
        ("model-UD-Q4_K_XL.gguf", FileKind.OTHER),
        ("model-UD-IQ2_M.gguf", FileKind.OTHER),
        ("my-mini.gguf", FileKind.OTHER),
        ("model-12.5GiB.gguf", FileKind.OTHER),
        ("i-quality prior none", FileKind.TIER),
        ("i-compact mine prior auto (cache q8_0/q4_0)", FileKind.TIER),
        ("Model-Q4_K_M (cache q8_0/q4_0)", FileKind.MIX),
        ("My own model-Q4_K_M.gguf", FileKind.MIX),
        ("model-UD-Q4_K_XL (cache q8_0/q4_0)", FileKind.OTHER),
        ("", FileKind.OTHER),
    ],
)
def test_a_name_says_whose_recipe_it_is(name: str, kind: FileKind) -> None:
    assert file_kind(name) is kind


def test_neighbours_are_by_size_whatever_the_order_of_the_file() -> None:
    results = evaluation(6)
    shuffled = replace(results, candidates=results.candidates[::-1])
    pairs = [(c.first, c.second) for c in neighbour_comparisons(shuffled, "kld_mean")]
    sizes = {c.name: c.bytes or 0 for c in results.candidates}
    assert len(pairs) == 5
    assert all(sizes[first] >= sizes[second] for first, second in pairs)
    assert [second for _, second in pairs[:-1]] == [first for first, _ in pairs[1:]]


def test_a_comparison_turned_round_says_the_same() -> None:
    for comparison in evaluation(5).comparisons:
        other = turned(comparison)
        assert turned(other) == comparison
        assert (other.first, other.second) == (comparison.second, comparison.first)
        assert comparison.difference is not None
        assert comparison.low is not None
        assert comparison.high is not None
        assert other.difference == -comparison.difference
        assert (other.low, other.high) == (-comparison.high, -comparison.low)
        same = comparison.verdict is Verdict.NOT_DISTINGUISHABLE
        assert (other.verdict == comparison.verdict) is same


def test_bars_of_perplexity_are_the_paired_error() -> None:
    results = evaluation(4)
    plot = next(plot for plot in PLOTS if plot.name == "ppl_vs_size")
    with style():
        axes = plot.draw(results).axes[0]
        bars = [segment for c in axes.collections for segment in c.get_segments()]
    heights = sorted(float(abs(bar[1][1] - bar[0][1])) for bar in bars)
    paired = sorted(2 * (c.ppl or 0) * (c.ln_ppl_ratio_se or 0) for c in results.candidates)
    assert all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(heights, paired, strict=True))
    unpaired = tuple(replace(c, ln_ppl_ratio_se=None) for c in results.candidates)
    with style():
        axes = plot.draw(replace(results, candidates=unpaired)).axes[0]
    assert not [s for c in axes.collections for s in c.get_segments()]


@given(st.lists(st.text("ab-_.", min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
def test_short_names_stay_apart(names: list[str]) -> None:
    short = ShortNames(names)
    assert len({short[name] for name in names}) == len(names)
    assert all(short[name] for name in names)


def test_names_lose_what_all_begin_with() -> None:
    short = ShortNames(["Q-35B-Mini.gguf", "Q-35B-I-Mini.gguf"], ["Q-35B-F16.gguf"])
    assert [short[n] for n in ("Q-35B-Mini.gguf", "Q-35B-F16.gguf", "x")] == ["Mini", "F16", "x"]
    assert short.note == "Names without the common “Q-35B-”."
    assert ShortNames(["alone.gguf"]).note == ""


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["Demo-Q4_K_M", "Demo-Q4_K_S", "Demo-Q4_0"], ["Q4_K_M", "Q4_K_S", "Q4_0"]),
        (["Demo-Q4_K_M", "Demo-Q4_K_M (2)"], ["Q4_K_M", "Q4_K_M (2)"]),
        (["d_IQ2_XS", "d_IQ2_XXS"], ["IQ2_XS", "IQ2_XXS"]),
        (["D-APEX-Q3_K_M_COMPACT", "D-APEX-Q3_K_M_MINI"], ["COMPACT", "MINI"]),
    ],
)
def test_a_type_is_not_cut(names: list[str], short: list[str]) -> None:
    found = ShortNames(names)
    assert [found[name] for name in names] == short
