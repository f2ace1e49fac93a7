"""Libraries that are not ours read a quantized file: their numbers beside our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader, GGUFWriter, dequantize

import apex_native as apex
from apex_native._native import core
from apex_native.publish.readers import reader_notes
from apex_native.types import GgufFacts
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


def facts_of(path: Path) -> GgufFacts:
    with apex.open_gguf(path) as file:
        return file.facts


def write_fused(source: Path, path: Path) -> Path:
    """The same model with gate and up of the experts in one tensor each."""
    reader = GGUFReader(source)
    writer = GGUFWriter(path, "qwen35moe")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    data = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in data.items():
        values = np.array(tensor.data)
        if "ffn_up_exps" in name:
            continue
        if "ffn_gate_exps" in name:
            up = data[name.replace("gate", "up")]
            assert up.tensor_type == tensor.tensor_type
            values, name = (
                np.concatenate([values, up.data], axis=1),
                name.replace("gate", "gate_up"),
            )
        writer.add_tensor(name, values, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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


def by_transformers(path: Path, ours: OwnLogProbs) -> npt.NDArray[Any]:
    """The same rows by transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers wants it for GGUF")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    with torch.no_grad():
        logits = model(torch.tensor(ours.tokens[None].astype(np.int64))).logits[0].double()
    rows: npt.NDArray[Any] = torch.log_softmax(logits, -1).numpy()
    return rows[ours.first : ours.first + len(ours.rows)]


def test_transformers_computes_what_we_compute(quantized: Path, ours: OwnLogProbs) -> None:
    assert dict(reader_notes([facts_of(quantized)]))["transformers"].startswith("as 16-bit")
    assert kld(ours.rows, by_transformers(quantized, ours)) < READER_KLD


def test_transformers_has_no_use_for_fused_experts(
    quantized: Path, ours: OwnLogProbs, tmp_path: Path
) -> None:
    """llama.cpp computes the same with them; in transformers they stay random."""
    fused = write_fused(quantized, tmp_path / "fused.gguf")
    again = own_log_probs(fused, tmp_path)
    np.testing.assert_allclose(again.rows, ours.rows, atol=0.05)
    assert dict(reader_notes([facts_of(fused)]))["transformers"].startswith("no")
    assert kld(ours.rows, by_transformers(fused, ours)) > 1
