"""Trial loads of several files side by side: what they find, and what is left to be raised."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

import apex_native as apex
from apex_native.interrupt import cancellable
from apex_native.requirements import Work, look_at_together, model_traits, require_able
from model_kinds import write_kind


def test_every_kind_gets_the_answer_it_gets_alone(tmp_path: Path) -> None:
    kinds = ("model", "encoder", "no vocabulary", "embedder")
    alone = [model_traits(write_kind(kind, tmp_path)) for kind in kinds]
    copies = []
    for number, kind in enumerate(kinds):
        folder = tmp_path / f"copy-{number}"
        folder.mkdir()
        copies.append(write_kind(kind, folder))  # another file: nobody has looked at it
    look_at_together([*copies, None, *copies], 2)
    assert [model_traits(path) for path in copies] == alone


def test_errors_are_raised_where_a_file_is_asked(tmp_path: Path) -> None:
    broken = write_kind("incomplete", tmp_path)
    nothing = tmp_path / "nothing.gguf"
    look_at_together([broken, nothing, apex.demo_model()], 3)
    require_able(apex.demo_model(), Work.EVALUATION)
    with pytest.raises(apex.ModelError, match="not found"):
        require_able(broken, Work.EVALUATION)
    with pytest.raises(apex.GgufError, match=r"nothing\.gguf"):
        require_able(nothing, Work.EVALUATION)


def test_a_caller_can_stop_them(tmp_path: Path) -> None:
    copy = shutil.copy(apex.demo_model(), tmp_path / "copy.gguf")
    stop = threading.Event()
    stop.set()
    with cancellable(stop), pytest.raises(apex.Cancelled):
        look_at_together([copy], 2)


def test_a_whole_look_answers_for_the_vocabulary() -> None:
    with apex.load_model(apex.demo_model(), n_threads=1) as whole:
        traits = whole.traits
    with apex.load_model(apex.demo_model(), vocab_only=True) as tokenizer:
        assert tokenizer.traits == traits
