"""The voices of domains: one that costs four times as much weighs twice as much."""

from __future__ import annotations

import numpy as np
import pytest

from apex_native.allocation.probing import DomainWeights
from apex_native.allocation.texts import Part

LEVELS = (0.01, 0.04, 0.16)


def part(*domains: int) -> Part:
    return Part(np.zeros((len(domains), 4), np.int32), domains)


def test_voices_are_between_equal_and_those_of_the_klds() -> None:
    domains = (2, 0, 1, 0)
    factors = DomainWeights(("a", "b", "c"), LEVELS).of(part(*domains))
    voices = factors * [LEVELS[domain] for domain in domains]
    assert voices / voices[1] == pytest.approx([4, 1, 2, 1])


def test_one_domain_changes_nothing() -> None:
    assert DomainWeights(("a",), (0.3,)).of(part(0, 0)) == pytest.approx([1, 1])


def test_a_domain_nothing_was_measured_on_is_left_alone() -> None:
    weights = DomainWeights(("a", "b"), (0.0, 0.02))
    assert weights.of(part(0, 1)) == pytest.approx([1, 1])
    assert DomainWeights(("a", "b"), (0.0, 0.0)).of(part(0, 1)) == pytest.approx([1, 1])
