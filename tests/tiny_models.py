"""Models of a dense, a mixture-of-experts and a recurrent architecture: random weights, real words.

The vocabulary is the demo model's, so that any text can be asked of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

import apex_native

N_EMBD, N_LAYER, N_FF = 64, 2, 96
N_EXPERT, N_EXPERT_USED = 4, 2
D_CONV, D_INNER, D_STATE, DT_RANK = 4, 128, 8, 4

ARCHITECTURES = ("llama", "qwen3moe", "mamba")


def write_tiny_model(path: Path, architecture: str, *, n_ctx: int = 512) -> Path:
    """Write a model of one of ARCHITECTURES, the same for every call."""
    reader = GGUFReader(apex_native.demo_model())
    writer = GGUFWriter(path, architecture)
    n_vocab = _copy_vocabulary(reader, writer)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {
        "token_embd.weight": (n_vocab, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "output.weight": (n_vocab, N_EMBD),
    }
    for layer in range(N_LAYER):
        block = {"llama": _dense, "qwen3moe": _experts, "mamba": _recurrent}[architecture]()
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    _add_settings(writer, architecture)
    rng = np.random.default_rng(5)
    for name, shape in shapes.items():
        writer.add_tensor(name, _values(rng, name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _copy_vocabulary(reader: GGUFReader, writer: GGUFWriter) -> int:
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    return len(reader.fields["tokenizer.ggml.tokens"].data)


def _add_settings(writer: GGUFWriter, architecture: str) -> None:
    if architecture == "mamba":
        writer.add_ssm_conv_kernel(D_CONV)
        writer.add_ssm_inner_size(D_INNER)
        writer.add_ssm_state_size(D_STATE)
        writer.add_ssm_time_step_rank(DT_RANK)
        return
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(N_FF)
    if architecture == "qwen3moe":
        writer.add_key_length(N_EMBD // 4)
        writer.add_value_length(N_EMBD // 4)
        writer.add_expert_count(N_EXPERT)
        writer.add_expert_used_count(N_EXPERT_USED)
        writer.add_expert_feed_forward_length(N_FF)


def _attention() -> dict[str, tuple[int, ...]]:
    return {
        "attn_norm.weight": (N_EMBD,),
        "attn_q.weight": (N_EMBD, N_EMBD),
        "attn_k.weight": (N_EMBD // 2, N_EMBD),
        "attn_v.weight": (N_EMBD // 2, N_EMBD),
        "attn_output.weight": (N_EMBD, N_EMBD),
        "ffn_norm.weight": (N_EMBD,),
    }


def _dense() -> dict[str, tuple[int, ...]]:
    return _attention() | {
        "ffn_gate.weight": (N_FF, N_EMBD),
        "ffn_up.weight": (N_FF, N_EMBD),
        "ffn_down.weight": (N_EMBD, N_FF),
    }


def _experts() -> dict[str, tuple[int, ...]]:
    return _attention() | {
        "attn_q_norm.weight": (N_EMBD // 4,),
        "attn_k_norm.weight": (N_EMBD // 4,),
        "ffn_gate_inp.weight": (N_EXPERT, N_EMBD),
        "ffn_gate_exps.weight": (N_EXPERT, N_FF, N_EMBD),
        "ffn_up_exps.weight": (N_EXPERT, N_FF, N_EMBD),
        "ffn_down_exps.weight": (N_EXPERT, N_EMBD, N_FF),
    }


def _recurrent() -> dict[str, tuple[int, ...]]:
    return {
        "attn_norm.weight": (N_EMBD,),
        "ssm_in.weight": (2 * D_INNER, N_EMBD),
        "ssm_conv1d.weight": (D_INNER, D_CONV),
        "ssm_conv1d.bias": (D_INNER,),
        "ssm_x.weight": (DT_RANK + 2 * D_STATE, D_INNER),
        "ssm_dt.weight": (D_INNER, DT_RANK),
        "ssm_dt.bias": (D_INNER,),
        "ssm_a": (D_INNER, D_STATE),
        "ssm_d": (D_INNER,),
        "ssm_out.weight": (N_EMBD, D_INNER),
    }


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    if name.endswith("ssm_a"):
        return -np.abs(rng.standard_normal(shape)).astype(np.float32)
    # Large enough that what came before decides about the next token.
    scale = 1.0 if name == "token_embd.weight" else 3.0 / np.sqrt(shape[-1])
    return (rng.standard_normal(shape) * scale).astype(np.float32)
