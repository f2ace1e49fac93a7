"""Two passes: which candidates are in memory together, and that this changes no number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import Model, Placement
from apex_native.evaluation.divergence import batches
from apex_native.evaluation.divergence.batches import candidate_batches
from apex_native.evaluation.divergence.shape import Workload, choose_shape, shape_of_passes
from apex_native.evaluation.divergence.text import Text
from apex_native.evaluation.model_source import ModelFile

GIB = 1 << 30


@dataclass(frozen=True)
class Noted:
    """A file whose loading is noted, and that says it has another size."""

    file: ModelFile
    nbytes: int
    notes: list[str] = field(compare=False)
    broken: bool = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    @contextmanager
    def open(self, placement: Placement) -> Iterator[Model]:
        if self.broken:
            raise apex.ModelError("it is not there any more")
        self.notes.append(f"open {self.file.name}")
        with self.file.open(placement) as model:
            yield model
        self.notes.append(f"close {self.file.name}")


def sized(gib: float, name: str = "model") -> ModelFile:
    return ModelFile(name, Path(name), int(gib * GIB), 4.5, f"{name} {gib}")


def test_candidates_take_the_references_place() -> None:
    """65 GiB and a context of 2 hold 21 + 2, 24 + 2 and 12 + 2, but no 16 + 2 more."""

    def found(reference: float, *candidates: float) -> list[tuple[int, ...]]:
        sources = [sized(gib, f"{i}") for i, gib in enumerate(candidates)]
        return candidate_batches(sized(reference), sources)

    assert found(65, 21, 24, 12, 16) == [(0, 1, 2), (3,)]
    assert found(65, 21, 24, 17, 12) == [(0, 1), (2, 3)]
    assert found(10, 21, 4, 4, 3) == [(0,), (1, 2), (3,)]
    assert found(65) == []
    # Two caches of one file: its weights count once.
    assert found(10, 6, 6) == [(0,), (1,)]
    same = sized(6)
    assert candidate_batches(sized(10), [same, same]) == [(0, 1)]


def test_the_tightest_pass_decides_the_shape() -> None:
    """A reference that barely fits, then a candidate in its place: both have room for logits."""
    work = Workload(ctx=512, n_chunks=40, n_vocab=248_320, n_models=2, n_threads=16, on_gpu=True)
    first, second = work.beside(0, 14 * GIB), work.beside(1, (14 + 65 - 21) * GIB)
    assert shape_of_passes([first, second]).n_ubatch == 2048
    # Beside the reference a candidate would have no room: batches of a few tokens.
    assert choose_shape(work.beside(1, 0)).n_ubatch < 256
    tight = work.beside(0, 1 * GIB)
    assert shape_of_passes([tight, second]) == choose_shape(tight)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{type.lower()}.gguf" for type in ("Q8_0", "Q4_0", "Q5_0")]
    for path in paths:
        plan = apex.make_plan(apex.demo_model(), ftype=path.stem.upper())
        apex.quantize(apex.demo_model(), plan, path)
    return paths


TEXT = Text("text", demo_text(6000, seed=3))
OPTIONS = {"ctx": 128, "chunks": 5, "noise_chunks": 1, "placement": Placement(n_threads=2)}


def test_they_are_loaded_together_and_score_the_same(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockstep = apex.evaluate(apex.demo_model(), files, TEXT, **OPTIONS)
    alone = apex.evaluate(apex.demo_model(), files, TEXT, two_pass=True, **OPTIONS)
    monkeypatch.setattr(batches, "CONTEXT_BYTES", 0)
    notes: list[str] = []
    size = apex.demo_model().stat().st_size
    sources = [Noted(ModelFile.describe(path), size // 2, notes) for path in files]
    checkpoint = tmp_path / "finished.npz"
    broken = [*sources[:2], Noted(sources[2].file, size // 2, notes, broken=True)]
    with pytest.raises(apex.ModelError, match="not there any more"):
        apex.evaluate(
            apex.demo_model(), broken, TEXT, two_pass=True, checkpoint=checkpoint, **OPTIONS
        )
    first = ["open q8_0", "open q4_0", "close q8_0", "close q4_0"]
    assert notes == first
    # The first two are finished.
    shares: list[float] = []
    together = apex.evaluate(
        apex.demo_model(), sources, TEXT, two_pass=True, checkpoint=checkpoint,
        progress=lambda state: shares.append(state.share), **OPTIONS,
    )  # fmt: skip
    assert notes == [*first, "open q5_0", "close q5_0"]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    for name in ("q8_0", "q4_0", "q5_0"):
        for part in ("nll", "kld", "is_same_top"):
            found, wanted = (getattr(run.tokens[name], part) for run in (together, alone))
            assert np.array_equal(found, wanted), (name, part)
        assert np.array_equal(together.tokens[name].nll, lockstep.tokens[name].nll), name
    floors = [run.results.noise_floor for run in (together, alone, lockstep)]
    assert floors[0] == floors[1] == floors[2]


def test_the_base_file_is_that_of_one_pass(files: list[Path], tmp_path: Path) -> None:
    """With a batch for each candidate it is written once."""
    bases = [tmp_path / name for name in ("lockstep.kld", "two_pass.kld")]
    for base, two_pass in zip(bases, (False, True), strict=True):
        apex.evaluate(
            apex.demo_model(), files[:2], TEXT, two_pass=two_pass, save_base=base,
            **{**OPTIONS, "chunks": 1, "noise_chunks": 0},
        )  # fmt: skip
    assert bases[0].read_bytes() == bases[1].read_bytes()


@pytest.mark.parametrize("noise_chunks", [1, 5, 7])
def test_what_the_noise_floor_computes_counts_for_the_first_pass(
    files: list[Path], noise_chunks: int
) -> None:
    options = {**OPTIONS, "chunks": 7, "two_pass": True}
    without = apex.evaluate(apex.demo_model(), files[:1], TEXT, **{**options, "noise_chunks": 0})
    found = apex.evaluate(
        apex.demo_model(), files[:1], TEXT, **{**options, "noise_chunks": noise_chunks}
    )
    for name, scores in without.tokens.items():
        again = found.tokens[name]
        for part in ("nll", "kld", "is_same_top", "top_probability"):
            assert np.array_equal(getattr(again, part), getattr(scores, part)), (name, part)
        assert again.router == scores.router
    lockstep = apex.evaluate(
        apex.demo_model(), files[:1], TEXT,
        **{**options, "noise_chunks": noise_chunks, "two_pass": False},
    )  # fmt: skip
    assert found.results.noise_floor == lockstep.results.noise_floor


def test_a_first_pass_goes_on_between_groups() -> None:
    with apex.load_model(apex.demo_model(), n_threads=1) as model:
        hidden_pass = core.HiddenPass(
            model=model.native, tokens=np.full(6 * 16, 9, np.int32),
            options=core.LaneOptions(n_ctx=16, n_sequences=2, n_positions=16),
        )  # fmt: skip
        for wrong in (1, -2, 8):
            with pytest.raises(ValueError, match="whole groups of 2 chunks, 3 at most"):
                hidden_pass.run(wrong)
        hidden_pass.run(6)
        assert hidden_pass.progress == 1
        with pytest.raises(ValueError, match="needs a model and its hidden states"):
            core.Scorer(
                reference=core.RecordedReference(model=model.native, states=None),
                candidates=[], tokens=np.full(16, 9, np.int32),
                options=core.LaneOptions(n_ctx=16),
            )  # fmt: skip
