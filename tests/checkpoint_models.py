"""Tiny random checkpoints, one for each family, as transformers saves them.

Needs torch and transformers; import it behind `pytest.importorskip`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
N_VOCAB = 320
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|observation|>"),
    *("[gMASK]", "<sop>", "<unk>"),
]

TEXT = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
MOE = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "shared_expert_intermediate_size": 32,
}
MLA = {
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
}


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE of a few merges, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, the cat sat on the mat"] * 10, trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def save_sentencepiece(folder: Path) -> None:
    """tokenizer.model, which families with Llama's first tokenizer come with."""
    text = "the quick brown fox jumps over the lazy dog, hello world; pack my box with jugs"
    rng = random.Random(3)
    lines = ["".join(rng.choices(text, k=60)) for _ in range(400)]
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, vocab_size=300, model_type="bpe",
            byte_fallback=True, minloglevel=2,
        )  # fmt: skip


def save_llama_tokenizer(folder: Path) -> None:
    """Merges over plain text with bytes to fall back to."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    vocabulary |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    for token in ("a", "b", "c", "▁", "ab", "▁a"):
        vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [("a", "b"), ("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        unk_token="<unk>", chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip


def save_model(
    folder: Path,
    config_class: str,
    model_class: str,
    settings: Mapping[str, Any],
    dtype: torch.dtype = torch.bfloat16,
    **save: Any,
) -> None:
    torch.manual_seed(7)
    config = getattr(transformers, config_class)(**settings)
    config.architectures = [model_class]
    model = getattr(transformers, model_class)(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # ones and zeros would hide an order that is wrong
            parameter.copy_(torch.randn_like(parameter.float()) * 0.05 + 0.01)
    model.save_pretrained(folder, **save)
    save_tokenizer(folder)


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, {"format": "pt"})


def with_tokenizer(
    model: Callable[[Path], None], save: Callable[[Path], None]
) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        model(folder)
        save(folder)

    return made


def with_config(model: Callable[[Path], None], **settings: Any) -> Callable[[Path], None]:
    """With keys that transformers' own class drops and published checkpoints have."""

    def made(folder: Path) -> None:
        model(folder)
        edit_config(folder, lambda config: config.update(settings))

    return made


def text_model(config: str, model: str, **settings: Any) -> Callable[[Path], None]:
    return lambda folder: save_model(folder, config, model, {**TEXT, **settings})


def as_fp8(folder: Path) -> None:
    """Weights in blocks of 32 x 32 with a scale each, as DeepSeek-V3 is published."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name, weight in list(tensors.items()):
            if "_proj." not in name or weight.ndim != 2:
                continue
            rows, columns = -(-weight.shape[0] // 32), -(-weight.shape[1] // 32)
            tensors[name] = (weight.float() * 100).to(torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = torch.rand(rows, columns) * 0.01 + 0.001

    edit_tensors(folder, edit)
    quantized = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    edit_config(folder, lambda config: config.update(quantization_config=quantized))


def deepseek_v3(folder: Path) -> None:
    save_model(folder, "DeepseekV3Config", "DeepseekV3ForCausalLM", {**TEXT, **MLA})
    edit_config(folder, lambda config: config.update(num_nextn_predict_layers=0))


def deepseek_v3_fp8(folder: Path) -> None:
    deepseek_v3(folder)
    as_fp8(folder)


def qwen3_5_moe(folder: Path, **changes: Any) -> None:
    """Published Qwen3.5 has a vision tower and a layer for multi-token prediction.

    transformers drops the latter without a word and keeps the count: it is put back by hand.
    """
    text = {**TEXT, **MOE, **LINEAR, "mtp_num_hidden_layers": 1, **changes}
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4,
        "out_hidden_size": text["hidden_size"], "num_position_embeddings": 16,
        "deepstack_visual_indexes": [],
    }  # fmt: skip
    save_model(
        folder,
        "Qwen3_5MoeConfig",
        "Qwen3_5MoeForConditionalGeneration",
        {"text_config": text, "vision_config": vision},
    )
    edit_tensors(folder, add_mtp_layer)
    edit_config(folder, lambda config: config["text_config"].update(mtp_num_hidden_layers=1))
    preprocessor = {
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "patch_size": 4,
        "size": {"longest_edge": 4096, "shortest_edge": 256},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def kimi_linear(folder: Path) -> None:
    """Published dense layers have an `mlp`; transformers names all layers alike."""
    settings = {**TEXT, **MLA, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}
    save_model(folder, "KimiLinearConfig", "KimiLinearForCausalLM", settings)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".layers.0.block_sparse_moe." in name]:
            tensors[name.replace("block_sparse_moe", "mlp")] = tensors.pop(name)

    edit_tensors(folder, rename)
    layers = {"kda_layers": [1], "full_attn_layers": [2]}
    sizes = {"num_heads": 4, "head_dim": 16, "short_conv_kernel_size": 4}
    edit_config(folder, lambda config: config.update(linear_attn_config={**layers, **sizes}))


def qwen3_next(folder: Path) -> None:
    save_model(folder, "Qwen3NextConfig", "Qwen3NextForCausalLM", {**TEXT, **MOE, **LINEAR})
    edit_tensors(folder, add_mtp_layer)


def add_mtp_layer(tensors: dict[str, torch.Tensor]) -> None:
    last = next(name for name in tensors if ".layers.1.self_attn.q_proj" in name)
    prefix = last.partition("self_attn")[0]
    for name, tensor in list(tensors.items()):
        if name.startswith(prefix):
            tensors["mtp.layers.0." + name.removeprefix(prefix)] = tensor + 0.01
    width = tensors["mtp.layers.0.input_layernorm.weight"].shape[0]
    norm = torch.randn(width).bfloat16() * 0.1
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        tensors[f"mtp.{name}.weight"] = norm + 0.5
    tensors["mtp.fc.weight"] = torch.randn(width, 2 * width).bfloat16() * 0.1


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llama": text_model("LlamaConfig", "LlamaForCausalLM"),
    "qwen3": text_model("Qwen3Config", "Qwen3ForCausalLM", tie_word_embeddings=True),
    "mixtral": text_model("MixtralConfig", "MixtralForCausalLM", num_local_experts=4),
    "qwen2_moe": text_model(
        "Qwen2MoeConfig", "Qwen2MoeForCausalLM", **MOE, shared_expert_intermediate_size=48
    ),
    "qwen3_moe": text_model(
        "Qwen3MoeConfig", "Qwen3MoeForCausalLM", **MOE, hidden_size=256, num_hidden_layers=3,
    ),
    "qwen3_next": qwen3_next,
    "qwen3_5_moe": qwen3_5_moe,
    "deepseek_v2": text_model("DeepseekV2Config", "DeepseekV2ForCausalLM", **MLA),
    "deepseek_v3": deepseek_v3,
    "deepseek_v3_fp8": deepseek_v3_fp8,
    "glm4_moe": text_model(
        "Glm4MoeConfig", "Glm4MoeForCausalLM", moe_intermediate_size=32, n_routed_experts=4,
        num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
    ),
    "gpt_oss": text_model(
        "GptOssConfig", "GptOssForCausalLM", num_local_experts=4, num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "olmoe": text_model("OlmoeConfig", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2),
    "granite_hybrid": text_model(
        "GraniteMoeHybridConfig", "GraniteMoeHybridForCausalLM", num_local_experts=4,
        num_experts_per_tok=2, shared_intermediate_size=48, layer_types=["mamba", "attention"],
        mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_n_groups=1, mamba_d_conv=4,
    ),
    "ernie4_5_moe": with_tokenizer(text_model(
        "Ernie4_5_MoeConfig", "Ernie4_5_MoeForCausalLM", moe_num_experts=4, moe_k=2,
        moe_intermediate_size=32, moe_num_shared_experts=1, moe_layer_start_index=1,
    ), save_sentencepiece),
    "llama4": text_model(
        "Llama4TextConfig", "Llama4ForCausalLM", num_local_experts=4, num_experts_per_tok=1,
        intermediate_size_mlp=96, interleave_moe_layer_step=1,
    ),
    "minimax_m2": with_config(text_model(
        "MiniMaxM2Config", "MiniMaxM2ForCausalLM", num_local_experts=4, num_experts_per_tok=2,
    ), rotary_dim=8),
    "nemotron_h": text_model(
        "NemotronHConfig", "NemotronHForCausalLM", layers_block_type=["mamba", "moe"],
        mamba_num_heads=8, mamba_head_dim=16, ssm_state_size=16, n_groups=1, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32, moe_shared_expert_intermediate_size=32,
    ),
    "gemma4": with_tokenizer(text_model(
        "Gemma4TextConfig", "Gemma4ForCausalLM", num_experts=4, top_k_experts=2,
        moe_intermediate_size=32, enable_moe_block=True, num_hidden_layers=6,
    ), save_llama_tokenizer),
    "kimi_linear": kimi_linear,
    "lfm2_moe": text_model(
        "Lfm2MoeConfig", "Lfm2MoeForCausalLM", **MOE, num_dense_layers=1,
        layer_types=["conv", "full_attention"],
    ),
}  # fmt: skip
