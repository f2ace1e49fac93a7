"""The report as Markdown: tables first, the plots where they belong, hashes at the end."""

from __future__ import annotations

from collections.abc import Mapping

from apex_native.reports import sections
from apex_native.reports.comparisons import comparison_section, task_comparison_section
from apex_native.reports.markdown_table import Column, escape, heading, image, table
from apex_native.reports.models import all_models
from apex_native.results import Results

__all__ = ["markdown_text"]

_PLACES = {
    "core": ("kld_vs_size", "ppl_vs_size"),
    "divergence": ("kld",),
    "router": ("router_agreement",),
    "accuracy": ("accuracy",),
    "speed": ("size_vs_speed",),
}
"""Which plots stand at the end of which part."""


def markdown_text(
    results: Results,
    *,
    title: str,
    plots: Mapping[str, tuple[str, str]],
    left_out: Mapping[str, str],
) -> str:
    """The whole report.

    plots gives each plot's name its file (relative) and what it shows; left_out says in a sentence
    why a plot is not there.
    """
    parts = {
        "core": sections.core_section(results),
        "comparisons": comparison_section(results),
        "divergence": sections.divergence_section(results),
        "confidence": sections.confidence_section(results),
        "delta_p": sections.delta_p_section(results),
        "router": sections.router_section(results),
        "accuracy": sections.accuracy_section(results) + task_comparison_section(results),
        "speed": sections.speed_section(results),
    }
    blocks = [heading(1, title), _introduction(results)]
    for part, content in parts.items():
        blocks += content
        blocks += [_image(plots[name]) for name in _PLACES.get(part, ()) if name in plots]
    if left_out:
        blocks.append(heading(2, "Plots left out"))
        blocks.append("\n".join(f"- {escape(sentence)}" for sentence in left_out.values()))
    blocks += _provenance(results)
    return "\n\n".join(blocks) + "\n"


def _image(plot: tuple[str, str]) -> str:
    path, shows = plot
    return image(shows, path)


def _introduction(results: Results) -> str:
    lines = []
    if results.reference is not None:
        lines.append(f"Reference: {results.reference.name}.")
    data, settings = results.data, results.settings
    if data is not None:
        special = "parsed" if data.parse_special else "read as text"
        begin = "with" if data.add_bos else "without"
        lines.append(
            f"Text: {data.name}, {data.n_tokens:,} tokens, of which {data.n_chunks:,} chunks of "
            f"{data.ctx} were scored; special tokens {special}, {begin} a BOS token a chunk."
        )
    if settings is not None:
        lines.append(
            f"Settings: scored {settings.scored}; batch {settings.n_batch}/{settings.n_ubatch}, "
            f"KV {settings.type_k}/{settings.type_v}, flash attention {settings.flash_attn}, "
            f"{settings.n_threads} threads, "
            f"{settings.device}."
        )
    build = results.build
    lines.append(
        f"Measured by apex-native {build.version} (llama.cpp {build.llama_cpp_commit[:9]}, "
        f"{build.compiler}), {results.created}."
    )
    return "\n".join(f"- {escape(line)}" for line in lines)


def _provenance(results: Results) -> list[str]:
    rows = [
        (model.name, "" if model.bytes is None else f"{model.bytes:,}", hash)
        for model in all_models(results)
        if (hash := model.sha256 or model.fingerprint or "")
    ]
    if results.data is not None:
        rows.append((results.data.name, "", results.data.sha256))
    if results.tokenizer is not None:
        rows.append(("tokenizer", "", results.tokenizer))
    if not rows:
        return []
    columns = [
        Column("File", right=False),
        Column("Bytes"),
        Column("SHA-256 or fingerprint", right=False),
    ]
    return [heading(2, "What exactly was measured"), table(columns, rows)]
