"""Writes what a repository needs beside the quantized files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native.atomic_write import write_atomically
from apex_native.errors import DataError, OutputError
from apex_native.gguf import open_gguf
from apex_native.memory import ContextSettings, Room, context_memory, fit_file
from apex_native.publish.card import CardFacts, Suggestion, card_text, front_matter
from apex_native.publish.eval_results import eval_results
from apex_native.publish.files import ModelFiles, PublishedFolder, scan_folder
from apex_native.publish.gallery import gallery_entries
from apex_native.publish.making import stated_base
from apex_native.publish.measured import measured_models
from apex_native.publish.modelfile import modelfile_text
from apex_native.publish.sums import SUMS_NAME, sums_text
from apex_native.reports import ReportFormat, write_report
from apex_native.results import Results

__all__ = ["CONTEXT", "Repository", "build_repository"]

CONTEXT = 8192
"""Tokens, for the advice which file to take."""

MEMORIES_GIB = (8, 12, 16, 24, 32, 48, 80)

_PLOTS_ONLY: tuple[ReportFormat, ...] = ("png",)

MARK = "<!-- written by apex-native publish; it is replaced when you publish again -->"
_GALLERY = "localai-gallery.yaml"
_ADVICE = "publish from a folder that can be written"


@dataclass(frozen=True)
class Repository:
    """A folder that is ready: files to upload, their sums, models that results do not know."""

    folder: Path
    repo: str
    files: tuple[str, ...]
    sums: Mapping[str, str]
    unmeasured: tuple[str, ...] = ()
    uncompared: tuple[str, ...] = ()
    """Models whose manifests, of an earlier version, hold no checksums of their bytes."""

    @property
    def nbytes(self) -> int:
        """Of everything that is uploaded."""
        return sum((self.folder / name).stat().st_size for name in self.files)


def build_repository(
    folder: str | Path,
    repo: str,
    *,
    results: Results | None = None,
    title: str | None = None,
    base_model: str = "",
    license: str = "",
    force: bool = False,
    starting: Callable[[str], None] | None = None,
) -> Repository:
    """Verify every model of a folder against its manifest and write card, plots, sums and the rest.

    repo: OWNER/NAME. base_model (OWNER/NAME) and license come from the files' ``general.*`` where
    they are not given. results are of these very files, by fingerprint, else DataError. starting is
    told what is read or written next. A README.md that this did not write stays unless force.
    Raises what `scan_folder` raises, DataError for a repo that is no OWNER/NAME, OutputError, also
    where the extra `publish` is not installed.
    """
    _require_extra()
    folder = Path(folder)
    if len(repo.split("/")) != 2 or not all(repo.split("/")):
        raise DataError(f"repo must be OWNER/NAME as on the Hub, found '{repo}'; add whose it is")
    say = starting if starting is not None else lambda _: None
    found = scan_folder(folder, say)
    _require_our_card(folder / "README.md", force=force)
    measured = measured_models(found.models, results)
    base_model = base_model or stated_base(found.models[0].facts)
    license = license or str(found.models[0].facts.metadata.get("general.license", ""))
    written: list[str] = []
    plots = _plots(folder, results, written)
    facts = CardFacts(
        repo=repo,
        title=title or repo.split("/")[1],
        folder=found,
        results=results,
        measured=measured,
        plots=plots,
        suggestions=_suggestions(found),
        context=_context(found),
        base_model=base_model,
        license=license,
    )
    for name, text in _texts(facts):
        _write(folder / name, text)
        written.append(name)
    names = [*_data_names(found), *written]
    text, sums = sums_text(folder, names, lambda name: say(f"sum of {name}"))
    _write(folder / _GALLERY, _yaml(_gallery(facts, sums)))
    more, gallery_sum = sums_text(folder, [_GALLERY])
    _write(folder / SUMS_NAME, text + more)
    unmeasured = () if results is None else (m.name for m in found.models if m.name not in measured)
    files = (*names, _GALLERY, SUMS_NAME)
    uncompared = tuple(model.name for model in found.models if not model.is_compared)
    summed = {**sums, **gallery_sum}
    return Repository(folder, repo, files, summed, tuple(unmeasured), uncompared)


def _require_extra() -> None:
    try:
        importlib.import_module("yaml")
        importlib.import_module("huggingface_hub").eval_result_entries_to_yaml  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise OutputError(
            f"a repository needs pyyaml and huggingface_hub 2 ({error}); "
            "`pip install 'apex-native[publish]'` brings them"
        ) from error


def _texts(facts: CardFacts) -> list[tuple[str, str]]:
    card = f"---\n{_yaml(front_matter(facts))}---\n\n{MARK}\n\n{card_text(facts)}"
    texts = [("README.md", card)]
    for model in facts.folder.models:
        name = f"{model.name.removesuffix('.gguf')}.Modelfile"
        texts.append((name, modelfile_text(model)))
    for task, entries in eval_results(facts.measured.values()).items():
        texts.append((f".eval_results/{task}.yaml", _yaml(entries)))
    return texts


def _gallery(facts: CardFacts, sums: Mapping[str, str]) -> list[dict[str, Any]]:
    projectors = facts.folder.projectors
    return gallery_entries(
        facts.folder.models, facts.repo, sums,
        description=f"{facts.title}: a precision of its own for every role and layer.",
        license=facts.license, projector=projectors[0].name if projectors else None,
    )  # fmt: skip


def _data_names(found: PublishedFolder) -> list[str]:
    names = []
    for model in found.models:
        names += [path.name for path in model.paths]
        names.append(f"{model.name}.manifest.json")
    return [*names, *(path.name for path in (*found.projectors, *found.matrices))]


def _context(found: PublishedFolder) -> int:
    """`CONTEXT`, or what the model was made for where that is less."""
    facts = found.models[0].facts
    trained = facts.metadata.get(f"{facts.architecture}.context_length")
    return min(CONTEXT, trained) if isinstance(trained, int) else CONTEXT


def _require_our_card(path: Path, *, force: bool) -> None:
    if force or not path.exists() or MARK in path.read_text("utf-8", "replace"):
        return
    raise OutputError(
        f"{path} exists and was not written by publish; rename it or pass `force=True`"
    )


def _plots(folder: Path, results: Results | None, written: list[str]) -> Sequence[tuple[str, str]]:
    if results is None:
        return ()
    report = write_report(results, folder / "plots", formats=_PLOTS_ONLY)
    names = [f"plots/{path.name}" for path in report.files]
    written += names
    shown = {"plots/kld_vs_size.png": "KLD against size"}
    return [(name, shown[name]) for name in names if name in shown]


def _suggestions(found: PublishedFolder) -> list[Suggestion]:
    """The largest file that fits; else the smallest, with the fewest experts on the host."""
    smallest = found.models[-1]
    with open_gguf(smallest.paths[0]) as file:
        context = context_memory(file, ContextSettings(_context(found)))
    mmproj = sum(path.stat().st_size for path in found.projectors[:1])
    rows: list[Suggestion] = []
    for gib in MEMORIES_GIB:
        room = Room(gib << 30)
        fits = [(model, fit_file(model.facts.tensors, context, room, mmproj=mmproj))
                for model in found.models]  # fmt: skip
        whole: ModelFiles | None = next((model for model, fit in fits if fit.fits), None)
        if whole is not None:
            rows.append(Suggestion(gib, whole))
            if whole is found.models[0]:
                break
        elif fits[-1][1].n_cpu_moe is not None:
            rows.append(Suggestion(gib, smallest, fits[-1][1].n_cpu_moe or 0))
        else:
            rows.append(Suggestion(gib, None))
    return rows


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {path.parent}: {error.strerror}") from error
    write_atomically(path, text, what="file of the repository", advice=_ADVICE)
