"""Exchanged weights: the numbers of a file that was written, whatever is left out on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.demo_text import demo_text
from apex_native.engine import load_model
from apex_native.errors import ModelError
from apex_native.evaluation import Text
from apex_native.types import GgmlType
from tiny_models import ARCHITECTURES, N_LAYER, write_tiny_model

CTX = 64
N_CHUNKS = 3
N_SCORED = CTX - 1 - CTX // 2
T = GgmlType


class Bench:
    """A model, its values in other types, and a scorer."""

    def __init__(self, path: Path, n_lanes: int = 1, n_threads: int = 1) -> None:
        self.source = apex.open_gguf(path)
        self.models = [load_model(path, n_threads=1, repack=False) for _ in range(n_lanes)]
        tokens = self.models[0].tokenize(
            demo_text(6_000, seed=3), add_special=True, parse_special=False
        )
        self.tokens = np.ascontiguousarray(tokens[: N_CHUNKS * CTX])
        self.scorer = core.ProbeScorer(
            [model.native for model in self.models], n_ctx=CTX, n_threads=n_threads
        )

    def value(self, name: str, type: GgmlType, imatrix: Any = None) -> Any:
        request = (self.source.index(name), type.id, imatrix, None, None)
        return core.quantize_values(self.source.native, [request], n_threads=2)[0]

    def score(self, *candidates: tuple[list[Any], int]) -> list[dict[str, np.ndarray]]:
        self.scorer.run(self.tokens, list(candidates))
        return list(self.scorer.scores)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    return Bench(write_tiny_model(path, request.param))


def weights_of(bench: Bench, prefix: str) -> list[str]:
    return [
        tensor.name
        for tensor in bench.source.tensors
        if tensor.name.startswith(prefix)
        and len(tensor.shape) > 1
        and tensor.name.endswith(".weight")
        and tensor.n_per_row % 32 == 0
        and "ffn_gate_inp" not in tensor.name
        and "ssm_conv1d" not in tensor.name
    ]


def test_nothing_exchanged_is_no_divergence(bench: Bench) -> None:
    (scores,) = bench.score(([], 0))
    assert np.all(scores["kld"] == 0)
    assert np.all(scores["is_same_top"] == 1)
    assert scores["kld"].shape == (N_CHUNKS * N_SCORED,)
    assert np.array_equal(scores["nll"], bench.scorer.reference_nll)


@pytest.mark.parametrize("layer", [*range(1, N_LAYER), N_LAYER])
def test_starting_at_the_changed_layer_gives_the_same_bits(bench: Bench, layer: int) -> None:
    prefix = "output.weight" if layer == N_LAYER else f"blk.{layer}."
    values = [bench.value(name, T.Q4_0) for name in weights_of(bench, prefix)]
    whole, short = bench.score((values, 0), (values, layer))
    # Random recurrent weights may overflow once they are rounded: not a number is a result, too.
    assert np.nanmax(whole["kld"]) > 0
    for key, expected in whole.items():
        np.testing.assert_array_equal(expected, short[key], err_msg=key)


def test_candidates_do_not_see_each_other(bench: Bench) -> None:
    first = [bench.value(name, T.Q4_0) for name in weights_of(bench, "blk.0.")]
    last = [bench.value(name, T.Q4_0) for name in weights_of(bench, f"blk.{N_LAYER - 1}.")]
    alone = [bench.score((values, layer))[0] for values, layer in ((first, 0), (last, 1))]
    together = bench.score((first, 0), (last, 1), ([], 0), (first, 0))
    np.testing.assert_array_equal(together[0]["kld"], alone[0]["kld"])
    np.testing.assert_array_equal(together[1]["kld"], alone[1]["kld"])
    assert np.all(together[2]["kld"] == 0)
    np.testing.assert_array_equal(together[3]["kld"], alone[0]["kld"])


@pytest.fixture(scope="module")
def demo() -> Iterator[Bench]:
    bench = Bench(apex.demo_model(), n_lanes=2)
    yield bench
    for model in bench.models:
        model.close()


def test_a_file_that_is_written_gives_the_same_bits(demo: Bench, tmp_path: Path) -> None:
    source = demo.source
    types = {
        tensor.name: (T.Q4_K, T.Q6_K, T.Q8_0)[i % 3]
        for i, tensor in enumerate(source.tensors)
        if tensor.type is T.BF16
    }
    plan = apex.make_plan(source, like=types)
    path = tmp_path / "mixed.gguf"
    apex.quantize(source, plan, path)
    values = [demo.value(name, type) for name, type in types.items()]
    (scores,) = demo.score((values, 0))
    found = apex.evaluate(
        apex.demo_model(), [path], Text("text", demo_text(6_000, seed=3)),
        ctx=CTX, chunks=N_CHUNKS, noise_chunks=0, n_ubatch=CTX, n_threads=2,
    )  # fmt: skip
    assert found.tokens["mixed"].kld.mean() > 0
    assert np.array_equal(scores["kld"], found.tokens["mixed"].kld)


def test_a_quantized_value_has_the_bytes_of_a_written_file(demo: Bench, rng: Any) -> None:
    name = "blk.2.ffn_down_exps.weight"
    info = demo.source.tensors[demo.source.index(name)]
    n_slices, n_rows, n_per_row = info.shape
    imatrix = rng.random((n_slices, n_per_row), dtype=np.float32) + 0.1
    value = demo.value(name, T.IQ3_S, imatrix)
    weights = demo.source.to_float32(name)
    expected = [core.quantize_rows(weights[i], T.IQ3_S.id, imatrix[i]) for i in range(n_slices)]
    assert np.array_equal(value.encoded, np.concatenate(expected).reshape(-1))
    for i in range(n_slices):
        restored = core.dequantize_rows(expected[i].reshape(-1), T.IQ3_S.id, n_per_row)
        w = imatrix[i].astype(float)
        error = (w * (weights[i].astype(float) - restored) ** 2).sum()
        assert value.errors[i, 0] == pytest.approx(error, rel=1e-9)
        assert value.errors[i, 1] == pytest.approx((w * weights[i].astype(float) ** 2).sum())
    assert value.encoded.size == n_slices * n_rows * T.IQ3_S.row_bytes(n_per_row)


def test_errors_of_sampled_rows_are_those_of_these_rows(demo: Bench, rng: Any) -> None:
    name, step = "blk.2.ffn_down_exps.weight", 5
    info = demo.source.tensors[demo.source.index(name)]
    n_slices, n_rows, n_per_row = info.shape
    assert n_rows % step != 0  # the last row is not one of them by chance
    imatrix = rng.random((n_slices, n_per_row), dtype=np.float32) + 0.1
    request = (demo.source.index(name), T.Q3_K.id, imatrix, None, None)
    (value,) = core.quantize_values(demo.source.native, [request], n_threads=2, row_step=step)
    weights = demo.source.to_float32(name)[:, ::step]
    for i in range(n_slices):
        encoded = core.quantize_rows(np.ascontiguousarray(weights[i]), T.Q3_K.id, imatrix[i])
        restored = core.dequantize_rows(encoded.reshape(-1), T.Q3_K.id, n_per_row)
        error = (imatrix[i].astype(float) * (weights[i].astype(float) - restored) ** 2).sum()
        assert value.errors[i, 0] == pytest.approx(error, rel=1e-9)
    # Its rows are no weight of any model.
    with pytest.raises(ModelError, match="elements where"):
        demo.score(([value], 2))
    with pytest.raises(ValueError, match="a step of 0"):
        core.quantize_values(demo.source.native, [request], n_threads=1, row_step=0)


def test_a_value_of_another_model_is_refused(demo: Bench, tmp_path: Path) -> None:
    other = Bench(write_tiny_model(tmp_path / "other.gguf", "llama"))
    with pytest.raises(ModelError, match="elements where"):
        demo.score(([other.value("token_embd.weight", T.Q8_0)], 0))
    with pytest.raises(ModelError, match="there is no tensor"):
        other.score(([demo.value("blk.7.ffn_down_exps.weight", T.Q8_0)], 0))
    # What was refused left the model as it was.
    assert np.all(demo.score(([], 0))[0]["kld"] == 0)
