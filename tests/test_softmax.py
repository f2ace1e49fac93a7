"""One position's numbers against numpy in extended precision, and what must hold exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import tolerances
from apex_native._native import core

VOCABULARIES = (1, 2, 15, 16, 17, 4096, 33_001)
"""Below, at and above the 16 lanes of the sums, and none of them a multiple of a vector."""

Row = npt.NDArray[np.float32]


def logits(rng: np.random.Generator, n: int, scale: float = 4.0) -> Row:
    return (rng.standard_normal(n) * scale).astype(np.float32)


def log_softmax(row: Row) -> npt.NDArray[np.longdouble]:
    x = row.astype(np.longdouble)
    shifted = x - x.max()
    values: npt.NDArray[np.longdouble] = shifted - np.log(np.exp(shifted).sum())
    return values


def score(reference: Row, *candidates: Row, target: int = 0) -> list[tuple[float, ...]]:
    result: list[tuple[float, ...]] = core.score_rows(
        reference=reference, candidates=np.stack(candidates), target=target
    )
    return result


def close_to(value: np.longdouble) -> object:
    return pytest.approx(float(value), rel=tolerances.SCORE_RTOL, abs=tolerances.SCORE_ATOL)


@pytest.mark.parametrize("n_vocab", VOCABULARIES)
def test_against_extended_precision(rng: np.random.Generator, n_vocab: int) -> None:
    for scale in (0.01, 4.0, 60.0):
        reference, candidate = logits(rng, n_vocab, scale), logits(rng, n_vocab, scale)
        target = int(rng.integers(n_vocab))
        first, second = score(reference, candidate, target=target)
        p, q = log_softmax(reference), log_softmax(candidate)
        kld = (np.exp(p) * (p - q)).sum()
        for found, row in ((first, p), (second, q)):
            assert found[0] == close_to(-row[target])
            assert found[2] == close_to(np.exp(row.max()))
            assert found[3] == int(np.argmax(row))
            assert found[4]
        assert second[1] == close_to(kld)


@pytest.mark.parametrize("n_vocab", VOCABULARIES)
def test_a_row_against_itself_is_exactly_zero(rng: np.random.Generator, n_vocab: int) -> None:
    row = logits(rng, n_vocab, 30.0)
    assert score(row, row, row.copy())[1][1] == 0.0


def test_a_small_divergence_is_not_lost(rng: np.random.Generator) -> None:
    row = logits(rng, 4096)
    other = row.copy()
    other[7] = np.nextafter(other[7], np.float32(np.inf))
    p, q = log_softmax(row), log_softmax(other)
    # Cancellation: the terms are far larger than their sum.
    assert score(row, other)[1][1] == close_to((np.exp(p) * (p - q)).sum())


def test_the_first_of_equals_is_on_top() -> None:
    row = np.zeros(100, np.float32)
    row[[40, 60, 99]] = 3.0
    assert score(row, row)[0][3] == 40


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 15, 16, 4095])
def test_what_is_not_finite_is_told(rng: np.random.Generator, bad: float, place: int) -> None:
    row = logits(rng, 4096)
    broken = row.copy()
    broken[place] = bad
    first, second, third = score(row, broken, row)
    assert (first[4], second[4], third[4]) == (True, False, True)
    assert third[1] == 0.0
    assert not core.score_row(broken, 3)[4]


def test_alone_is_as_in_company(rng: np.random.Generator) -> None:
    row = logits(rng, 5000)
    alone = core.score_row(row, 77)
    together = score(row, row, target=77)[0]
    assert alone[0] == together[0]
    assert alone[2:] == together[2:]


@pytest.mark.parametrize("target", [-1, 10])
def test_a_target_outside_the_vocabulary_is_refused(target: int) -> None:
    row = np.zeros(10, np.float32)
    with pytest.raises(ValueError, match="is no token"):
        core.score_row(row, target)
    with pytest.raises(ValueError, match="is no token"):
        score(row, row, target=target)
