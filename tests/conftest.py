"""Fixtures every test module may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from calibration_models import write_expert_model
from isolation import Isolation

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def isolation() -> Iterator[Isolation]:
    """Runs module-level functions in forked children: ``isolation.run(function, *args)``."""
    server = Isolation()
    yield server
    server.close()


@pytest.fixture(scope="session")
def reference_tools() -> Path:
    """The folder of upstream's own programs; `make reference` builds them from the same source."""
    folder = Path(os.environ.get("APEX_REFERENCE_TOOLS") or ROOT / "build/reference/reference")
    if not (folder / "llama-perplexity").exists():
        pytest.skip("upstream's programs are not built: `make reference`")
    return folder


@pytest.fixture(scope="module")
def expert_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apex.Model]:
    """The model of `calibration_models` with experts, loaded for two threads."""
    path = write_expert_model(tmp_path_factory.mktemp("models") / "experts.gguf")
    with apex.load_model(path, n_threads=2) as model:
        yield model


@pytest.fixture
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress every few milliseconds: a callback that stops the work halfway gets its chance."""
    from apex_native import interrupt
    from apex_native.quantization import conversion

    monkeypatch.setattr(interrupt, "POLL_S", 0.002)
    monkeypatch.setattr(conversion, "POLL_MS", 2)


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded: every run of a test sees the same numbers."""
    return np.random.default_rng(20240229)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    """Descriptor of an open, empty file to write tensors into."""
    descriptor = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)
