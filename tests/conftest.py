"""Fixtures every test module may use."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from isolation import Isolation


@pytest.fixture(scope="session")
def isolation() -> Iterator[Isolation]:
    """Runs module-level functions in forked children: ``isolation.run(function, *args)``."""
    server = Isolation()
    yield server
    server.close()


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded: every run of a test sees the same numbers."""
    return np.random.default_rng(20240229)
