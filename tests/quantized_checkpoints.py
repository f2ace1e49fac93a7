"""Tiny checkpoints whose weights are quantized already, in the forms in which models are published.

Made by hand from a Qwen3-MoE: the libraries that make real ones need GPUs. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from checkpoint_models import MOE, TEXT, edit_config, edit_tensors, save_model

GROUP = 32
SIZES = {**TEXT, **MOE, "hidden_size": 256, "moe_intermediate_size": 64, "intermediate_size": 128}

Tensors = dict[str, torch.Tensor]
Pack = Callable[[str, torch.Tensor], Tensors]


def qwen3_moe(folder: Path) -> None:
    save_model(folder, "Qwen3MoeConfig", "Qwen3MoeForCausalLM", SIZES)


def quantized(pack: Pack, **config: Any) -> Callable[[Path], None]:
    """A model whose projections were replaced by what pack makes of each: name and tensor."""

    def made(folder: Path) -> None:
        qwen3_moe(folder)

        def edit(tensors: Tensors) -> None:
            for name in [name for name in tensors if "_proj.weight" in name]:
                tensors.update(pack(name, tensors.pop(name).float()))

        torch.manual_seed(11)
        edit_tensors(folder, edit)
        edit_config(folder, lambda found: found.update(quantization_config=config))

    return made


def packed_int32(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Eight 4-bit numbers in each int32 along a dimension, the first in the lowest bits."""
    parts = values.to(torch.int64).unflatten(dim, (-1, 8))
    shifts = torch.arange(8).mul(4).reshape([8] + [1] * (parts.ndim - dim - 2))
    words = (parts << shifts).sum(dim + 1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def grouped(weight: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers in [-most, most] and scales of groups along a row; each group reaches an end."""
    groups = weight.unflatten(-1, (-1, GROUP))
    scales = (groups.abs().amax(-1) / most).bfloat16()
    values = (groups / scales.float().unsqueeze(-1)).round().clamp(-most, most)
    return values.flatten(-2), scales


def int4(name: str, weight: torch.Tensor, *, most: int = 7) -> Tensors:
    values, scales = grouped(weight, most)
    return {
        name + "_packed": packed_int32(values + 8, 1),
        name + "_scale": scales,
        name + "_shape": torch.tensor(weight.shape),
    }


def int4_on_eights(name: str, weight: torch.Tensor) -> Tensors:
    """Groups that reach -8, as a symmetric grid may."""
    values, scales = grouped(weight, 7)
    values[:, ::GROUP] = -8
    packed = {name + "_packed": packed_int32(values + 8, 1), name + "_scale": scales}
    return {**packed, name + "_shape": torch.tensor(weight.shape)}


def int4_with_zeros(name: str, weight: torch.Tensor) -> Tensors:
    zeros = torch.randint(0, 16, (weight.shape[0], weight.shape[1] // GROUP))
    return {**int4(name, weight), name + "_zero_point": packed_int32(zeros, 0)}


def gptq(name: str, weight: torch.Tensor) -> Tensors:
    values, scales = grouped(weight, 7)
    base = name.removesuffix(".weight")
    zeros = torch.full((scales.shape[1], scales.shape[0]), 7)  # 8, stored less one
    return {
        base + ".qweight": packed_int32((values + 8).T, 0),
        base + ".qzeros": packed_int32(zeros, 1),
        base + ".scales": scales.T.half(),
        base + ".g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }


def fp8_channel(name: str, weight: torch.Tensor) -> Tensors:
    scales = weight.abs().amax(-1, keepdim=True) / 448
    return {name: (weight / scales).to(torch.float8_e4m3fn), name + "_scale": scales.bfloat16()}


def fp8_tensor(suffix: str) -> Pack:
    def pack(name: str, weight: torch.Tensor) -> Tensors:
        scale = weight.abs().max() / 448
        return {name: (weight / scale).to(torch.float8_e4m3fn), name + suffix: scale}

    return pack


def int8_channel(name: str, weight: torch.Tensor) -> Tensors:
    scales = weight.abs().amax(-1, keepdim=True) / 127
    return {name: (weight / scales).round().to(torch.int8), name + "_scale": scales}


def nvfp4(names: tuple[str, str, str, str]) -> Pack:
    """names: of codes, scales, scale of scales, scale of inputs."""

    def pack(name: str, weight: torch.Tensor) -> Tensors:
        n_rows, n_columns = weight.shape
        base = name.removesuffix("weight")
        codes = torch.randint(0, 256, (n_rows, n_columns // 2), dtype=torch.uint8)
        scales = (torch.rand(n_rows, n_columns // 16) * 100 + 1).to(torch.float8_e4m3fn)
        of_scales, of_inputs = torch.rand(2) + 0.5
        values = (codes, scales, of_scales, of_inputs)
        return {base + key: value for key, value in zip(names, values, strict=True)}

    return pack


def gpt_oss_mxfp4(folder: Path) -> None:
    """Experts as published: blocks of 32 with a scale, gate and up interleaved."""
    settings = {**TEXT, "hidden_size": 64, "intermediate_size": 64}
    save_model(
        folder, "GptOssConfig", "GptOssForCausalLM",
        {**settings, "num_local_experts": 4, "num_experts_per_tok": 2,
         "layer_types": ["sliding_attention", "full_attention"]},
    )  # fmt: skip

    def edit(tensors: Tensors) -> None:
        torch.manual_seed(5)
        for name in [
            n for n in tensors if n.endswith(("experts.down_proj", "experts.gate_up_proj"))
        ]:
            n_experts, n_in, n_out = tensors.pop(name).shape
            blocks = (n_experts, n_out, n_in // 32)
            tensors[name + "_blocks"] = torch.randint(0, 256, (*blocks, 16), dtype=torch.uint8)
            tensors[name + "_scales"] = torch.randint(110, 130, blocks, dtype=torch.uint8)

    edit_tensors(folder, edit)
    quantization = {"quant_method": "mxfp4"}
    edit_config(folder, lambda config: config.update(quantization_config=quantization))


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    """The part of a config that compressed-tensors writes."""
    group = {"weights": weights, "targets": ["Linear"], "format": format}
    return {
        "quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
    }  # fmt: skip


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
MODELOPT = ("weight", "weight_scale", "weight_scale_2", "input_scale")
COMPRESSED_NVFP4 = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")

QUANTIZED: dict[str, Callable[[Path], None]] = {
    "int4": quantized(int4, **compressed("pack-quantized", **INT4)),
    "int4_on_eights": quantized(int4_on_eights, **compressed("pack-quantized", **INT4)),
    "int4_with_zeros": quantized(
        int4_with_zeros, **compressed("pack-quantized", **{**INT4, "symmetric": False})
    ),
    "int8_channel": quantized(
        int8_channel, **compressed("int-quantized", num_bits=8, type="int", strategy="channel")
    ),
    "fp8_channel": quantized(
        fp8_channel, **compressed("float-quantized", num_bits=8, type="float", strategy="channel")
    ),
    "fp8_tensor": quantized(fp8_tensor("_scale_inv"), quant_method="fp8"),
    "modelopt_fp8": quantized(fp8_tensor("_scale"), quant_method="modelopt", quant_algo="FP8"),
    "gptq": quantized(gptq, quant_method="gptq", bits=4, group_size=GROUP, sym=True),
    "modelopt_nvfp4": quantized(nvfp4(MODELOPT), quant_method="modelopt", quant_algo="NVFP4"),
    "compressed_nvfp4": quantized(
        nvfp4(COMPRESSED_NVFP4),
        **compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group"),
    ),
    "gpt_oss_mxfp4": gpt_oss_mxfp4,
}
