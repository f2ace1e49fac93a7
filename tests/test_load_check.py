"""--check: damaged weights, encoders, encoder-decoders, and models without a vocabulary."""

from __future__ import annotations

import math
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

import apex_native as apex
from apex_native.demo_text import demo_text
from cli_tools import invoke

TEXT = demo_text(300, seed=4)
N_EMBD, N_FF, N_HEAD = 32, 48, 2


def test_a_good_model_is_better_than_chance() -> None:
    checked = apex.check_load(apex.demo_model(), TEXT)
    assert checked.kind == "language model"
    assert checked.mean_nll is not None
    assert checked.mean_nll < math.log(checked.n_vocab) - 1
    assert checked.zero_tensors == ()


def test_a_file_whose_second_half_is_zeros_is_rejected_and_the_tensors_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "half.gguf"
    content = bytearray(apex.demo_model().read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with apex.open_gguf(path) as file:
        last = [
            t.name for t in file.tensors if len(t.shape) > 1 and not file.to_float32(t.name).any()
        ]
    assert last
    with pytest.raises(apex.ModelError, match="hold one value only") as caught:
        apex.check_load(path, TEXT)
    assert last[0] in str(caught.value) or last[-1] in str(caught.value)


def test_one_tensor_of_zeros_is_named_as_a_warning(tmp_path: Path) -> None:
    """The model still knows its text: a warning, and no error."""
    source = tmp_path / "zero.gguf"
    content = bytearray(apex.demo_model().read_bytes())
    name = "blk.6.ffn_down_shexp.weight"
    tensor = next(t for t in gguf.GGUFReader(apex.demo_model()).tensors if t.name == name)
    content[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = bytes(tensor.n_bytes)
    source.write_bytes(content)
    done = invoke("quantize", source, "--type", "Q8_0", "--check", "-o", tmp_path / "o.gguf")
    assert done.exit_code == 0, done.stderr
    assert f"warning: {name}: all weights have one value" in done.stderr


def vocabulary(writer: gguf.GGUFWriter) -> int:
    reader = gguf.GGUFReader(apex.demo_model())
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    return len(reader.fields["tokenizer.ggml.tokens"].data)


def written(writer: gguf.GGUFWriter, shapes: dict[str, tuple[int, ...]]) -> None:
    rng = np.random.default_rng(3)
    for name, shape in shapes.items():
        is_norm = re.search(r"norm\.weight$", name) is not None
        values = np.ones(shape) if is_norm else rng.standard_normal(shape) * 0.05
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def t5(path: Path, *, decoder: bool) -> Path:
    architecture = "t5" if decoder else "t5encoder"
    writer = gguf.GGUFWriter(path, architecture)
    n_vocab = vocabulary(writer)
    writer.add_context_length(128)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_block_count(1)
    writer.add_head_count(N_HEAD)
    writer.add_key_length(N_EMBD // N_HEAD)
    writer.add_value_length(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_layer_norm_eps(1e-6)
    writer.add_relative_attn_buckets_count(8)
    writer.add_decoder_start_token_id(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_vocab, N_EMBD)}
    for stack in ("enc", "dec") if decoder else ("enc",):
        block = f"{stack}.blk.0"
        attentions = ("attn", "cross_attn") if stack == "dec" else ("attn",)
        for attention in attentions:
            shapes |= {f"{block}.{attention}_{p}.weight": (N_EMBD, N_EMBD) for p in "qkvo"}
            shapes[f"{block}.{attention}_norm.weight"] = (N_EMBD,)
        shapes[f"{block}.attn_rel_b.weight"] = (8, N_HEAD)
        shapes[f"{block}.ffn_norm.weight"] = (N_EMBD,)
        shapes[f"{block}.ffn_up.weight"] = (N_FF, N_EMBD)
        shapes[f"{block}.ffn_down.weight"] = (N_EMBD, N_FF)
        shapes[f"{stack}.output_norm.weight"] = (N_EMBD,)
    if decoder:
        shapes["output.weight"] = (n_vocab, N_EMBD)
    written(writer, shapes)
    return path


def test_an_encoder_decoder_is_computed_as_one(tmp_path: Path) -> None:
    """Untrained, so that no chance may be asked of it: it reads, and its decoder answers."""
    checked = apex.check_load(t5(tmp_path / "t5.gguf", decoder=True), TEXT)
    assert checked.kind == "encoder-decoder"
    assert checked.mean_nll is not None


def test_an_encoder_is_asked_for_embeddings(tmp_path: Path) -> None:
    checked = apex.check_load(t5(tmp_path / "enc.gguf", decoder=False), TEXT)
    assert checked.kind == "encoder"
    assert checked.mean_nll is None


def bert(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "bert")
    n_vocab = vocabulary(writer)
    writer.add_context_length(128)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_block_count(1)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_eps(1e-6)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(1)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_vocab, N_EMBD),
        "position_embd.weight": (128, N_EMBD),
        "token_types.weight": (1, N_EMBD),
        "token_embd_norm.weight": (N_EMBD,),
        "token_embd_norm.bias": (N_EMBD,),
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{name}.weight"] = (N_EMBD, N_EMBD)
        shapes[f"blk.0.{name}.bias"] = (N_EMBD,)
    shapes["blk.0.ffn_up.weight"], shapes["blk.0.ffn_up.bias"] = (N_FF, N_EMBD), (N_FF,)
    shapes["blk.0.ffn_down.weight"], shapes["blk.0.ffn_down.bias"] = (N_EMBD, N_FF), (N_EMBD,)
    for name in ("attn_output_norm", "layer_output_norm"):
        shapes[f"blk.0.{name}.weight"] = shapes[f"blk.0.{name}.bias"] = (N_EMBD,)
    written(writer, shapes)
    return path


def test_an_embedder_has_no_logits_and_is_asked_for_its_pooled_output(tmp_path: Path) -> None:
    checked = apex.check_load(bert(tmp_path / "bert.gguf"), TEXT)
    assert checked.kind == "encoder"
    assert checked.mean_nll is None


def test_rotary_sections_beyond_the_rotated_dimensions_are_refused(tmp_path: Path) -> None:
    content = bytearray(apex.demo_model().read_bytes())
    key = b"qwen35moe.rope.dimension_sections"
    at = content.index(key) + len(key)
    kind, element = np.frombuffer(content, "<u4", 2, at).tolist()
    count = content[at + 8]
    assert (kind, element, count) == (9, 5, 4)  # an array of four int32
    first = at + 4 + 4 + 8
    content[first : first + 4] = np.array([90], "<i4").tobytes()
    path = tmp_path / "sections.gguf"
    path.write_bytes(content)
    with pytest.raises(apex.GgufError, match=r"rope\.dimension_sections add up to \d+ pairs"):
        apex.load_model(path)


@pytest.mark.parametrize("epsilon", [np.nan, -1e-6])
def test_an_epsilon_that_ggml_aborts_on_is_refused(tmp_path: Path, epsilon: float) -> None:
    content = bytearray(apex.demo_model().read_bytes())
    key = b"qwen35moe.attention.layer_norm_rms_epsilon"
    at = content.index(key) + len(key)
    assert np.frombuffer(content, "<u4", 1, at) == [6]  # float32
    content[at + 4 : at + 8] = np.array([epsilon], "<f4").tobytes()
    path = tmp_path / "epsilon.gguf"
    path.write_bytes(content)
    with pytest.raises(apex.GgufError, match=r"rms_epsilon is -?(nan|1e-06), expected 0 or more"):
        apex.load_model(path)
