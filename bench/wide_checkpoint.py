"""A checkpoint of Qwen3-30B-A3B's widths with random weights, as many layers of it as wanted.

    python bench/wide_checkpoint.py FOLDER [--layers 6] [--experts 128]

As published: a tensor for each expert's matrix, BF16, shards of 4 GB with an index. 6 layers are
8.5 GB. Needs the extra `convert` for its tokenizer, which is a tiny one of the tests.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

__all__ = ["WideCheckpoint", "write_wide_checkpoint"]

BLOCK = 16_777_213
"""Random values that repeat; a prime, so that no two rows of a tensor are the same."""

SHARD_BYTES = 4_000_000_000

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WideCheckpoint:
    """Which model; the defaults are Qwen3-30B-A3B's but for the number of layers."""

    n_layers: int = 6
    n_experts: int = 128
    n_vocab: int = 151_936
    n_embd: int = 2048
    n_ff: int = 768
    n_head: int = 32
    n_head_kv: int = 4
    head_dim: int = 128

    def config(self) -> dict[str, object]:
        """config.json."""
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "torch_dtype": "bfloat16",
            "vocab_size": self.n_vocab,
            "hidden_size": self.n_embd,
            "intermediate_size": 6144,
            "moe_intermediate_size": self.n_ff,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_head,
            "num_key_value_heads": self.n_head_kv,
            "head_dim": self.head_dim,
            "num_experts": self.n_experts,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
        }

    def tensors(self) -> dict[str, Shape]:
        """Name and shape of every tensor."""
        n, heads, kv = self.n_embd, self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        shapes: dict[str, Shape] = {"model.embed_tokens.weight": (self.n_vocab, n)}
        for layer in range(self.n_layers):
            at = f"model.layers.{layer}."
            shapes |= {
                f"{at}input_layernorm.weight": (n,),
                f"{at}post_attention_layernorm.weight": (n,),
                f"{at}self_attn.q_proj.weight": (heads, n),
                f"{at}self_attn.k_proj.weight": (kv, n),
                f"{at}self_attn.v_proj.weight": (kv, n),
                f"{at}self_attn.o_proj.weight": (n, heads),
                f"{at}self_attn.q_norm.weight": (self.head_dim,),
                f"{at}self_attn.k_norm.weight": (self.head_dim,),
                f"{at}mlp.gate.weight": (self.n_experts, n),
            }
            for expert in range(self.n_experts):
                shapes |= {
                    f"{at}mlp.experts.{expert}.gate_proj.weight": (self.n_ff, n),
                    f"{at}mlp.experts.{expert}.up_proj.weight": (self.n_ff, n),
                    f"{at}mlp.experts.{expert}.down_proj.weight": (n, self.n_ff),
                }
        return {**shapes, "model.norm.weight": (n,), "lm_head.weight": (self.n_vocab, n)}


def write_wide_checkpoint(folder: Path, model: WideCheckpoint) -> int:
    """Write config, tokenizer and weights; their bytes."""
    from checkpoint_models import save_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(model.config()))
    shards: list[dict[str, Shape]] = [{}]
    taken = 0
    for name, shape in model.tensors().items():
        nbytes = 2 * int(np.prod(shape))
        if taken + nbytes > SHARD_BYTES:
            shards.append({})
            taken = 0
        shards[-1][name] = shape
        taken += nbytes
    random = np.random.default_rng(1).standard_normal(BLOCK, np.float32) * np.float32(0.02)
    values = (random.view(np.uint32) >> 16).astype(np.uint16)  # BF16, cut off
    weight_map = {}
    for i, shapes in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shapes, values)
        weight_map |= dict.fromkeys(shapes, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_shard(path: Path, shapes: dict[str, Shape], values: npt.NDArray[np.uint16]) -> None:
    table, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * int(np.prod(shape))
        table[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        place = 0
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                n = min(left, BLOCK - place)
                file.write(values[place : place + n].data)
                place, left = (place + n) % BLOCK, left - n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--experts", type=int, default=128)
    arguments = parser.parse_args()
    model = WideCheckpoint(n_layers=arguments.layers, n_experts=arguments.experts)
    print(f"{write_wide_checkpoint(arguments.folder, model):,} bytes of weights")


if __name__ == "__main__":
    main()
