"""A GGUF of the size and shape real quantization spends its time on, with weights made up.

2 layers of 256 experts of 2048x512 (the shape of Qwen3.5-35B-A3B) in BF16: 1.61 billion weights,
3.2 GB; or, for tiers, more layers of fewer experts. Values are Gaussian with a per-expert scale,
seeded; an importance matrix to go with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

N_EMBD = 2048
N_FF = 512
N_EXPERT = 256
N_LAYER = 2
SEED = 20261123


def expert_shapes(n_expert: int) -> dict[str, tuple[int, int, int]]:
    """Tensor base name to row-major shape."""
    return {
        "ffn_gate_exps": (n_expert, N_FF, N_EMBD),
        "ffn_up_exps": (n_expert, N_FF, N_EMBD),
        "ffn_down_exps": (n_expert, N_EMBD, N_FF),
    }


def write_model(path: Path, n_layer: int = N_LAYER, n_expert: int = N_EXPERT) -> None:
    """Write the model; one tensor is in memory at a time."""
    writer = GGUFWriter(path, "qwen3moe", use_temp_file=False)
    writer.add_block_count(n_layer)
    writer.add_context_length(4096)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_expert_feed_forward_length(N_FF)
    writer.add_head_count(16)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(n_expert)
    writer.add_expert_used_count(min(8, n_expert))
    writer.add_file_type(32)
    shapes = expert_shapes(n_expert)
    for layer in range(n_layer):
        for name, shape in shapes.items():
            n_bytes = 2 * int(np.prod(shape))
            writer.add_tensor_info(
                f"blk.{layer}.{name}.weight", shape, np.dtype(np.uint16), n_bytes,
                raw_dtype=GGMLQuantizationType.BF16,
            )  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(SEED)
    for _ in range(n_layer):
        for shape in shapes.values():
            writer.write_tensor_data(_bf16_experts(rng, shape))
    writer.close()


def _bf16_experts(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Gaussian weights truncated to BF16, uint16; each expert has a scale of its own."""
    data = np.empty(shape, np.uint16)
    for expert in range(shape[0]):
        scale = np.float32(rng.uniform(0.01, 0.05))
        weights = rng.standard_normal(shape[1:], np.float32) * scale
        data[expert] = (weights.view(np.uint32) >> 16).astype(np.uint16)
    return data


def write_imatrix(path: Path, n_layer: int = N_LAYER, n_expert: int = N_EXPERT) -> None:
    """An importance matrix for the model: log-normal activations, a different one per expert."""
    writer = GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["benchmark"])
    writer.add_uint32("imatrix.chunk_count", 100)
    writer.add_uint32("imatrix.chunk_size", 512)
    rng = np.random.default_rng(SEED + 1)
    for layer in range(n_layer):
        for name, (_, _, n_per_row) in expert_shapes(n_expert).items():
            counts = rng.integers(50, 5000, (n_expert, 1)).astype(np.float32)
            mean = rng.lognormal(0.0, 1.0, (n_expert, n_per_row)).astype(np.float32)
            tensor = f"blk.{layer}.{name}.weight"
            writer.add_tensor(f"{tensor}.in_sum2", mean * counts)
            writer.add_tensor(f"{tensor}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
