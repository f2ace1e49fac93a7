"""What is drawn: traces and axes in plotly's schema, and why a figure may be missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apex_native.reports.frontier import kld_frontier
from apex_native.reports.html.points import about, label_positions, made_of
from apex_native.reports.kinds import file_kind
from apex_native.reports.labels import short_names
from apex_native.results import Candidate, Results, Verdict

__all__ = ["Figure", "result_figures"]

_GIB = 1 << 30
_ROW = 26
"""Pixels of a row that is named: 14 models do not collide."""

_NAMED = 6
"""Points that are few enough for names beside them; more get numbers."""

_DASHES = ("solid", "dash", "dot")

_KINDS = {"APEX tier": "circle", "llama.cpp mix": "square", "other recipe": "diamond"}


@dataclass(frozen=True)
class Figure:
    """A heading, what it shows as a sentence, traces, layout and height in pixels."""

    name: str
    title: str
    says: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 460


_TICKS = [digit * 10.0**power for power in range(-9, 4) for digit in (1, 2, 5)]
_LOGARITHMIC = {"type": "log", "tickvals": _TICKS, "ticktext": [f"{tick:g}" for tick in _TICKS]}
"""Plotly's own ticks between powers of ten say 5 where 0.05 is meant."""


def result_figures(
    results: Results, manifests: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Figure]:
    """Every figure that the results have something for; manifests say what files are made of."""
    made = {name.removesuffix(".gguf"): made_of(m) for name, m in (manifests or {}).items()}
    makers: tuple[Callable[[Results], Figure | None], ...] = (
        lambda found: size_figure(found, made),
        confidence_figure,
        position_figure,
        router_figure,
        verdict_figure,
        task_figure,
        speed_figure,
    )
    return [figure for maker in makers if (figure := maker(results)) is not None]


def _frontier(known: Sequence[Candidate], per: int) -> dict[str, Any]:
    best = kld_frontier(known)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "frontier",
        "x": [(c.bytes or 0) / per for c in best],
        "y": [c.kld_mean for c in best],
        "line": {"dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
    }


def size_figure(results: Results, made: Mapping[str, str]) -> Figure | None:
    """KLD against size, the frontier as a line; made: what files are made of, without .gguf."""
    known = [c for c in results.candidates if c.bytes is not None and c.kld_mean]
    if not known:
        return None
    unit, per = ("GiB", _GIB) if max(c.bytes or 0 for c in known) >= _GIB else ("MiB", 1 << 20)
    traces: list[dict[str, Any]] = [_frontier(known, per)]
    for kind, symbol in _KINDS.items():
        members = [c for c in known if file_kind(c.name).value == kind]
        if members:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": kind,
                    "x": [(c.bytes or 0) / per for c in members],
                    "y": [c.kld_mean for c in members],
                    "error_y": {"array": [c.kld_se or 0 for c in members], "thickness": 1},
                    "hovertext": [
                        about(c, made.get(c.name.removesuffix(".gguf"), "")) for c in members
                    ],
                    "hoverinfo": "text",
                    "marker": {"symbol": symbol, "size": 11},
                }
            )
    numbered = len(known) > _NAMED
    order, names = results.candidates, short_names(results)
    labels = [f"{order.index(c) + 1}" if numbered else names[c.name] for c in known]
    traces.append(_labels(known, labels, per))
    layout = {
        "xaxis": {"title": {"text": f"size, {unit}"}},
        "yaxis": {"title": {"text": "mean KLD, nats"}, **_LOGARITHMIC},
    }
    return Figure(
        "size", "KLD against size",
        "Lower and further left is better; the line joins the files that no other beats in both. "
        + ("Numbers are the table's. " if numbered else "")
        + "Hover over a point to see what it is.",
        traces, layout, 560,
    )  # fmt: skip


def _labels(known: Sequence[Candidate], labels: Sequence[str], per: int) -> dict[str, Any]:
    x, y = [(c.bytes or 0) / per for c in known], [c.kld_mean or 0 for c in known]
    return {
        "type": "scatter",
        "mode": "text",
        "showlegend": False,
        "x": x,
        "y": y,
        "text": [f"\u2002{label}\u2002" for label in labels],
        "textposition": label_positions(x, y, labels),
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def confidence_figure(results: Results) -> Figure | None:
    """KLD by how sure the reference was."""
    known = [c for c in results.candidates if c.kld_by_confidence]
    if not known:
        return None
    names = short_names(results)
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": names[c.name],
            "x": [f"{b.low:.0%}–{b.high:.0%}" for b in c.kld_by_confidence],
            "y": [b.kld_mean for b in c.kld_by_confidence],
            "error_y": {"array": [b.kld_se or 0 for b in c.kld_by_confidence], "thickness": 1},
            "line": {"dash": _DASHES[i // 10 % len(_DASHES)]},
            "hovertemplate": "%{x}: %{y:.5f}<extra>%{fullData.name}</extra>",
        }
        for i, c in enumerate(known)
    ]
    layout = {
        "xaxis": {"title": {"text": "probability of the reference's most probable token"}},
        "yaxis": {"title": {"text": "mean KLD, nats"}, **_LOGARITHMIC},
    }
    return Figure(
        "confidence", "KLD by reference confidence",
        "Where the reference was sure, a divergence is more likely to be seen.",
        traces, layout, 520,
    )  # fmt: skip


def position_figure(results: Results) -> Figure | None:
    """KLD of each chunk, in the order of the text (of each domain, where it has parts)."""
    known = [(c, c.chunks) for c in results.candidates if c.chunks is not None and c.chunks.kld]
    if not known:
        return None
    names = short_names(results)
    z = []
    for _, chunks in known:
        pairs = zip(chunks.kld, chunks.n_positions, strict=True)
        z.append([None if total is None or not n else total / n for total, n in pairs])
    traces = [
        {
            "type": "heatmap",
            "y": [names[c.name] for c, _ in known],
            "z": [[math.log10(value) if value else None for value in row] for row in z],
            "customdata": z,
            "colorscale": "Viridis",
            "hovertemplate": "chunk %{x}<br>%{y}: %{customdata:.5f}<extra></extra>",
            "colorbar": {"title": {"text": "log10 KLD"}},
        }
    ]
    layout = {
        "xaxis": {"title": {"text": "chunk of the text"}},
        "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False},
    }
    return Figure(
        "position", "KLD by position in the text",
        "A bright column is a passage that is hard for all files, a bright row a file that is bad "
        "everywhere.",
        traces, layout, 160 + _ROW * len(known),
    )  # fmt: skip


def router_figure(results: Results) -> Figure | None:
    """Share of tokens whose router chose the same set of experts, layer by layer."""
    known = [c for c in results.candidates if c.router_agreement]
    if not known:
        return None
    names = short_names(results)
    layers = sorted({row.layer for c in known for row in c.router_agreement})
    z = []
    for candidate in known:
        rows = {row.layer: row.same_set for row in candidate.router_agreement}
        z.append([rows.get(layer) for layer in layers])
    traces = [
        {
            "type": "heatmap",
            "x": layers,
            "y": [names[c.name] for c in known],
            "z": z,
            "colorscale": "Viridis",
            "hovertemplate": "layer %{x}<br>%{y}: %{z:.2%}<extra></extra>",
            "colorbar": {"title": {"text": "same set"}, "tickformat": ".0%"},
        }
    ]
    layout = {
        "xaxis": {"title": {"text": "layer"}, "dtick": 1 if len(layers) <= 24 else 5},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    return Figure(
        "router", "Router agreement",
        "Share of tokens that went to the same experts as in the reference.",
        traces, layout, 160 + _ROW * len(known),
    )  # fmt: skip


_VERDICT = {Verdict.BETTER: 1, Verdict.WORSE: -1, Verdict.NOT_DISTINGUISHABLE: 0}


def verdict_figure(results: Results) -> Figure | None:
    """Every pair: is the row better than the column in KLD?"""
    pairs = [c for c in results.comparisons if c.metric == "kld_mean"]
    if not pairs:
        return None
    names = short_names(results)
    order = [c.name for c in results.candidates]
    cells: dict[tuple[str, str], tuple[int | None, str]] = {}
    for pair in pairs:
        sign = _VERDICT.get(pair.verdict)
        interval = "" if pair.low is None else f" ({pair.low:+.5f} to {pair.high:+.5f})"
        says = f"{pair.difference or 0:+.5f}{interval}: {pair.verdict.value}"
        cells[pair.first, pair.second] = (sign, says)
        cells[pair.second, pair.first] = (None if sign is None else -sign, f"reverse of {says}")
    empty: tuple[int | None, str] = (None, "")
    z = [[cells.get((row, column), empty)[0] for column in order] for row in order]
    text = [[cells.get((row, column), empty)[1] for column in order] for row in order]
    labels = [names[name] for name in order]
    traces = [
        {
            "type": "heatmap",
            "x": labels,
            "y": labels,
            "z": z,
            "text": text,
            "zmin": -1,
            "zmax": 1,
            "xgap": 1,
            "ygap": 1,
            "colorscale": [[0, "#b2442e"], [0.5, "#9a9a9a"], [1, "#2f7d5b"]],
            "hovertemplate": "%{y} against %{x}<br>%{text}<extra></extra>",
            "colorbar": {"tickvals": [-1, 0, 1], "ticktext": ["worse", "unclear", "better"]},
        }
    ]
    layout = {
        "xaxis": {"tickangle": -45, "automargin": True, "showgrid": False},
        "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False},
    }
    return Figure(
        "verdicts", "Verdicts",
        "Is the row's file better than the column's? Paired by chunk, intervals of 95 %.",
        traces, layout, 260 + _ROW * len(order),
    )  # fmt: skip


def task_figure(results: Results) -> Figure | None:
    """Scores with Wilson intervals; those that guessing could give are hollow."""
    known = [c for c in results.candidates if c.tasks]
    if not known:
        return None
    names = short_names(results)
    tasks = sorted({score.task for c in known for score in c.tasks})
    traces = []
    for task in tasks:
        scores = [(c, s) for c in known for s in c.tasks if s.task == task]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": task,
                "orientation": "h",
                "y": [names[c.name] for c, _ in scores],
                "x": [s.score for _, s in scores],
                "error_x": {
                    "array": [s.high - s.score for _, s in scores],
                    "arrayminus": [s.score - s.low for _, s in scores],
                    "thickness": 1,
                },
                "marker": {
                    "symbol": [
                        "circle" if s.distinguishable_from_chance else "circle-open"
                        for _, s in scores
                    ],
                    "size": 8,
                },
                "hovertemplate": "%{y}: %{x:.2%}<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "answered correctly"}, "tickformat": ".0%"},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    return Figure(
        "tasks", "Tasks",
        "With 95 % intervals; hollow points could be guessing.",
        traces, layout, 180 + (_ROW + 6) * len(known),
    )  # fmt: skip


def speed_figure(results: Results) -> Figure | None:
    """Tokens a second of every test."""
    models = [*results.candidates]
    known = [c for c in models if c.speed]
    if not known:
        return None
    names = short_names(results)
    tests = sorted({test.test for c in known for test in c.speed})
    traces = []
    for i, test in enumerate(tests):
        rows = [(c, t) for c in known for t in c.speed if t.test == test]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": test,
                "y": [names[c.name] for c, _ in rows],
                "x": [t.median for _, t in rows],
                "hovertext": [f"{t.device or ''}, {t.n_threads} threads" for _, t in rows],
                "xaxis": f"x{i + 1}" if i else "x",
            }
        )
    width = 1 / len(tests)
    axes = {
        f"xaxis{i + 1}" if i else "xaxis": {
            "title": {"text": f"{test}, tokens/s"},
            "domain": [i * width + (0.03 if i else 0), (i + 1) * width - 0.03],
        }
        for i, test in enumerate(tests)
    }
    layout = {**axes, "yaxis": {"autorange": "reversed", "automargin": True}, "showlegend": False}
    return Figure(
        "speed", "Speed", "Medians of the repetitions.", traces, layout, 160 + _ROW * len(known)
    )
