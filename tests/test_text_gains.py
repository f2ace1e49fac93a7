"""Gains by text: what `eval --by-text` says of candidates against the first."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from apex_native.cli.text_gain_table import show_text_gains
from apex_native.reports import TextGain, text_gains
from apex_native.results import Results
from results_data import comparison, evaluation
from test_cli_tables import Terminal


def pair(*, turned: bool = False) -> Results:
    """Two candidates whose difference was measured as first - second, or the other way round."""
    results = evaluation(3)
    _, first, second = results.candidates
    order = (second, first) if turned else (first, second)
    return replace(
        results,
        candidates=(first, second),
        comparisons=(comparison(*order, "ln_ppl"), comparison(*order, "kld_mean")),
    )


@pytest.mark.parametrize("turned", [False, True])
def test_a_gain_is_a_share_of_the_first(turned: bool) -> None:
    results = pair(turned=turned)
    base, gain = text_gains({"chat": results})
    first, second = results.candidates
    assert base.candidate == first.name
    assert (base.against, base.change, base.low, base.change_p999) == (None, None, None, None)
    assert first.kld_mean
    assert second.kld_mean
    assert first.kld_p999
    assert second.kld_p999
    assert (gain.text, gain.candidate, gain.against) == ("chat", second.name, first.name)
    assert gain.n_chunks == 145
    assert gain.change == pytest.approx(second.kld_mean / first.kld_mean - 1)
    assert gain.change_p999 == pytest.approx(second.kld_p999 / first.kld_p999 - 1)
    measured = results.comparisons[1]
    assert measured.low is not None
    assert measured.high is not None
    low, high = (measured.low, measured.high) if turned else (-measured.high, -measured.low)
    assert gain.low == pytest.approx(low / first.kld_mean)
    assert gain.high == pytest.approx(high / first.kld_mean)
    assert gain.low < gain.change < gain.high


def test_what_was_not_measured_is_none() -> None:
    results = replace(pair(), comparisons=())
    assert text_gains({"a": results})[1].low is None
    first, second = results.candidates
    same = replace(results, candidates=(replace(first, kld_mean=0.0, kld_p999=None), second))
    gain = text_gains({"a": same})[1]
    assert (gain.change, gain.change_p999) == (None, None)


def test_texts_and_candidates_keep_their_order() -> None:
    rows = text_gains({"tools": pair(), "chat": pair()})
    assert [row.text for row in rows] == ["tools", "tools", "chat", "chat"]
    assert [row.against is None for row in rows] == [True, False, True, False]


@pytest.mark.parametrize("width", [80, 40])
def test_the_table_fits_a_terminal(width: int) -> None:
    base = TextGain("reasoning", 117, "model-I-Compact", None, 0.0044, 0.422)
    gain = TextGain(
        *("reasoning", 117, "model-I-Compact-fitted", base.candidate, 0.0036, 0.313),
        *(-0.186, -0.256, -0.118, -0.26),
    )
    few = replace(gain, text="code", low=None, high=None)
    shown = io.StringIO()
    with redirect_stdout(shown):
        show_text_gains(Terminal(width), [base, gain, replace(base, text="code"), few])
    text = shown.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for shown_value in ("0.004400", "-18.6%", "-25.6% to", "-11.8%", "reasoning"):
        assert shown_value.replace("0.004400", "0.0044") in words
    assert "No interval: it needs at least 5 chunks" in words
