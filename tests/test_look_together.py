"""Trial loads of several files side by side: what they find, and what is left to be raised."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


MATRICES_BETWEEN = """
import sys
import numpy as np
from scipy.linalg.blas import dgemm
from apex_native.requirements import look_at_together

for i in range(1, len(sys.argv), 6):
    a = np.ones((600, 600))
    dgemm(1.0, a, a)  # starts OpenBLAS' threads, which it joins before a fork
    look_at_together(sys.argv[i : i + 6], 6)
"""


def test_threads_of_blas_do_not_stop_them(tmp_path: Path) -> None:
    source = shutil.copy(apex.demo_model(), tmp_path / "model.gguf")
    names = [tmp_path / f"{number}.gguf" for number in range(60)]
    for name in names:
        name.symlink_to(source)  # another path, so that nobody has looked at it
    code = [sys.executable, "-c", MATRICES_BETWEEN, *map(str, names)]
    # Two forks at once would wait for each other for ever.
    assert subprocess.run(code, timeout=300, check=False).returncode == 0
