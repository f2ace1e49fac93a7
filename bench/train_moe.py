"""Train a small Qwen3-MoE on a file of tokens; writes a checkpoint that `convert` reads.

    python bench/train_moe.py TOKENS.xz OUT [--seconds 200] [--steps N]

TOKENS.xz: little-endian uint16, xz. OUT: model.safetensors (BF16), config.json, train.log; the
tokenizer's files go beside them. Needs torch; made for one GPU, a CPU takes batches of 2 x 128. The
learning rate's schedule ends in time, however fast the machine is. This is how the model of
bench/results/search_second_model.md was made.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

VOCABULARY, WIDTH, LAYERS, EXPERTS, USED, HIDDEN = 4096, 512, 4, 8, 2, 512
HEADS, KV_HEADS, HEAD = 12, 4, 64
EPS, ROPE_BASE, CAPACITY = 1e-6, 1e6, 1.5
EPOCHS, WARMUP, PEAK, DROPOUT, BALANCE = 8, 150, 1.5e-3, 0.05, 0.01
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, CTX = (48, 512) if DEVICE == "cuda" else (2, 128)
ACTIVATION = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--steps", type=int, help="default: eight times through the tokens")
    return parser.parse_args()


def parameters() -> dict[str, Any]:
    """Normal, 0.02; what writes into the residual stream smaller by sqrt(2 layers)."""
    found: dict[str, Any] = {}

    def add(name: str, *shape: int, std: float = 0.02) -> None:
        weights = torch.randn(shape) * std if std else torch.ones(shape)
        found[name] = weights.to(DEVICE).requires_grad_(True)

    add("model.embed_tokens.weight", VOCABULARY, WIDTH)
    add("lm_head.weight", VOCABULARY, WIDTH)
    add("model.norm.weight", WIDTH, std=0)
    deep = 0.02 / math.sqrt(2 * LAYERS)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        add(layer + "input_layernorm.weight", WIDTH, std=0)
        add(layer + "post_attention_layernorm.weight", WIDTH, std=0)
        add(layer + "self_attn.q_proj.weight", HEADS * HEAD, WIDTH)
        add(layer + "self_attn.k_proj.weight", KV_HEADS * HEAD, WIDTH)
        add(layer + "self_attn.v_proj.weight", KV_HEADS * HEAD, WIDTH)
        add(layer + "self_attn.o_proj.weight", WIDTH, HEADS * HEAD, std=deep)
        add(layer + "self_attn.q_norm.weight", HEAD, std=0)
        add(layer + "self_attn.k_norm.weight", HEAD, std=0)
        add(layer + "mlp.gate.weight", EXPERTS, WIDTH)
        add(layer + "gate", EXPERTS, HIDDEN, WIDTH)
        add(layer + "up", EXPERTS, HIDDEN, WIDTH)
        add(layer + "down", EXPERTS, WIDTH, HIDDEN, std=deep)
    return found


def norm(x: Any, weight: Any) -> Any:
    return functional.rms_norm(x.float(), (x.shape[-1],), weight, EPS).to(x.dtype)


def rope(x: Any) -> Any:
    at = torch.arange(CTX, device=DEVICE)[:, None]
    angle = at / ROPE_BASE ** (torch.arange(0, HEAD, 2, device=DEVICE) / HEAD)
    cos, sin = torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()
    turned = torch.cat([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], -1)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def attention(h: Any, weights: dict[str, Any], layer: str) -> Any:
    def projected(kind: str, heads: int) -> Any:
        weight = weights[f"{layer}self_attn.{kind}_proj.weight"].to(ACTIVATION)
        return (h @ weight.T).view(len(h), CTX, heads, HEAD).transpose(1, 2)

    q = rope(norm(projected("q", HEADS), weights[layer + "self_attn.q_norm.weight"]))
    k = rope(norm(projected("k", KV_HEADS), weights[layer + "self_attn.k_norm.weight"]))
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, projected("v", KV_HEADS)))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = out.transpose(1, 2).reshape(len(h), CTX, HEADS * HEAD)
    return out @ weights[layer + "self_attn.o_proj.weight"].to(ACTIVATION).T


def experts(h: Any, weights: dict[str, Any], layer: str, *, drops: bool) -> tuple[Any, Any]:
    """Rows (n, WIDTH) through the chosen experts, and how unevenly these are used.

    Rows are sorted by expert into slots of one size; while training, what is beyond 1.5 times the
    mean is left out.
    """
    odds = (h.float() @ weights[layer + "mlp.gate.weight"].T).softmax(-1)
    share, chosen = odds.topk(USED, -1)
    share = share / share.sum(-1, keepdim=True)
    flat, n = chosen.view(-1), chosen.numel()
    load = torch.zeros(EXPERTS, device=DEVICE).index_add_(0, flat, torch.ones(n, device=DEVICE)) / n
    uneven = EXPERTS * (load * odds.mean(0)).sum()
    order = flat.argsort(stable=True)
    first = torch.cat([torch.zeros(1, device=DEVICE), (load * n).cumsum(0)[:-1]]).long()
    slot = torch.arange(n, device=DEVICE) - first[flat[order]]
    capacity = int(CAPACITY * n / EXPERTS) if drops else n
    fits = slot < capacity
    rows, at = order[fits], flat[order][fits] * capacity + slot[fits]
    slots = torch.zeros(EXPERTS * capacity, WIDTH, device=DEVICE, dtype=ACTIVATION)
    slots = slots.index_copy(0, at, h[rows // USED]).view(EXPERTS, capacity, WIDTH)
    gate, up, down = (weights[layer + k].to(ACTIVATION) for k in ("gate", "up", "down"))
    y = functional.silu(slots @ gate.transpose(1, 2)) * (slots @ up.transpose(1, 2))
    y = (y @ down.transpose(1, 2)).view(EXPERTS * capacity, WIDTH)[at].float()
    weighted = y * share.view(-1)[rows, None]
    zeros = torch.zeros_like(h, dtype=torch.float32)
    return zeros.index_add(0, rows // USED, weighted), uneven


def losses(ids: Any, targets: Any, weights: dict[str, Any], dropout: float) -> tuple[Any, Any]:
    """Cross-entropy, nats per token, and the mean unevenness of the layers."""
    x, uneven = functional.embedding(ids, weights["model.embed_tokens.weight"]).to(ACTIVATION), 0.0
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        h = norm(x, weights[layer + "input_layernorm.weight"])
        x = x + functional.dropout(attention(h, weights, layer), dropout)
        h = norm(x, weights[layer + "post_attention_layernorm.weight"]).view(-1, WIDTH)
        y, more = experts(h, weights, layer, drops=dropout > 0)
        uneven = uneven + more / LAYERS
        x = x + functional.dropout(y, dropout).view(x.shape).to(ACTIVATION)
    h = norm(x, weights["model.norm.weight"])
    logits = (h @ weights["lm_head.weight"].to(ACTIVATION).T).float()
    return functional.cross_entropy(logits.view(-1, VOCABULARY), targets.reshape(-1)), uneven


def save(weights: dict[str, Any], out: Path) -> None:
    """As Hugging Face's Qwen3MoeForCausalLM holds it: a tensor for each expert."""
    tensors = {}
    for name, weight in weights.items():
        stored = weight.detach().to(torch.bfloat16).cpu()
        base, _, kind = name.rpartition(".")
        if kind in ("gate", "up", "down"):
            for j in range(EXPERTS):
                tensors[f"{base}.mlp.experts.{j}.{kind}_proj.weight"] = stored[j]
        else:
            tensors[name] = stored
    table, offset = {}, 0
    for name, tensor in sorted(tensors.items()):
        end = offset + 2 * tensor.numel()
        table[name] = {"dtype": "BF16", "shape": [*tensor.shape], "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(table).encode()
    with (out / "model.tmp").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name in table:
            file.write(tensors[name].contiguous().view(torch.int16).numpy().tobytes())
    (out / "model.tmp").rename(out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config(), indent=1) + "\n")


def config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "torch_dtype": "bfloat16", "vocab_size": VOCABULARY, "hidden_size": WIDTH,
        "intermediate_size": HIDDEN, "moe_intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
        "num_experts": EXPERTS, "num_experts_per_tok": USED, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 4096,
        "rms_norm_eps": EPS, "rope_theta": ROPE_BASE, "tie_word_embeddings": False,
        "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip


def optimizer(weights: dict[str, Any]) -> Any:
    decayed = [w for name, w in weights.items() if w.ndim > 1 and "embed" not in name]
    rest = [w for name, w in weights.items() if w.ndim == 1 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=DEVICE == "cuda")


def main() -> None:
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    with (options.out / "train.log").open("w", buffering=1) as log:
        train(options, log)


def train(options: argparse.Namespace, log: Any) -> None:
    def say(line: str) -> None:
        print(line, flush=True)
        print(line, file=log)

    raw = np.frombuffer(lzma.decompress(options.tokens.read_bytes()), "<u2")
    data = torch.from_numpy(raw.astype(np.int64)).to(DEVICE)
    held, data = data[-40 * CTX - 1 :], data[: -40 * CTX - 1]
    weights = parameters()
    optimize = optimizer(weights)
    total = options.steps or EPOCHS * len(data) // (BATCH * CTX)
    say(f"{len(data)} tokens, {total} steps, {sum(w.numel() for w in weights.values())} weights")
    draw, start, step = torch.Generator().manual_seed(1), time.monotonic(), 0
    while (done := max(step / total, (time.monotonic() - start) / options.seconds)) < 1:
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        for group in optimize.param_groups:
            group["lr"] = PEAK * min(1, (step + 1) / WARMUP) * (0.05 + 0.95 * cosine)
        begin = torch.randint(0, len(data) - CTX - 1, (BATCH,), generator=draw).to(DEVICE)
        batch = data[begin[:, None] + torch.arange(CTX + 1, device=DEVICE)]
        loss, uneven = losses(batch[:, :-1], batch[:, 1:], weights, DROPOUT)
        (loss + BALANCE * uneven).backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimize.step()
        optimize.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0 or step < 4:
            say(f"{step} loss {loss.item():.4f} uneven {uneven.item():.3f}")
    with torch.no_grad():
        chunks = [(held[i : i + CTX][None], held[i + 1 : i + CTX + 1][None])
                  for i in range(0, 40 * CTX, CTX)]  # fmt: skip
        found = [losses(ids, targets, weights, 0.0)[0].item() for ids, targets in chunks]
    say(f"held out {np.mean(found):.4f} after {step} steps, {time.monotonic() - start:.1f} s")
    save(weights, options.out)


if __name__ == "__main__":
    main()
