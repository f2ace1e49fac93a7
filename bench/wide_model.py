"""A model of Qwen3.5-35B-A3B's widths with random weights, as many layers of it as wanted.

    python bench/wide_model.py OUT.gguf [--layers 4] [--type F16|BF16] [--experts 256]
        [--vocabulary 248320]

What depends on widths (kernels, memory, batch shapes) does not depend on what a model says, so
random weights of sane scale do. 40 layers are 64.6 GiB in F16 and take a minute where OUT lies in
memory, 4 layers are 8.2 GiB. The tokenizer is the demo model's; the rest of the vocabulary are
names that no text spells.
"""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

__all__ = ["WideModel", "write_wide_model"]

FULL_ATTENTION_EVERY = 4
BLOCK = 16_777_213
"""Random values that repeat; a prime, so that no two rows of a tensor are the same."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WideModel:
    """Which model; the defaults are Qwen3.5-35B-A3B's but for the number of layers."""

    n_layers: int = 4
    type: str = "F16"
    n_experts: int = 256
    n_vocab: int = 248_320
    n_embd: int = 2048
    n_ff: int = 512

    def tensors(self) -> dict[str, Shape]:
        """Name and shape of every tensor, rows last."""
        shapes: dict[str, Shape] = {
            "token_embd.weight": (self.n_vocab, self.n_embd),
            "output.weight": (self.n_vocab, self.n_embd),
            "output_norm.weight": (self.n_embd,),
        }
        for layer in range(self.n_layers):
            is_full = (layer + 1) % FULL_ATTENTION_EVERY == 0
            block = self._experts() | (self._attention() if is_full else self._recurrent())
            shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
        return shapes

    def _experts(self) -> dict[str, Shape]:
        n, ff, experts = self.n_embd, self.n_ff, self.n_experts
        return {
            "attn_norm.weight": (n,),
            "post_attention_norm.weight": (n,),
            "ffn_gate_inp.weight": (experts, n),
            "ffn_gate_inp_shexp.weight": (n,),
            "ffn_gate_exps.weight": (experts, ff, n),
            "ffn_up_exps.weight": (experts, ff, n),
            "ffn_down_exps.weight": (experts, n, ff),
            "ffn_gate_shexp.weight": (ff, n),
            "ffn_up_shexp.weight": (ff, n),
            "ffn_down_shexp.weight": (n, ff),
        }

    def _recurrent(self) -> dict[str, Shape]:
        n = self.n_embd
        return {
            "attn_qkv.weight": (8192, n),
            "attn_gate.weight": (4096, n),
            "ssm_out.weight": (n, 4096),
            "ssm_alpha.weight": (32, n),
            "ssm_beta.weight": (32, n),
            "ssm_conv1d.weight": (8192, 4),
            "ssm_a": (32,),
            "ssm_dt.bias": (32,),
            "ssm_norm.weight": (128,),
        }

    def _attention(self) -> dict[str, Shape]:
        n = self.n_embd
        return {
            "attn_q.weight": (8192, n),
            "attn_k.weight": (512, n),
            "attn_v.weight": (512, n),
            "attn_output.weight": (n, 4096),
            "attn_q_norm.weight": (256,),
            "attn_k_norm.weight": (256,),
        }


def write_wide_model(path: Path, model: WideModel, *, tokenizer: Path) -> Path:
    """Write the model with the tokenizer of another one; the same bytes for every call."""
    writer = GGUFWriter(path, "qwen35moe")
    _add_settings(writer, model)
    _add_vocabulary(writer, GGUFReader(tokenizer), model.n_vocab)
    shapes = model.tensors()
    for name, shape in shapes.items():
        kind = GGMLQuantizationType[model.type if _is_matrix(name, shape) else "F32"]
        width = 4 if kind == GGMLQuantizationType.F32 else 2
        values = np.dtype(np.float32 if width == 4 else np.float16)
        writer.add_tensor_info(name, shape, values, width * math.prod(shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    _write_data(path, shapes, model.type)
    return path


def _add_settings(writer: GGUFWriter, model: WideModel) -> None:
    writer.add_name(f"Qwen3.5-35B-A3B, {model.n_layers} layers of random weights")
    writer.add_block_count(model.n_layers)
    writer.add_context_length(262_144)
    writer.add_embedding_length(model.n_embd)
    writer.add_head_count(16)
    writer.add_head_count_kv(2)
    writer.add_key_length(256)
    writer.add_value_length(256)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(model.n_experts)
    writer.add_expert_used_count(8)
    writer.add_expert_feed_forward_length(model.n_ff)
    writer.add_expert_shared_feed_forward_length(model.n_ff)
    writer.add_vocab_size(model.n_vocab)
    writer.add_full_attention_interval(FULL_ATTENTION_EVERY)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(4096)
    writer.add_ssm_state_size(128)
    writer.add_ssm_group_count(16)
    writer.add_ssm_time_step_rank(32)
    writer.add_rope_dimension_count(64)
    writer.add_rope_dimension_sections([11, 11, 10, 0])
    writer.add_rope_freq_base(10_000_000.0)


def _add_vocabulary(writer: GGUFWriter, reader: GGUFReader, n_vocab: int) -> None:
    for key, field in reader.fields.items():
        if not key.startswith("tokenizer."):
            continue
        value = field.contents()
        if key == "tokenizer.ggml.tokens":
            value = [*value, *(f"<unspelled {i}>" for i in range(n_vocab - len(value)))]
        elif key == "tokenizer.ggml.token_type":
            value = [*value, *([1] * (n_vocab - len(value)))]
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, value, field.types[0], sub_type)


def _is_matrix(name: str, shape: Shape) -> bool:
    return len(shape) > 1 and not name.endswith(("conv1d.weight", "ffn_gate_inp.weight"))


def _write_data(path: Path, shapes: dict[str, Shape], kind: str) -> None:
    random = np.random.default_rng(1)
    block = random.standard_normal(BLOCK, np.float32)
    scaled: dict[float, memoryview] = {}
    position = path.stat().st_size + -path.stat().st_size % 32
    with path.open("r+b", buffering=0) as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = []
        for name, shape in shapes.items():
            if _is_matrix(name, shape):
                scale = _scale(name, shape)
                if scale not in scaled:
                    scaled[scale] = memoryview(_to_16_bits(block * np.float32(scale), kind)).cast(
                        "B"
                    )
                n_bytes, values = 2 * math.prod(shape), scaled[scale]
            else:
                small = _small(name, shape, random)
                n_bytes, values = small.nbytes, memoryview(small).cast("B")
            jobs += [
                pool.submit(_write_at, file.fileno(), values[: n_bytes - at], position + at)
                for at in range(0, n_bytes, len(values))
            ]
            position += n_bytes + -n_bytes % 32
        os.ftruncate(file.fileno(), position)
        for job in jobs:
            job.result()


def _scale(name: str, shape: Shape) -> float:
    if name == "token_embd.weight":
        return 0.02
    return 0.05 if name == "output.weight" else shape[-1] ** -0.5


def _to_16_bits(values: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.uint16]:
    if kind == "F16":
        return values.astype(np.float16).view(np.uint16)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _small(name: str, shape: Shape, random: np.random.Generator) -> npt.NDArray[np.float32]:
    if "norm" in name:
        return np.ones(shape, np.float32)
    if name.endswith("ssm_a"):
        return -random.uniform(0.1, 1, shape).astype(np.float32)
    if name.endswith("dt.bias"):
        return random.uniform(-4, -2, shape).astype(np.float32)
    scale = 0.3 if name.endswith("conv1d.weight") else 0.02
    return (random.standard_normal(shape) * scale).astype(np.float32)


def _write_at(descriptor: int, values: memoryview, offset: int) -> None:
    done = 0
    while done < len(values):
        done += os.pwrite(descriptor, values[done : done + (64 << 20)], offset + done)


def main() -> None:
    import apex_native

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--type", choices=("F16", "BF16"), default="F16")
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=248_320)
    args = parser.parse_args()
    model = WideModel(args.layers, args.type, args.experts, args.vocabulary)
    write_wide_model(args.out, model, tokenizer=apex_native.demo_model())


if __name__ == "__main__":
    main()
