"""What a unit's tensors cost at equal error: factors drawn at random are found again."""

from __future__ import annotations

import numpy as np
import pytest

from apex_native.allocation.solve import SUM, TensorCosts
from apex_native.allocation.surrogate import Curve, Surrogate
from apex_native.allocation.tensor_shares import Excess, tensor_weights
from apex_native.allocation.units import Unit
from apex_native.types import GgmlType
from tolerances import TENSOR_SHARE_LN

PLACES = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight")
SEEDS = range(5)


def unit(layer: int) -> Unit:
    names = tuple(f"blk.{layer}.{place}" for place in PLACES)
    return Unit(f"{layer}.attention", "attention", layer, names)


def drawn(seed: int, layers: list[int], sd: float) -> tuple[np.ndarray, dict[str, Excess]]:
    """Factors of the places, mean 1, and what measurements of that noise make of them."""
    rng = np.random.default_rng(seed)
    factors = np.exp(rng.normal(0.0, 0.5, len(PLACES)))
    factors /= factors.mean()
    return factors, {
        name: Excess(float(np.log(2.0 * factor) + sd * rng.normal()), sd**2)
        for layer in layers
        for name, factor in zip(unit(layer).tensors, factors, strict=True)
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_places_are_found_in_measured_layers_and_others(seed: int) -> None:
    units = [unit(layer) for layer in range(12)]
    factors, measured = drawn(seed, [1, 4, 7, 10], sd=0.1)
    weights = tensor_weights(units, measured)
    for one in units:
        found = np.array([weights[name] for name in one.tensors])
        assert found.mean() == pytest.approx(1.0)
        assert np.abs(np.log(found / factors)).max() < TENSOR_SHARE_LN


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_says_nothing(seed: int) -> None:
    units = [unit(layer) for layer in range(4)]
    _, measured = drawn(seed, [0, 1, 2, 3], sd=30.0)
    assert list(tensor_weights(units, measured).values()) == pytest.approx([1.0] * 16, abs=0.2)


def test_a_layer_of_its_own_is_seen() -> None:
    units = [unit(layer) for layer in range(4)]
    measured = {name: Excess(0.0, 0.01) for one in units for name in one.tensors}
    measured["blk.2.attn_v.weight"] = Excess(1.0, 0.01)
    weights = tensor_weights(units, measured)
    assert weights["blk.2.attn_v.weight"] > 1.5 * weights["blk.1.attn_v.weight"]
    assert weights["blk.2.attn_q.weight"] == pytest.approx(weights["blk.2.attn_k.weight"])


def test_a_unit_measured_in_part_is_not_measured() -> None:
    units = [unit(0)]
    weights = tensor_weights(units, {"blk.0.attn_v.weight": Excess(1.0, 0.01)})
    assert set(weights.values()) == {1.0}


def test_a_solution_costs_what_its_unit_does_and_dearer_tensors_more() -> None:
    one = unit(0)
    weights = dict(zip(one.tensors, (0.5, 0.5, 1.5, 1.5), strict=True))
    surrogate = Surrogate({one.name: Curve(2.0, 0.1)}, [one], 0.0, weights=weights)
    costs = TensorCosts(surrogate, lambda _, t: 0.01 if t is GgmlType.Q4_K else 0.04)
    whole = SUM(*costs.totals(dict.fromkeys(one.tensors, GgmlType.Q4_K)))
    assert whole == pytest.approx(2.0 * 0.01 + 0.1 * 0.1)
    cheap, dear = (costs.additive(name, GgmlType.Q2_K) for name in (one.tensors[0], one.tensors[2]))
    assert dear == pytest.approx(3 * cheap)
