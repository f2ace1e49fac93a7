"""One small file of each kind that people hand to the verbs, right and wrong ones.

All are made here, in a second; the vocabulary is `calibration_models`' of 300 tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from apex_native.gguf import open_gguf
from calibration_models import (
    N_EMBD,
    N_FF,
    N_VOCAB,
    derived_demo,
    expert_weights,
    model_pairs,
    vocabulary_pairs,
    write_expert_model,
)
from gguf_builder import Tensor, ValueType, f32_tensor, pair, write_gguf, write_shards

__all__ = ["KINDS", "expert_settings", "write_kind"]

N_EXPERT = 4
Shapes = dict[str, tuple[int, ...]]


def _random(shapes: Shapes, seed: int = 3) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    tensors = []
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        tensors.append(f32_tensor(name, values + 1 if name.endswith("norm.weight") else values))
    return tensors


def _typed(type: str, **keys: str) -> list[bytes]:
    stated = {"general.type": type, **{key.replace("__", "."): v for key, v in keys.items()}}
    return [pair(key, ValueType.STRING, value) for key, value in stated.items()]


def expert_settings() -> dict[str, int | float]:
    """Those of `calibration_models`' model of one layer."""
    return {
        "feed_forward_length": N_FF,
        "expert_count": 5,
        "expert_used_count": 2,
        "attention__head_count": 2,
        "attention__head_count_kv": 2,
        "rope__dimension_count": N_EMBD // 2,
        "vocab_size": N_VOCAB,
    }


def _expert_tensors() -> list[Tensor]:
    return [f32_tensor(name, values) for name, values in expert_weights().items()]


def _model(folder: Path) -> Path:
    return write_expert_model(folder / "model.gguf")


def _header_only(folder: Path) -> Path:
    path = _model(folder)
    with open_gguf(path) as file:
        data = sum((tensor.nbytes + 31) // 32 * 32 for tensor in file.tensors)
    os.truncate(path, path.stat().st_size - data)
    return path


def _partial_download(folder: Path) -> Path:
    path = _model(folder)
    os.truncate(path, path.stat().st_size * 3 // 4)
    return path


def _shards(folder: Path) -> list[Path]:
    tensors = _expert_tensors()
    pairs = model_pairs("llama", **expert_settings()) + vocabulary_pairs()
    return write_shards(folder, [tensors[:5], tensors[5:9], tensors[9:]], pairs)


def _missing_shard(folder: Path) -> Path:
    shards = _shards(folder)
    shards[1].unlink()
    return shards[0]


def _mmproj(folder: Path) -> Path:
    shapes: Shapes = {
        "v.patch_embd.weight": (N_EMBD, 3, 4, 4),
        "v.blk.0.attn_q.weight": (N_EMBD, N_EMBD),
        "v.blk.0.ffn_up.weight": (N_FF, N_EMBD),
        "mm.0.weight": (N_EMBD, N_EMBD),
    }
    pairs = _typed("mmproj", general__architecture="clip", clip__projector_type="mlp")
    pairs += [
        pair("clip.has_vision_encoder", ValueType.BOOL, True),
        pair("clip.vision.block_count", ValueType.U32, 1),
        pair("clip.vision.embedding_length", ValueType.U32, N_EMBD),
    ]
    return write_gguf(folder / "mmproj.gguf", _random(shapes), pairs)


def _adapter(folder: Path) -> Path:
    name = "blk.0.attn_q.weight"
    shapes: Shapes = {f"{name}.lora_a": (8, N_EMBD), f"{name}.lora_b": (N_EMBD, 8)}
    pairs = _typed("adapter", general__architecture="llama", adapter__type="lora")
    pairs.append(pair("adapter.lora.alpha", ValueType.F32, 16.0))
    return write_gguf(folder / "adapter.gguf", _random(shapes), pairs)


def _control_vector(folder: Path) -> Path:
    pairs = [
        pair("general.architecture", ValueType.STRING, "controlvector"),
        pair("controlvector.model_hint", ValueType.STRING, "llama"),
        pair("controlvector.layer_count", ValueType.I32, 1),
    ]
    return write_gguf(folder / "control.gguf", _random({"direction.1": (N_EMBD,)}), pairs)


def _importance_matrix(folder: Path) -> Path:
    name = "blk.0.attn_q.weight"
    pairs = _typed("imatrix")
    pairs += [
        pair("imatrix.datasets", ValueType.STRING, ["made up"]),
        pair("imatrix.chunk_count", ValueType.U32, 1),
        pair("imatrix.chunk_size", ValueType.U32, 512),
    ]
    tensors = [
        f32_tensor(f"{name}.in_sum2", np.ones((1, N_EMBD))),
        f32_tensor(f"{name}.counts", np.ones((1, 1))),
    ]
    return write_gguf(folder / "imatrix.gguf", tensors, pairs)


def _t5_block(stack: str, layer: int) -> Shapes:
    block: Shapes = {
        "attn_norm.weight": (N_EMBD,),
        "attn_q.weight": (N_EMBD, N_EMBD),
        "attn_k.weight": (N_EMBD, N_EMBD),
        "attn_v.weight": (N_EMBD, N_EMBD),
        "attn_o.weight": (N_EMBD, N_EMBD),
        "attn_rel_b.weight": (8, 2),
        "ffn_norm.weight": (N_EMBD,),
        "ffn_gate.weight": (N_FF, N_EMBD),
        "ffn_up.weight": (N_FF, N_EMBD),
        "ffn_down.weight": (N_EMBD, N_FF),
    }
    if stack == "dec":
        block["cross_attn_norm.weight"] = (N_EMBD,)
        block |= {f"cross_attn_{part}.weight": (N_EMBD, N_EMBD) for part in "qkvo"}
    return {f"{stack}.blk.{layer}.{name}": shape for name, shape in block.items()}


def _t5(path: Path, architecture: str, stacks: tuple[str, ...]) -> Path:
    shapes: Shapes = {"token_embd.weight": (N_VOCAB, N_EMBD), "output.weight": (N_VOCAB, N_EMBD)}
    for stack in stacks:
        shapes |= {f"{stack}.output_norm.weight": (N_EMBD,), **_t5_block(stack, 0)}
    pairs = model_pairs(
        architecture,
        feed_forward_length=N_FF,
        attention__head_count=2,
        attention__relative_buckets_count=8,
        decoder_start_token_id=0,
    )
    return write_gguf(path, _random(shapes), pairs + vocabulary_pairs())


def _encoder(folder: Path) -> Path:
    return _t5(folder / "encoder.gguf", "t5encoder", ("enc",))


def _encoder_decoder(folder: Path) -> Path:
    return _t5(folder / "t5.gguf", "t5", ("enc", "dec"))


def _embedder(folder: Path) -> Path:
    """Nomic's embedding model with experts in every other layer."""
    shapes: Shapes = {"token_embd.weight": (N_VOCAB, N_EMBD)}
    shapes |= {f"token_embd_norm.{part}": (N_EMBD,) for part in ("weight", "bias")}
    for layer in range(2):
        block: Shapes = {
            "attn_qkv.weight": (3 * N_EMBD, N_EMBD),
            "attn_output.weight": (N_EMBD, N_EMBD),
            "ffn_up.weight": (N_FF, N_EMBD),
            "ffn_down.weight": (N_EMBD, N_FF),
        }
        for norm in ("attn_output_norm", "layer_output_norm"):
            block |= {f"{norm}.{part}": (N_EMBD,) for part in ("weight", "bias")}
        if layer == 1:
            block["ffn_up_exps.weight"] = (N_EXPERT, *block.pop("ffn_up.weight"))
            block["ffn_down_exps.weight"] = (N_EXPERT, *block.pop("ffn_down.weight"))
            block["ffn_gate_inp.weight"] = (N_EXPERT, N_EMBD)
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    pairs = model_pairs(
        "nomic-bert-moe",
        block_count=2,
        feed_forward_length=N_FF,
        attention__head_count=2,
        attention__layer_norm_epsilon=1e-5,
        moe_every_n_layers=2,
        expert_count=N_EXPERT,
        expert_used_count=2,
        pooling_type=1,
    )
    pairs.append(pair("nomic-bert-moe.attention.causal", ValueType.BOOL, False))
    pairs.append(pair("tokenizer.ggml.token_type_count", ValueType.U32, 1))
    return write_gguf(folder / "embedder.gguf", _random(shapes), pairs + vocabulary_pairs())


def _no_vocabulary(folder: Path) -> Path:
    pairs = model_pairs("llama", **expert_settings())
    pairs.append(pair("tokenizer.ggml.model", ValueType.STRING, "none"))
    return write_gguf(folder / "no-vocabulary.gguf", _expert_tensors(), pairs)


def _incomplete(folder: Path) -> Path:
    """One layer lacks the down projection of its experts."""
    tensors = [t for t in _expert_tensors() if "ffn_down_exps" not in t.name]
    pairs = model_pairs("llama", **expert_settings()) + vocabulary_pairs()
    return write_gguf(folder / "incomplete.gguf", tensors, pairs)


def _zero_filled(folder: Path) -> Path:
    """The second half of the file was never written."""
    path = _model(folder)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    return path


def _already_quantized(folder: Path) -> Path:
    tensors = [
        Tensor(t.name, t.shape, 8, _q8_0(t)) if len(t.shape) > 1 else t for t in _expert_tensors()
    ]
    pairs = model_pairs("llama", **expert_settings()) + vocabulary_pairs()
    return write_gguf(folder / "quantized.gguf", tensors, pairs)


def _q8_0(tensor: Tensor) -> bytes:
    """Blocks of 32 with a scale each, by the format's definition."""
    values = np.frombuffer(tensor.data, "<f4").reshape(-1, 32)
    scales = np.abs(values).max(axis=1, keepdims=True) / 127
    quants = np.round(values / np.where(scales == 0, 1, scales)).astype(np.int8)
    return b"".join(
        s.astype("<f2").tobytes() + q.tobytes() for s, q in zip(scales, quants, strict=True)
    )


def _mtp_head(folder: Path) -> Path:
    """The block for multi-token prediction without its trunk, as published for draft models."""
    import apex_native

    whole = derived_demo(apex_native.demo_model(), folder / "with-mtp.gguf", mtp=True)
    with open_gguf(whole) as file:
        n_blocks = int(file.metadata["qwen35moe.block_count"])
        pairs = [file.encoded_pair(key) for key in file.facts.kv_sizes]
        tensors = [
            Tensor(t.name, t.shape, t.type.id, file.tensor_bytes(t.name).tobytes())
            for t in file.tensors
            if not t.name.startswith("blk.") or t.name.startswith(f"blk.{n_blocks - 1}.")
        ]
    whole.unlink()
    return write_gguf(folder / "mtp-head.gguf", tensors, pairs)


def _unknown_architecture(folder: Path) -> Path:
    pairs = model_pairs("notyetknown", **expert_settings()) + vocabulary_pairs()
    return write_gguf(folder / "unknown.gguf", _expert_tensors(), pairs)


KINDS: dict[str, Callable[[Path], Path]] = {
    "model": _model,
    "header only": _header_only,
    "partial download": _partial_download,
    "first shard": lambda folder: _shards(folder)[0],
    "later shard": lambda folder: _shards(folder)[2],
    "missing shard": _missing_shard,
    "mmproj": _mmproj,
    "LoRA adapter": _adapter,
    "control vector": _control_vector,
    "importance matrix": _importance_matrix,
    "encoder": _encoder,
    "encoder–decoder": _encoder_decoder,
    "embedder": _embedder,
    "no vocabulary": _no_vocabulary,
    "incomplete": _incomplete,
    "zero-filled": _zero_filled,
    "already quantized": _already_quantized,
    "MTP head alone": _mtp_head,
    "unknown architecture": _unknown_architecture,
}


def write_kind(kind: str, folder: Path) -> Path:
    """Write the file of a kind into an empty folder; what to hand to the verbs."""
    folder.mkdir(parents=True, exist_ok=True)
    return KINDS[kind](folder)
