"""Small models for quantization tests: enough for llama_model_quantize, quick to convert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

N_EMBD, N_FF, N_EXPERT = 512, 256, 5
"""Rows of two and of one super-block; an odd number of experts so that nothing divides evenly."""


def _bf16(weights: np.ndarray) -> np.ndarray:
    return (weights.view(np.uint32) >> 16).astype(np.uint16)


def weights(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Gaussian, with a tail, a few zeros and BF16's ties; float32 values BF16 can hold."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape, np.float32) * np.float32(0.04)
    values[rng.random(shape) < 0.002] *= 20
    values[rng.random(shape) < 0.01] = 0
    return (_bf16(values).astype(np.uint32) << 16).view(np.float32)


def tensor_shapes(n_layer: int = 2) -> dict[str, tuple[int, ...]]:
    """Name to row-major shape: experts, attention, a router, norms, embedding and output."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (100, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "output.weight": (100, N_EMBD),
    }
    for layer in range(n_layer):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (N_EMBD,),
            f"blk.{layer}.attn_q.weight": (64, N_EMBD),
            f"blk.{layer}.attn_v.weight": (33, N_EMBD),
            f"blk.{layer}.ffn_gate_inp.weight": (N_EXPERT, N_EMBD),
            f"blk.{layer}.ffn_gate_exps.weight": (N_EXPERT, N_FF, N_EMBD),
            f"blk.{layer}.ffn_up_exps.weight": (N_EXPERT, N_FF, N_EMBD),
            f"blk.{layer}.ffn_down_exps.weight": (N_EXPERT, N_EMBD, N_FF),
        }
    return shapes


def write_model(
    path: Path,
    *,
    source: str = "BF16",
    n_layer: int = 2,
    changes: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write the model with F32 norms and routers and everything else in the source type."""
    writer = GGUFWriter(path, "qwen3moe")
    writer.add_block_count(n_layer)
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_expert_feed_forward_length(N_FF)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(N_EXPERT)
    writer.add_expert_used_count(2)
    for seed, (name, shape) in enumerate(tensor_shapes(n_layer).items()):
        values = (changes or {}).get(name, weights(shape, seed))
        keep_float = len(shape) == 1 or "gate_inp" in name or source == "F32"
        if keep_float:
            writer.add_tensor(name, values)
        elif source == "F16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, _bf16(values), raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def imatrix_arrays(n_layer: int = 2) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor name to (sums, counts) float32; the last expert of layer 0 was never reached."""
    rng = np.random.default_rng(7)
    arrays = {}
    for name, shape in tensor_shapes(n_layer).items():
        if len(shape) < 2 or "gate_inp" in name or name == "token_embd.weight":
            continue
        n_slices = shape[0] if len(shape) == 3 else 1
        counts = rng.integers(1, 3000, (n_slices, 1)).astype(np.float32)
        if n_slices > 1 and name.startswith("blk.0."):
            counts[-1] = 0
        mean = rng.lognormal(0, 1.5, (n_slices, shape[-1])).astype(np.float32)
        arrays[name] = (mean * counts, counts)
    return arrays


def write_imatrix(path: Path, n_layer: int = 2, *, drop: tuple[str, ...] = ()) -> Path:
    """Write a GGUF importance matrix for the model, as llama-imatrix stores it."""
    writer = GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["templates"])
    writer.add_uint32("imatrix.chunk_count", 12)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in imatrix_arrays(n_layer).items():
        if name not in drop:
            writer.add_tensor(f"{name}.in_sum2", sums)
            writer.add_tensor(f"{name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
