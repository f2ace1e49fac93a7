"""The parts of a Markdown report: each a list of blocks, empty where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from apex_native.reports import numbers
from apex_native.reports.core_metrics import core_metrics
from apex_native.reports.markdown_table import Column, escape, heading, table
from apex_native.reports.models import (
    all_models,
    by_size,
    common_speed_settings,
    noise_floor_line,
    speed_conditions,
    speed_of,
    task_names,
    task_of,
    task_title,
    tests_of,
    text_conditions,
)
from apex_native.results import Candidate, Results, SpeedTest, TaskScore

__all__ = [
    "accuracy_section",
    "confidence_section",
    "core_section",
    "delta_p_section",
    "divergence_section",
    "router_section",
    "speed_section",
]

Blocks = list[str]

_Cell = Callable[[Candidate], str]


def core_section(results: Results) -> Blocks:
    """The published table, with what it was measured on."""
    core = core_metrics(results)
    blocks = [
        heading(2, "Core Metrics", text_conditions(results)),
        table(core.columns, core.rows),
    ]
    headings = [column.heading for column in core.columns]
    if any(text.startswith("KLD") for text in headings):
        blocks.append(escape(noise_floor_line(results.noise_floor)))
    notes = ["1 GiB = 1,073,741,824 bytes; ± is one standard error."]
    if any(text.endswith("(t/s)") for text in headings):
        conditions = speed_conditions(common_speed_settings(results))
        notes.append(f"Speed is the median of the repetitions on {conditions}.")
    if any("(chance)" in cell for row in core.rows for cell in row):
        notes.append("A score marked (chance) cannot be told from guessing: it says nothing.")
    if core.not_measured:
        notes.append(f"Not measured: {', '.join(core.not_measured)}.")
    blocks.append(escape(" ".join(notes)))
    return blocks + _not_finite(results)


def _not_finite(results: Results) -> Blocks:
    return [
        f"**{escape(model.name)}: invalid: {numbers.not_finite(model)}; no average counts them, "
        "and the file should not be used.**"
        for model in all_models(results)
        if model.n_not_finite
    ]


def divergence_section(results: Results) -> Blocks:
    """The distribution of the KLD, perplexity ratio and agreement of the most probable token."""
    candidates = [c for c in by_size(results.candidates) if c.kld_mean is not None]
    if not candidates:
        return []
    cells: dict[str, _Cell] = {
        "KLD mean": lambda c: numbers.kld(c.kld_mean, c.kld_se),
        "median": lambda c: numbers.kld(c.kld_median),
        "90 %": lambda c: numbers.kld(c.kld_p90),
        "95 %": lambda c: numbers.kld(c.kld_p95),
        "99 %": lambda c: numbers.kld(c.kld_p99),
        "99.9 %": lambda c: numbers.kld(c.kld_p999),
        "max": lambda c: numbers.kld(c.kld_max),
        "ln PPL ratio": lambda c: numbers.kld(c.ln_ppl_ratio, c.ln_ppl_ratio_se),
    }
    return [
        heading(2, "KL divergence from the reference", text_conditions(results)),
        _candidate_table(candidates, cells),
        escape(noise_floor_line(results.noise_floor)),
    ]


def delta_p_section(results: Results) -> Blocks:
    """How the probability of the text's own token changed."""
    candidates = [c for c in by_size(results.candidates) if c.delta_p_rms is not None]
    if not candidates:
        return []
    cells: dict[str, _Cell] = {
        "mean": lambda c: numbers.percent(c.delta_p_mean, c.delta_p_mean_se, 3),
        "RMS": lambda c: numbers.percent(c.delta_p_rms, c.delta_p_rms_se, 3),
        "min": lambda c: numbers.percent(c.delta_p_min),
        "0.1 %": lambda c: numbers.percent(c.delta_p_p001),
        "1 %": lambda c: numbers.percent(c.delta_p_p01),
        "5 %": lambda c: numbers.percent(c.delta_p_p05),
        "median": lambda c: numbers.percent(c.delta_p_median),
        "95 %": lambda c: numbers.percent(c.delta_p_p95),
        "99 %": lambda c: numbers.percent(c.delta_p_p99),
        "99.9 %": lambda c: numbers.percent(c.delta_p_p999),
        "max": lambda c: numbers.percent(c.delta_p_max),
    }
    return [
        heading(2, "Change of the correct token's probability, percent", text_conditions(results)),
        _candidate_table(candidates, cells),
    ]


def _candidate_table(candidates: Sequence[Candidate], cells: dict[str, _Cell]) -> str:
    """One row a candidate; columns that nobody was measured in are left out."""
    texts = {title: [cell(c) for c in candidates] for title, cell in cells.items()}
    kept = {t: column for t, column in texts.items() if set(column) != {numbers.NOT_MEASURED}}
    columns = [Column("Quantization", right=False), *(Column(title) for title in kept)]
    names = [candidate.name for candidate in candidates]
    return table(columns, list(zip(names, *kept.values(), strict=True)))


def confidence_section(results: Results) -> Blocks:
    """KLD where the reference was sure and where it was not; bins are rows."""
    candidates = [c for c in by_size(results.candidates) if c.kld_by_confidence]
    if not candidates:
        return []
    bins = sorted(
        {(b.low, b.high): b.n_positions for c in candidates for b in c.kld_by_confidence}.items()
    )
    rows = []
    for (low, high), n_positions in bins:
        row = [f"{100 * low:g} to {100 * high:g} %", f"{n_positions:,}"]
        for candidate in candidates:
            found = (b for b in candidate.kld_by_confidence if (b.low, b.high) == (low, high))
            bin = next(found, None)
            row.append(
                numbers.NOT_MEASURED if bin is None else numbers.kld(bin.kld_mean, bin.kld_se)
            )
        rows.append(row)
    columns = [
        Column("Reference's top probability", right=False),
        Column("Positions"),
        *(Column(candidate.name) for candidate in candidates),
    ]
    return [
        heading(2, "Mean KLD by the reference's confidence", text_conditions(results)),
        table(columns, rows),
        escape(noise_floor_line(results.noise_floor)),
    ]


def router_section(results: Results) -> Blocks:
    """How often the routers chose as the reference's did: over all layers, then layer by layer."""
    candidates = [c for c in by_size(results.candidates) if c.router_agreement]
    if not candidates:
        return []
    columns = [
        Column("Quantization", right=False),
        Column("Same set, all layers (%)"),
        Column("Same first expert, all layers (%)"),
        Column("Lowest same set (%)"),
    ]
    return [
        heading(2, "Router agreement with the reference", text_conditions(results)),
        "Share of tokens for which a layer chose the same set of experts, and the same first one.",
        table(columns, [_router_summary(c) for c in candidates]),
        "<details><summary>Layer by layer</summary>",
        "Percent with the same set / with the same first expert.",
        _router_layers(candidates),
        "</details>",
    ]


def _router_summary(candidate: Candidate) -> tuple[str, ...]:
    sets = [(r.same_set, r.layer) for r in candidate.router_agreement if r.same_set is not None]
    firsts = [r.same_top1 for r in candidate.router_agreement if r.same_top1 is not None]
    if not sets:
        return (candidate.name, *(numbers.NOT_MEASURED,) * 3)
    lowest, layer = min(sets)
    return (
        candidate.name,
        numbers.percent(fmean(share for share, _ in sets)),
        numbers.percent(fmean(firsts) if firsts else None),
        f"{numbers.percent(lowest)} (layer {layer})",
    )


def _router_layers(candidates: Sequence[Candidate]) -> str:
    by_layer = [{r.layer: r for r in c.router_agreement} for c in candidates]
    rows = []
    for layer in sorted({layer for layers in by_layer for layer in layers}):
        found = [layers.get(layer) for layers in by_layer]
        cells = [
            numbers.NOT_MEASURED
            if r is None
            else f"{numbers.percent(r.same_set)} / {numbers.percent(r.same_top1)}"
            for r in found
        ]
        rows.append([str(layer), *cells])
    return table([Column("Layer"), *(Column(c.name) for c in candidates)], rows)


def accuracy_section(results: Results) -> Blocks:
    """Every task with its interval, and what guessing would give in the last row."""
    tasks = task_names(results)
    if not tasks:
        return []
    rows = [
        [model.name, *(_score_with_interval(task_of(model, task)) for task in tasks)]
        for model in all_models(results)
        if model.tasks
    ]
    rows.append(["Guessing", *(_chance(results, task) for task in tasks)])
    columns = [Column("Quantization", right=False), *(Column(task_title(task)) for task in tasks)]
    return [
        heading(2, "Accuracy", "percent, with the 95 % Wilson interval"),
        table(columns, rows),
        "A score marked (chance) cannot be told from guessing: it says nothing.",
        "\n".join(escape(f"- {_task_conditions(results, task)}") for task in tasks),
    ]


def _score_with_interval(found: TaskScore | None) -> str:
    if found is None:
        return numbers.NOT_MEASURED
    low, high = (numbers.percent(end, decimals=1) for end in (found.low, found.high))
    return f"{numbers.score(found)} ({low} to {high})"


def _scores(results: Results, task: str) -> list[TaskScore]:
    return [s for m in all_models(results) if (s := task_of(m, task)) is not None]


def _chance(results: Results, task: str) -> str:
    levels = sorted({numbers.percent(s.chance, decimals=1) for s in _scores(results, task)})
    return " or ".join(levels)


def _task_conditions(results: Results, task: str) -> str:
    scores = _scores(results, task)
    counts = sorted({score.n for score in scores})
    items = " or ".join(f"{n:,}" for n in counts)
    parts = [f"{task_title(task)}: {items} items"]
    first = scores[0]
    if first.selection:
        parts.append(first.selection)
    if first.data_sha256:
        parts.append(f"file {first.data_sha256[:12]}")
    if first.compat:
        parts.append(f"scored as {first.compat} does")
    return ", ".join(parts)


def speed_section(results: Results) -> Blocks:
    """All speed tests of the settings most models share; spread over the repetitions."""
    settings = common_speed_settings(results)
    if settings is None:
        return []
    models = all_models(results)
    tests = tests_of(models, settings)
    rows = []
    for model in models:
        runs = [speed_of(model, test, settings) for test in tests]
        if any(run is not None for run in runs):
            rows.append([model.name, *(_run_text(run) for run in runs)])
    others = sum(len(m.speed) for m in models) - sum(
        speed_of(m, t, settings) is not None for m in models for t in tests
    )
    blocks = [
        heading(2, "Speed", speed_conditions(settings)),
        "Tokens per second: median of the repetitions (slowest to fastest).",
        table([Column("Model", right=False), *(Column(test) for test in tests)], rows),
    ]
    if others:
        blocks.append(f"{others} tests with other settings are only in the results files.")
    return blocks


def _run_text(run: SpeedTest | None) -> str:
    if run is None:
        return numbers.NOT_MEASURED
    median = numbers.speed(run.median)
    if len(run.samples) < 2:
        return median
    return f"{median} ({numbers.speed(min(run.samples))} to {numbers.speed(max(run.samples))})"
