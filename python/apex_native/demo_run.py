"""The tour of ``apex-native demo``: the demo model in seven recipes, measured against itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from apex_native.allocation import EFFORTS, SearchRequest, builtin_texts, search_types
from apex_native.api import evaluate, make_plan
from apex_native.corpus import build_corpus
from apex_native.demo import demo_model
from apex_native.demo_text import SANITY_SEED, demo_text
from apex_native.engine import Placement, load_model
from apex_native.errors import OutputError
from apex_native.evaluation import Text
from apex_native.gguf import GgufFile, open_gguf
from apex_native.imatrix import Imatrix, collect_imatrix
from apex_native.machine import default_threads
from apex_native.plan import Plan
from apex_native.quantization import quantize_model
from apex_native.reports import default_output_name, grouped_errors
from apex_native.results import Candidate, MeasuredModel, Results

__all__ = ["DEMO_RECIPES", "Demo", "DemoRow", "run_demo"]

DEMO_RECIPES: tuple[Mapping[str, str], ...] = (
    {"ftype": "Q8_0"},
    {"tier": "balanced"},
    {"tier": "quality"},
    {"ftype": "Q4_K_M"},
    {"tier": "compact"},
    {"tier": "i-compact"},
    {"tier": "mini"},
)
"""Largest first; only those that cannot do without use the importance matrix."""

CALIBRATION_RECIPE = "diverse"
CALIBRATION_TOKENS = 12_288
"""24 chunks: a few seconds, and every expert of the demo model is reached."""

EVALUATION_CHUNKS = 24
"""6,120 scored positions: the tiers' differences are clear, and it takes some 20 s on two cores."""

SEARCHED_FTYPE = "Q4_K_M"
"""The mix whose size a search is given."""

_EVALUATION_CHARS = 100_000
"""More than 24 chunks of 512 tokens; the demo model's tokens have about 3 of these characters."""

_DEMO_STEM = "demo-bf16.gguf"

_Job = tuple[str, Plan, Imatrix | None]
"""Name of a file, its plan, the matrix it is made with."""


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One file of the demo; errors is relative RMSE by group of roles, empty for the source.

    ppl, kld_mean and kld_se (nats) are of a text made by templates, not the calibration text; the
    source is what the others diverge from.
    """

    file: str
    recipe: str
    nbytes: int
    bpw: float
    errors: Mapping[str, float | None]
    uses_imatrix: bool
    ppl: float | None = None
    ppl_se: float | None = None
    kld_mean: float | None = None
    kld_se: float | None = None

    def measured(self, found: MeasuredModel) -> DemoRow:
        """The same row with what the evaluation found."""
        return replace(
            self,
            ppl=found.ppl,
            ppl_se=found.ppl_se,
            kld_mean=found.kld_mean if isinstance(found, Candidate) else None,
            kld_se=found.kld_se if isinstance(found, Candidate) else None,
        )


@dataclass(frozen=True, slots=True)
class Demo:
    """All files, the BF16 source first, and the evaluation behind the numbers."""

    rows: tuple[DemoRow, ...]
    results: Results


def run_demo(
    folder: Path,
    *,
    n_threads: int | None = None,
    force: bool = False,
    search: bool = False,
    starting: Callable[[str], None] | None = None,
) -> Demo:
    """Plan and write every recipe into folder, and compare the files with their source.

    search: one more file, of types that a search finds for the size of `SEARCHED_FTYPE`'s.
    starting is called with what is made next. The files appear when all are done. Raises
    OutputError where one exists already and force is not given.
    """
    say = starting if starting is not None else lambda _: None
    with open_gguf(demo_model()) as source:
        _require_fresh(source, folder, search=search, force=force)
        say("importance matrix")
        imatrix = calibrate_demo(n_threads=n_threads)
        jobs = [_plan(source, recipe, imatrix) for recipe in DEMO_RECIPES]
        if search:
            say("search")
            jobs.insert(*_searched(source, imatrix, jobs, n_threads))
        rows = [_source_row(source)]
        with _scratch(folder) as scratch:
            for name, plan, matrix in jobs:
                say(name)
                rows.append(_write(source, plan, matrix, scratch / name, n_threads))
            say("evaluation")
            results = _evaluate(scratch, [name for name, _, _ in jobs], n_threads)
            for name, _, _ in jobs:
                (scratch / name).replace(folder / name)
    assert results.reference is not None
    found: list[MeasuredModel] = [results.reference, *results.candidates]
    return Demo(tuple(row.measured(m) for row, m in zip(rows, found, strict=True)), results)


def _searched(
    source: GgufFile, imatrix: Imatrix, jobs: list[_Job], n_threads: int | None
) -> tuple[int, _Job]:
    """The search's job and its place: behind the file whose size it has."""
    place, size = next(
        (i, plan.total_bytes) for i, (_, plan, _) in enumerate(jobs) if plan.ftype == SEARCHED_FTYPE
    )
    request = SearchRequest(
        budgets=(size,),
        texts=builtin_texts(demo_model()),
        effort=EFFORTS["quick"],
        placement=Placement(n_threads=n_threads),
    )
    found = search_types(source, request, imatrix).budgets[0]
    return place + 1, (_searched_name(size), found.plan, imatrix)


def _searched_name(size: int) -> str:
    return f"demo-search-{size}.gguf"


def _evaluate(scratch: Path, names: list[str], n_threads: int | None) -> Results:
    """Every file against the source, all in one pass over a text."""
    source = scratch / _DEMO_STEM  # a name that people know in tables
    source.symlink_to(demo_model())
    text = Text("demo text", demo_text(_EVALUATION_CHARS, seed=SANITY_SEED))
    found = evaluate(
        source,
        [scratch / name for name in names],
        text,
        chunks=EVALUATION_CHUNKS,
        n_threads=n_threads or default_threads(),
    )
    return found.results


def _require_fresh(source: GgufFile, folder: Path, *, search: bool, force: bool) -> None:
    plans = [make_plan(source, tier=r.get("tier"), ftype=r.get("ftype")) for r in DEMO_RECIPES]
    names = [default_output_name(_DEMO_STEM, plan) for plan in plans]
    if search:
        names += [_searched_name(p.total_bytes) for p in plans if p.ftype == SEARCHED_FTYPE]
    for path in (folder / name for name in names):
        if path.exists() and not force:
            raise OutputError(f"{path} exists; choose another folder or pass `force=True`")


def calibrate_demo(*, n_threads: int | None = None) -> Imatrix:
    """What ``quantize --calibration diverse`` collects, on a smaller text."""
    with load_model(demo_model(), n_threads=n_threads) as model:
        corpus = build_corpus(CALIBRATION_RECIPE, model, tokens=CALIBRATION_TOKENS)
        return collect_imatrix(
            model,
            corpus.text,
            parse_special=corpus.parse_special,
            dataset=f"recipe {CALIBRATION_RECIPE}",
        )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A place beside the results that disappears with all that is unfinished."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".demo-") as scratch:
        try:
            yield Path(scratch)
        except BaseException as stop:
            stop.__notes__ = []  # on how to resume, which nobody can here
            raise


def _plan(
    source: GgufFile, recipe: Mapping[str, str], imatrix: Imatrix
) -> tuple[str, Plan, Imatrix | None]:
    tier, ftype = recipe.get("tier"), recipe.get("ftype")
    plan = make_plan(source, tier=tier, ftype=ftype)
    needed = imatrix if plan.needs_imatrix else None
    if needed is not None:
        plan = make_plan(source, tier=tier, ftype=ftype, imatrix=needed)
    return default_output_name(_DEMO_STEM, plan), plan, needed


def _write(
    source: GgufFile, plan: Plan, imatrix: Imatrix | None, path: Path, n_threads: int | None
) -> DemoRow:
    manifest = quantize_model(source, plan, path, imatrix=imatrix, n_threads=n_threads)
    return DemoRow(
        file=path.name,
        recipe=plan.tier or plan.ftype or "search",
        nbytes=manifest.total_bytes,
        bpw=manifest.bpw,
        errors=grouped_errors(manifest.tensors),
        uses_imatrix=imatrix is not None,
    )


def _source_row(source: GgufFile) -> DemoRow:
    n_weights = sum(tensor.n_elements for tensor in source.tensors)
    return DemoRow(
        file=_DEMO_STEM,
        recipe="BF16",
        nbytes=source.path.stat().st_size,
        bpw=8 * sum(tensor.nbytes for tensor in source.tensors) / n_weights,
        errors={},
        uses_imatrix=False,
    )
