"""Libraries that are not ours read a quantized file: their numbers beside our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader, dequantize

import apex_native as apex
from apex_native._native import core
from own_log_probs import OwnLogProbs, own_log_probs
from tolerances import READER_KLD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    matrix = apex.load_imatrix(apex.demo_imatrix())
    plan = apex.make_plan(apex.demo_model(), tier="i-balanced", imatrix=matrix)
    apex.quantize(apex.demo_model(), plan, folder / "model.gguf", imatrix=matrix)
    return folder / "model.gguf"


@pytest.fixture(scope="module")
def ours(quantized: Path) -> OwnLogProbs:
    return own_log_probs(quantized, quantized.parent)


def kld(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """Mean over rows of log-probabilities, in nats."""
    return float((np.exp(ours) * (ours - theirs)).sum(axis=1).mean())


def test_gguf_py_reads_every_weight(quantized: Path) -> None:
    ours = {tensor.name: tensor for tensor in apex.open_gguf(quantized).tensors}
    read = {tensor.name: tensor for tensor in GGUFReader(quantized).tensors}
    assert read.keys() == ours.keys()
    for name, tensor in read.items():
        assert tensor.tensor_type.name == ours[name].type.name
        if not ours[name].type.is_quantized:
            continue
        values = dequantize(tensor.data, tensor.tensor_type)
        n_per_row = ours[name].shape[-1]
        stored = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        expected = core.dequantize_rows(stored, ours[name].type.id, n_per_row)
        np.testing.assert_array_equal(values.reshape(-1, n_per_row), expected)


def test_transformers_computes_what_we_compute(quantized: Path, ours: OwnLogProbs) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers wants it for GGUF")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        quantized.parent, gguf_file=quantized.name, dtype=torch.float32
    )
    with torch.no_grad():
        logits = model(torch.tensor(ours.tokens[None].astype(np.int64))).logits[0].double()
    rows = torch.log_softmax(logits, -1).numpy()[ours.first : ours.first + len(ours.rows)]
    assert kld(ours.rows, rows) < READER_KLD


def test_llama_cpp_python_computes_what_we_compute(quantized: Path, ours: OwnLogProbs) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="it has no wheel; built by hand")
    llama = llama_cpp.Llama(str(quantized), n_ctx=128, n_threads=2, logits_all=True, verbose=False)
    llama.eval(ours.tokens.tolist())
    logits = np.asarray(llama.scores[: len(ours.tokens)], np.float64)
    rows = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    rows = (rows - logits.max(1, keepdims=True))[ours.first : ours.first + len(ours.rows)]
    assert kld(ours.rows, rows) < READER_KLD
