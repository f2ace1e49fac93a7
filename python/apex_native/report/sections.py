"""The parts of a Markdown report: each a list of blocks, empty where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apex_native.report import numbers
from apex_native.report.core_metrics import core_metrics
from apex_native.report.markdown_table import Column, escape, heading, table
from apex_native.report.models import (
    all_models,
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
from apex_native.results import Candidate, Results, SpeedTest

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
    lines = []
    for model in all_models(results):
        if model.n_not_finite:
            scored = "" if model.n_positions is None else f" of {model.n_positions:,}"
            lines.append(
                f"**{escape(model.name)}: {model.n_not_finite:,}{scored} positions had logits that "
                "were not finite; no average counts them, and the file should not be used.**"
            )
    return lines


def divergence_section(results: Results) -> Blocks:
    """The distribution of the KLD, perplexity ratio and agreement of the most probable token."""
    candidates = [c for c in results.candidates if c.kld_mean is not None]
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
    candidates = [c for c in results.candidates if c.delta_p_rms is not None]
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
    candidates = [c for c in results.candidates if c.kld_by_confidence]
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
    """How often each layer's router chose as the reference's did; layers are rows."""
    candidates = [c for c in results.candidates if c.router_agreement]
    if not candidates:
        return []
    by_layer = [{r.layer: r for r in c.router_agreement} for c in candidates]
    rows = []
    for layer in sorted({layer for layers in by_layer for layer in layers}):
        row = [str(layer)]
        for layers in by_layer:
            found = layers.get(layer)
            row.append(
                numbers.NOT_MEASURED
                if found is None
                else f"{numbers.percent(found.same_set)} / {numbers.percent(found.same_top1)}"
            )
        rows.append(row)
    return [
        heading(2, "Router agreement with the reference", text_conditions(results)),
        "Percent of tokens with the same set of experts / with the same first expert.",
        table([Column("Layer"), *(Column(c.name) for c in candidates)], rows),
    ]


def accuracy_section(results: Results) -> Blocks:
    """Every task with its interval and what guessing would give."""
    tasks = task_names(results)
    if not tasks:
        return []
    blocks = [
        heading(2, "Accuracy", "percent, with the 95 % Wilson interval"),
        "A score marked (chance) cannot be told from guessing: it says nothing.",
    ]
    columns = [
        Column("Quantization", right=False),
        Column("Score (%)"),
        Column("95 % interval"),
        Column("Items"),
        Column("Chance (%)"),
    ]
    for task in tasks:
        scores = [(model, task_of(model, task)) for model in all_models(results)]
        rows = [
            (
                model.name,
                numbers.score(found),
                f"{numbers.percent(found.low, decimals=1)} to "
                f"{numbers.percent(found.high, decimals=1)}"
                + (f" ({mark})" if (mark := numbers.chance_mark(found)) else ""),
                f"{found.n:,}",
                numbers.percent(found.chance, decimals=1),
            )
            for model, found in scores
            if found is not None
        ]
        blocks += [heading(3, task_title(task), _task_conditions(results, task))]
        blocks += [table(columns, rows)]
    return blocks


def _task_conditions(results: Results, task: str) -> str:
    found = [s for m in all_models(results) if (s := task_of(m, task)) is not None]
    parts = [found[0].selection or f"{found[0].n:,} items"]
    if found[0].data_sha256:
        parts.append(f"file {found[0].data_sha256[:12]}")
    if found[0].compat:
        parts.append(f"as {found[0].compat} scores it")
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
