"""Embeddings under the metric of the weights that read them first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.imatrix import Hessian, InputMoment
from apex_native.quantization.embedding import embedding_hessian
from tolerances import MOMENT_RTOL

EMBEDDING = "token_embd.weight"
ATTENTION = ("attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta")
FFN = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_shexp", "ffn_up_shexp")


@pytest.fixture(scope="module")
def source() -> apex.GgufFile:
    return apex.open_gguf(apex.demo_model())


def weights(source: apex.GgufFile, name: str) -> npt.NDArray[np.float64]:
    values = source.to_float32(name).astype(np.float64)
    return values.reshape(-1, values.shape[-1])


def behind_norm(
    source: apex.GgufFile, norm: str, readers: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    factors = weights(source, f"blk.0.{norm}.weight")[0]
    total = np.zeros((len(factors), len(factors)))
    for reader in readers:
        scaled = weights(source, f"blk.0.{reader}.weight") * factors
        total += scaled.T @ scaled / np.sum(scaled**2)
    return total / np.trace(total)


def dense(moment: InputMoment) -> npt.NDArray[np.float64]:
    return moment.dense(0)


def test_it_is_what_the_first_layers_readers_make_of_an_error(source: apex.GgufFile) -> None:
    hessian = embedding_hessian(source)
    assert hessian is not None
    moment = hessian.moment_of(EMBEDDING)
    assert moment is not None
    expected = behind_norm(source, "attn_norm", ATTENTION) + behind_norm(
        source, "post_attention_norm", FFN
    )
    expected *= len(expected) / np.trace(expected)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((dense(moment) - expected) / scale).max() < MOMENT_RTOL
    assert moment.is_exact


def test_moments_of_weights_do_not_depend_on_threads(source: apex.GgufFile) -> None:
    stored = source.stored_tensor("blk.0.ffn_up_exps.weight")
    one, three = (core.weight_moment(stored, n_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one, three)
    rows = weights(source, "blk.0.ffn_up_exps.weight")
    expected = (rows.T @ rows)[np.tril_indices(rows.shape[1])]
    assert np.abs(one - expected).max() < MOMENT_RTOL * expected.max()


def test_a_collected_moment_comes_first(source: apex.GgufFile) -> None:
    n = source.tensors[source.index(EMBEDDING)].n_per_row
    moment = InputMoment(
        n,
        np.zeros((1, n * (n + 1) // 2), np.float32),
        np.zeros((1, n * (n + 1) // 2), np.float32),
        np.ones(1, np.int64),
        np.zeros(1, np.int64),
    )
    tied = Hessian({EMBEDDING: moment}, {EMBEDDING: EMBEDDING}, "a", 1, {})
    assert embedding_hessian(source, tied) is tied


@pytest.mark.parametrize("name", ["Q3_K", "IQ3_S"])
def test_embeddings_have_less_error_where_it_is_read(
    name: str, source: apex.GgufFile, tmp_path: Path
) -> None:
    type = apex.GgmlType.parse(name)
    plan = apex.make_plan(source, types={EMBEDDING: type}, reason="test")
    metric = embedding_hessian(source)
    assert metric is not None
    moment = metric.moment_of(EMBEDDING)
    assert moment is not None
    original = weights(source, EMBEDDING)
    errors = []
    for hessian in (None, Hessian({}, {}, "no other moments", 0, {})):
        out = tmp_path / f"{name}-{hessian is not None}.gguf"
        manifest = apex.quantize(source, plan, out, hessian=hessian, n_threads=2)
        with apex.open_gguf(out) as written:
            difference = original - weights(written, EMBEDDING)
        errors.append(float(np.einsum("ri,ij,rj->", difference, dense(moment), difference)))
    assert errors[1] < 0.85 * errors[0]
    (record,) = (t for t in manifest.tensors if t.name == EMBEDDING)
    assert record.outputs is not None
    assert record.outputs.ratio == pytest.approx(errors[1] / errors[0], rel=1e-4)
