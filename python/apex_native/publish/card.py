"""README.md of a repository: front matter, which file to take, how it was made, how to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from apex_native.printable import counted
from apex_native.publish.files import ModelFiles, PublishedFolder
from apex_native.publish.making import made_by, making_commands, matrix_notes
from apex_native.publish.readers import reader_notes
from apex_native.reports import numbers
from apex_native.reports.markdown_table import escape, image
from apex_native.results import Candidate, Results

__all__ = ["CardFacts", "Suggestion", "card_text", "front_matter"]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Suggestion:
    """For so much GPU memory, which file; n_cpu_moe where its experts do not fit."""

    gib: int
    model: ModelFiles | None
    n_cpu_moe: int = 0


@dataclass(frozen=True)
class CardFacts:
    """What the card is made of. measured: by names of files. plots: (file, what it shows)."""

    repo: str
    title: str
    folder: PublishedFolder
    results: Results | None
    measured: Mapping[str, Candidate]
    plots: Sequence[tuple[str, str]]
    suggestions: Sequence[Suggestion]
    context: int
    base_model: str
    license: str
    has_gallery: bool = True


def front_matter(facts: CardFacts) -> dict[str, Any]:
    """The card's YAML, by the Hub's specification of model cards."""
    tags = ["gguf", "apex", "quantized"]
    names = [t.name for model in facts.folder.models for t in model.facts.tensors]
    if any("_exps." in name for name in names):
        tags.append("moe")
    if any(model.manifest.get("imatrix_sha256") for model in facts.folder.models):
        tags.append("imatrix")
    front: dict[str, Any] = {}
    if facts.base_model:
        front |= {"base_model": [facts.base_model], "base_model_relation": "quantized"}
    if facts.license:
        front["license"] = facts.license
    visual = bool(facts.folder.projectors)
    front["pipeline_tag"] = "image-text-to-text" if visual else "text-generation"
    front["library_name"] = "gguf"
    front["quantized_by"] = facts.repo.split("/")[0]
    front["tags"] = tags
    return front


def card_text(facts: CardFacts) -> str:
    """Everything below the front matter, as Markdown."""
    parts = [
        f"# {escape(facts.title)}",
        _introduction(facts),
        "## Files",
        _files(facts),
        "## Which one to take",
        _choice(facts),
        *(image(shows, path) for path, shows in facts.plots),
        "## How to run it",
        _running(facts),
        "## What reads it",
        _readers(facts),
        "## How it was made",
        _making(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(facts: CardFacts) -> str:
    files = counted(len(facts.folder.models), "GGUF file")
    of = (
        f" of [{facts.base_model}](https://huggingface.co/{facts.base_model})"
        if (facts.base_model)
        else ""
    )
    return (
        f"{files}{of}, quantized with a precision of its own for every "
        "role and layer. Sums of all files are in `SHA256SUMS`; every tensor's type, bytes and "
        "error in the manifests."
    )


def _files(facts: CardFacts) -> str:
    measured = [facts.measured.get(model.name) for model in facts.folder.models]
    tests = sorted({test.test for found in measured if found for test in found.speed})
    largest = max(model.nbytes for model in facts.folder.models)
    unit, per = ("GiB", _GIB) if largest >= _GIB else ("MiB", 1 << 20)
    columns: list[tuple[str, bool]] = [("file", False), (unit, True), ("bpw", True)]
    columns.append(("types by bytes", False))
    known = any(measured)
    if known:
        columns += [("KLD mean", True), ("99.9 %", True), ("same top (%)", True), ("PPL", True)]
    columns += [(f"{test} tok/s", True) for test in tests]
    rows = []
    for model, found in zip(facts.folder.models, measured, strict=True):
        link = f"[{escape(model.name)}]({quote(model.paths[0].name)})"
        row = [link, f"{model.nbytes / per:.2f}", f"{model.bpw:.3f}", escape(model.types)]
        if known:
            row += _figures(found)
        speeds = {test.test: test.median for test in found.speed} if found else {}
        row += [numbers.speed(speeds.get(test)) for test in tests]
        rows.append(row)
    table = _table(columns, rows)
    return "\n\n".join(part for part in (table, _conditions(facts)) if part)


def _figures(found: Candidate | None) -> list[str]:
    if found is None:
        return ["", "", "", ""]
    return [
        numbers.kld(found.kld_mean, found.kld_se),
        numbers.kld(found.kld_p999),
        numbers.percent(found.same_top),
        numbers.perplexity(found.ppl, found.ppl_se),
    ]


def _conditions(facts: CardFacts) -> str:
    results = facts.results
    if results is None or not facts.measured:
        return "Nothing was measured of these files; `apex-native eval` does."
    lines = []
    if results.reference is not None and results.data is not None:
        reference = results.reference
        name = results.data.name
        lines.append(
            f"KLD in nats, against {reference.name} (PPL "
            f"{numbers.perplexity(reference.ppl, reference.ppl_se)}), on {results.data.n_chunks} "
            f"chunks of {name}; ± is one standard error."
        )
    devices = {t.device for c in results.candidates for t in c.speed if t.device}
    if devices:
        lines.append(f"Speed: {', '.join(sorted(devices))}.")
    return " ".join(lines)


def _choice(facts: CardFacts) -> str:
    rows = []
    for one in facts.suggestions:
        if one.model is None:
            rows.append([f"{one.gib} GB", "none of these", ""])
            continue
        option = f"`--n-cpu-moe {one.n_cpu_moe}`" if one.n_cpu_moe else ""
        rows.append([f"{one.gib} GB", escape(one.model.name), option])
    if not rows:
        return ""
    table = _table([("GPU memory", True), ("file", False), ("with", False)], rows)
    return (
        f"{table}\n\nWith all layers on the GPU and a context of {facts.context:,} tokens in F16; "
        "`apex-native plan --fit` computes it for other contexts and caches."
    )


def _running(facts: CardFacts) -> str:
    model = facts.folder.models[0]
    stem = model.name.removesuffix(".gguf")
    context = facts.context
    parts = [
        "llama.cpp downloads a file by its tag:",
        _code(f"llama-server -hf {facts.repo}:{model.tag} -c {context} -ngl 99"),
        _tags(facts),
        "Downloaded by hand:",
        _code(
            f"hf download {facts.repo} {model.paths[0].name} --local-dir .",
            f"llama-server -m {model.paths[0].name} -c {context} -ngl 99"
            + (f" --mmproj {facts.folder.projectors[0].name}" if facts.folder.projectors else ""),
        ),
        "Ollama:",
        _code(f"ollama run hf.co/{facts.repo}:{model.tag}"),
        "or from the downloaded folder, with the Modelfile beside the file:",
        _code(f"ollama create {stem.lower()} -f {stem}.Modelfile"),
    ]
    if facts.has_gallery:
        parts += [
            "LocalAI, with this repository's gallery (it picks the variant that fits):",
            _code(
                f'local-ai run --galleries \'[{{"name":"{facts.title}","url":'
                f'"https://huggingface.co/{facts.repo}/resolve/main/localai-gallery.yaml"}}]\' '
                f"{stem.lower()}"
            ),
        ]
    return "\n\n".join(parts)


def _tags(facts: CardFacts) -> str:
    return _table(
        [("tag", False), ("file", False)],
        [[f"`{model.tag}`", escape(model.name)] for model in facts.folder.models],
    )


def _readers(facts: CardFacts) -> str:
    rows = [
        [escape(c) for c in row]
        for row in reader_notes(model.facts for model in facts.folder.models)
    ]
    return _table([("program", False), ("reads", False)], rows)


def _making(facts: CardFacts) -> str:
    notes = matrix_notes(facts.folder)
    rows = []
    for model in facts.folder.models:
        base = f"over {model.manifest['ftype']}" if model.manifest.get("tier") else ""
        recipe = f"`{model.recipe}` {base}".strip()
        rows.append([escape(model.name), recipe, notes[model.name]])
    commands = making_commands(facts.folder)
    parts = [
        _table([("file", False), ("recipe", False), ("importance matrix", False)], rows),
        f"Made by {made_by(facts.folder)}. Manifests (`*.manifest.json`) hold every tensor's type "
        "and error" + (", and the importance matrix is here." if facts.folder.matrices else "."),
    ]
    if commands:
        is_split = any(len(model.paths) > 1 for model in facts.folder.models)
        note = " (of a split file the same tensors, in one file)" if is_split else ""
        parts += [f"From the model in 16 bits, the same bytes{note}:", _code(*commands)]
    return "\n\n".join(parts)


def _code(*lines: str) -> str:
    return "```console\n" + "\n".join(lines) + "\n```"


def _table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [[name for name, _ in columns], ["---:" if right else ":---" for _, right in columns]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (*lines, *rows))
