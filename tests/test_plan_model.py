"""What a file is and whether it is whole: kinds, missing layers, promised ones, who reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

import apex_native as apex
from apex_native.plan import FindingKind
from apex_native.plan.readers import CANNOT_READ
from apex_native.types import GgmlType
from cli_tools import invoke
from gguf_builder import ValueType, bf16_tensor, f32_tensor, pair, write_gguf

ROWS = np.ones((4, 64), np.float32)


# --- kinds ------------------------------------------------------------------------------------


def adapter(path: Path) -> Path:
    pairs = [pair("general.type", ValueType.STRING, "adapter"),
             pair("general.architecture", ValueType.STRING, "llama"),
             pair("adapter.type", ValueType.STRING, "lora")]  # fmt: skip
    names = ("blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b")
    return write_gguf(path, [f32_tensor(name, ROWS) for name in names], pairs)


def control_vector(path: Path) -> Path:
    pairs = [pair("general.architecture", ValueType.STRING, "controlvector")]
    return write_gguf(path, [f32_tensor("direction.1", np.ones(64))], pairs)


def matrix(path: Path) -> Path:
    path.write_bytes(apex.demo_imatrix().read_bytes())
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (adapter, "a LoRA adapter"),
        (control_vector, "a control vector"),
        (matrix, "an importance matrix"),
    ],
)
@pytest.mark.parametrize("base", [(), ("--type", "Q8_0"), ("--tier", "quality")])
def test_what_is_no_model_is_refused_by_name(
    make: Callable[[Path], Path], name: str, base: tuple[str, ...], tmp_path: Path
) -> None:
    path = make(tmp_path / "file.gguf")
    for verb in ("plan", "quantize"):
        done = invoke(verb, path, *base)
        assert done.exit_code == 1
        assert f"this is {name}, no model to quantize" in done.stderr
    shown = invoke("inspect", path)
    assert shown.exit_code == 0
    assert name.split(" ", 1)[1] in shown.stdout
    assert "multi-token" not in shown.stdout + shown.stderr


def projector(path: Path, *, wide: bool = False) -> Path:
    pairs = [pair("general.architecture", ValueType.STRING, "clip"),
             pair("general.type", ValueType.STRING, "mmproj"),
             pair("clip.vision.block_count", ValueType.U32, 3)]  # fmt: skip
    tensor = f32_tensor if wide else bf16_tensor
    names = [f"v.blk.{i}.attn_q.weight" for i in range(3)] + ["mm.0.weight"]
    return write_gguf(path, [tensor(name, ROWS) for name in names], pairs)


def test_a_projector_is_called_one_and_gets_the_usual_type(tmp_path: Path) -> None:
    path = projector(tmp_path / "mmproj.gguf")
    shown = invoke("inspect", path)
    assert "multimodal projector" in shown.stdout
    assert "layers        3\n" in shown.stdout
    assert shown.stderr == ""
    done = invoke("quantize", path, "-o", tmp_path / "o.gguf")
    assert done.exit_code == 0, done.stderr
    with apex.open_gguf(tmp_path / "o.gguf") as written:
        assert {tensor.type for tensor in written.tensors} == {GgmlType.Q8_0}
    with apex.open_gguf(projector(tmp_path / "wide.gguf", wide=True)) as source:
        assert apex.make_plan(source).ftype == "F16"
    refused = invoke("quantize", path, "--tier", "quality", "-o", tmp_path / "p.gguf")
    assert refused.exit_code == 1
    assert "tiers are for language models; leave --tier out for Q8_0" in refused.stderr


# --- whole models -------------------------------------------------------------------------------


def without(path: Path, *parts: str, **changes: int) -> Path:
    """The demo model without tensors whose names contain a part, with other counts."""
    reader = gguf.GGUFReader(apex.demo_model())
    writer = gguf.GGUFWriter(path, "qwen35moe")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = field.contents()
        short = key.removeprefix("qwen35moe.")
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, changes.pop(short, value), field.types[0], sub_type)
    for key, value in changes.items():
        writer.add_uint32(f"qwen35moe.{key}", value)
    for tensor in reader.tensors:
        if not any(part in tensor.name for part in parts):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("blk.3.",), "the metadata counts 8 layers, layer 3 has no tensors"),
        (("blk.3.", "blk.4."), "layers 3 to 4 have no tensors"),
        (("blk.5.ffn_up_exps",), "layer 5 has no ffn_up_exps, 7 other layers do"),
        (("blk.5.ffn_down_shexp",), "layer 5 has no ffn_down_shexp, 7 other layers do"),
        (("blk.2.ffn_gate_inp.",), "layer 2 have no router"),
        (("token_embd",), "has no token_embd.weight"),
    ],
)
def test_an_incomplete_model_is_named_and_refused_when_strict(
    parts: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    path = without(tmp_path / "m.gguf", *parts)
    done = invoke("plan", path, "--type", "Q8_0")
    assert f"{message}" in done.stdout
    strict = invoke("quantize", path, "--type", "Q8_0", "--strict", "-o", tmp_path / "o.gguf")
    assert strict.exit_code == 1
    assert "incomplete-model" in strict.stderr
    with pytest.raises(apex.ModelError), apex.load_model(path):  # what the finding promises
        pass


def test_the_whole_demo_model_has_nothing_missing() -> None:
    with apex.open_gguf(apex.demo_model()) as source:
        kinds = {finding.kind for finding in apex.make_plan(source, ftype="Q8_0").findings}
    assert not kinds & {FindingKind.INCOMPLETE_MODEL, FindingKind.PROMISED_LAYERS}


def test_promised_layers_are_found_and_repaired(tmp_path: Path) -> None:
    """As converters write a checkpoint that lost its mtp tensors and kept their count."""
    path = without(tmp_path / "m.gguf", block_count=9, nextn_predict_layers=1)
    done = invoke("quantize", path, "--type", "Q8_0", "--strict", "-o", tmp_path / "o.gguf")
    assert done.exit_code == 1
    assert "nextn_predict_layers promises 1 layer for multi-token prediction" in done.stderr
    assert "--repair writes block_count 8 and nextn_predict_layers 0" in done.stderr
    with pytest.raises(apex.ModelError), apex.load_model(path):
        pass
    done = invoke("quantize", path, "--type", "Q8_0", "--strict", "--repair", "--check",
                  "-o", tmp_path / "o.gguf")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    with apex.open_gguf(tmp_path / "o.gguf") as written:
        assert written.metadata["qwen35moe.block_count"] == 8
        assert written.metadata["qwen35moe.nextn_predict_layers"] == 0


# --- readers and scales ---------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["Q2_0", "TQ1_0", "TQ2_0", "NVFP4"])
def test_plan_says_who_cannot_read_a_type(type: str, tmp_path: Path) -> None:
    weights = np.random.default_rng(1).standard_normal((4, 256), np.float32)
    path = write_gguf(
        tmp_path / "m.gguf",
        [bf16_tensor("token_embd.weight", weights), bf16_tensor("blk.0.attn_q.weight", weights)],
        [pair("general.architecture", ValueType.STRING, "llama"),
         pair("llama.block_count", ValueType.U32, 1)],
    )  # fmt: skip
    done = invoke("plan", path, "--type", "Q8_0", "--tensor-type", f"attn_q={type}")
    assert f"{type} (1 tensor): {CANNOT_READ[GgmlType[type]]}" in done.stdout


def test_the_table_of_readers_is_what_this_gguf_release_knows() -> None:
    known = {type.name for type in gguf.GGMLQuantizationType}
    if gguf.__name__ and "NVFP4" in known:  # 0.19.0
        lacking = {type.name for type in GgmlType if type.is_target} - known
        assert lacking == {"Q2_0"}


@pytest.mark.parametrize(("deviation", "lost"), [(0.002, True), (0.02, False)])
def test_weights_too_small_for_nvfp4_are_said_before_and_after(
    deviation: float, lost: bool, tmp_path: Path
) -> None:
    weights = np.random.default_rng(1).standard_normal((64, 256)) * deviation
    path = write_gguf(
        tmp_path / "m.gguf",
        [bf16_tensor("token_embd.weight", weights), bf16_tensor("blk.0.attn_q.weight", weights)],
        [pair("general.architecture", ValueType.STRING, "llama"),
         pair("llama.block_count", ValueType.U32, 1)],
    )  # fmt: skip
    arguments = (path, "--type", "Q8_0", "--tensor-type", "attn_q=nvfp4")
    planned = invoke("plan", *arguments)
    assert ("blk.0.attn_q.weight: its weights are too small" in planned.stdout) == lost
    done = invoke("quantize", *arguments, "-o", tmp_path / "o.gguf")
    assert done.exit_code == 0
    assert ("warning: blk.0.attn_q.weight: NVFP4 lost" in done.stderr) == lost
