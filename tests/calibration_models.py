"""Tiny models that compute, and what their calibration must come to, worked out in numpy.

The expert model has one layer whose attention adds nothing (its output matrix is zero), so that
every input of a matrix after it can be computed here from the embeddings alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apex_native.gguf import open_gguf
from gguf_builder import Tensor, ValueType, bf16_tensor, f32_tensor, pair, write_gguf

Floats = npt.NDArray[np.float64]

N_EMBD, N_FF, N_EXPERT, N_USED = 64, 96, 5, 2
N_VOCAB = 300
BOS = 1
EPSILON = 1e-5


def vocabulary_pairs(*, add_bos: bool = True) -> list[bytes]:
    """A SentencePiece vocabulary: three special tokens, all bytes, and pieces nobody merges."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces += [f"▁piece{i}" for i in range(N_VOCAB - len(pieces))]
    kinds = [2, 3, 3, *[6] * 256]
    kinds += [1] * (N_VOCAB - len(kinds))
    return [
        pair("tokenizer.ggml.model", ValueType.STRING, "llama"),
        pair("tokenizer.ggml.tokens", ValueType.STRING, pieces),
        pair("tokenizer.ggml.scores", ValueType.F32, [-float(i) for i in range(N_VOCAB)]),
        pair("tokenizer.ggml.token_type", ValueType.I32, kinds),
        pair("tokenizer.ggml.bos_token_id", ValueType.U32, BOS),
        pair("tokenizer.ggml.eos_token_id", ValueType.U32, 2),
        pair("tokenizer.ggml.add_bos_token", ValueType.BOOL, add_bos),
    ]


def model_pairs(architecture: str, **settings: float) -> list[bytes]:
    pairs = [pair("general.architecture", ValueType.STRING, architecture)]
    common: dict[str, int | float] = {
        "block_count": 1,
        "context_length": 4096,
        "embedding_length": N_EMBD,
        "attention.layer_norm_rms_epsilon": EPSILON,
    }
    for key, value in {**common, **settings}.items():
        type = ValueType.F32 if isinstance(value, float) else ValueType.U32
        pairs.append(pair(f"{architecture}.{key.replace('__', '.')}", type, value))
    return pairs


def expert_weights(seed: int = 7) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of the expert model, row-major; the output is tied to the embeddings."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "blk.0.attn_norm.weight": (N_EMBD,),
        "blk.0.attn_q.weight": (N_EMBD, N_EMBD),
        "blk.0.attn_k.weight": (N_EMBD, N_EMBD),
        "blk.0.attn_v.weight": (N_EMBD, N_EMBD),
        "blk.0.attn_output.weight": (N_EMBD, N_EMBD),
        "blk.0.ffn_norm.weight": (N_EMBD,),
        "blk.0.ffn_gate_inp.weight": (N_EXPERT, N_EMBD),
        "blk.0.ffn_gate_exps.weight": (N_EXPERT, N_FF, N_EMBD),
        "blk.0.ffn_up_exps.weight": (N_EXPERT, N_FF, N_EMBD),
        "blk.0.ffn_down_exps.weight": (N_EXPERT, N_EMBD, N_FF),
    }
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        for name, shape in shapes.items()
    }
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] += 1
    weights["blk.0.attn_output.weight"][:] = 0
    return weights


def write_expert_model(
    path: Path,
    weights: dict[str, npt.NDArray[np.float32]] | None = None,
    *,
    in_bf16: bool = False,
) -> Path:
    """One layer of 5 experts, 2 used, tied output, in F32 or (matrices) in BF16."""
    pairs = model_pairs(
        "llama",
        feed_forward_length=N_FF,
        expert_count=N_EXPERT,
        expert_used_count=N_USED,
        attention__head_count=2,
        attention__head_count_kv=2,
        rope__dimension_count=N_EMBD // 2,
        vocab_size=N_VOCAB,
    )
    chosen = expert_weights() if weights is None else weights
    tensors = [
        bf16_tensor(name, values) if in_bf16 and values.ndim > 1 else f32_tensor(name, values)
        for name, values in chosen.items()
    ]
    return write_gguf(path, tensors, pairs + vocabulary_pairs())


def write_recurrent_model(path: Path) -> Path:
    """Mamba: one recurrent layer, no attention."""
    rng = np.random.default_rng(11)
    d_inner, d_state, dt_rank, d_conv = 2 * N_EMBD, 16, 8, 4
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "blk.0.attn_norm.weight": (N_EMBD,),
        "blk.0.ssm_in.weight": (2 * d_inner, N_EMBD),
        "blk.0.ssm_conv1d.weight": (d_inner, d_conv),
        "blk.0.ssm_conv1d.bias": (d_inner,),
        "blk.0.ssm_x.weight": (dt_rank + 2 * d_state, d_inner),
        "blk.0.ssm_dt.weight": (d_inner, dt_rank),
        "blk.0.ssm_dt.bias": (d_inner,),
        "blk.0.ssm_a": (d_inner, d_state),
        "blk.0.ssm_d": (d_inner,),
        "blk.0.ssm_out.weight": (N_EMBD, d_inner),
    }
    tensors = []
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        if name.endswith("norm.weight"):
            values += 1
        if name == "blk.0.ssm_a":
            values = -np.abs(values) - 1
        tensors.append(f32_tensor(name, values))
    pairs = model_pairs(
        "mamba",
        ssm__conv_kernel=d_conv,
        ssm__inner_size=d_inner,
        ssm__state_size=d_state,
        ssm__time_step_rank=dt_rank,
        feed_forward_length=0,
        attention__head_count=0,
    )
    return write_gguf(path, tensors, pairs + vocabulary_pairs())


def with_bos(tokens: npt.NDArray[np.int32], ctx: int) -> npt.NDArray[np.int32]:
    """Whole chunks, the first token of each replaced as llama-imatrix does."""
    chunks = tokens[: len(tokens) // ctx * ctx].reshape(-1, ctx).copy()
    chunks[:, 0] = BOS
    return chunks.ravel()


def rms_norm(x: Floats, weight: npt.NDArray[np.float32]) -> Floats:
    scale = 1 / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPSILON)
    return x * scale * weight.astype(np.float64)


@dataclass
class Expected:
    """Sums (n_slices, n_per_row) and counts (n_slices,) of every weight that can be worked out."""

    sums: dict[str, Floats]
    counts: dict[str, npt.NDArray[np.int64]]
    moments: dict[str, Floats]
    output_inputs: Floats
    """(tokens, n_per_row)"""


def expected_sums(
    weights: dict[str, npt.NDArray[np.float32]], tokens: npt.NDArray[np.int32]
) -> Expected:
    """What calibration of the expert model on these tokens (BOS in place) must collect."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    x = w["token_embd.weight"][tokens]
    attention = rms_norm(x, weights["blk.0.attn_norm.weight"])
    hidden = rms_norm(x, weights["blk.0.ffn_norm.weight"])
    logits = hidden @ w["blk.0.ffn_gate_inp.weight"].T
    chosen = np.argsort(-logits, axis=1)[:, :N_USED]
    result = Expected({}, {}, {}, np.empty(0))

    def dense(name: str, inputs: Floats) -> None:
        result.sums[name] = (inputs**2).sum(axis=0, keepdims=True)
        result.counts[name] = np.array([len(inputs)])
        result.moments[name] = (inputs.T @ inputs)[None]

    for kind in "qkv":
        dense(f"blk.0.attn_{kind}.weight", attention)
    dense("blk.0.ffn_gate_inp.weight", hidden)
    mixed = np.zeros_like(x)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = np.take_along_axis(probabilities, chosen, 1)
    shares /= shares.sum(axis=1, keepdims=True)
    up_sums = np.zeros((N_EXPERT, N_EMBD))
    down_sums = np.zeros((N_EXPERT, N_FF))
    counts = np.zeros(N_EXPERT, np.int64)
    up_moments = np.zeros((N_EXPERT, N_EMBD, N_EMBD))
    down_moments = np.zeros((N_EXPERT, N_FF, N_FF))
    for expert in range(N_EXPERT):
        rows, slots = np.nonzero(chosen == expert)
        own = hidden[rows]
        gate = own @ w["blk.0.ffn_gate_exps.weight"][expert].T
        active = gate / (1 + np.exp(-gate)) * (own @ w["blk.0.ffn_up_exps.weight"][expert].T)
        up_sums[expert] = (own**2).sum(axis=0)
        down_sums[expert] = (active**2).sum(axis=0)
        up_moments[expert], down_moments[expert] = own.T @ own, active.T @ active
        counts[expert] = len(rows)
        share = shares[rows, slots][:, None]
        mixed[rows] += share * (active @ w["blk.0.ffn_down_exps.weight"][expert].T)
    for kind, sums in (("gate", up_sums), ("up", up_sums), ("down", down_sums)):
        result.sums[f"blk.0.ffn_{kind}_exps.weight"] = sums
        result.counts[f"blk.0.ffn_{kind}_exps.weight"] = counts
        moments = down_moments if kind == "down" else up_moments
        result.moments[f"blk.0.ffn_{kind}_exps.weight"] = moments
    output_inputs = rms_norm(x + mixed, weights["output_norm.weight"])
    dense("token_embd.weight", output_inputs)
    return replace(result, output_inputs=output_inputs)


def derived_demo(source: Path, path: Path, *, fuse: bool = False, mtp: bool = False) -> Path:
    """The demo model with gate and up fused, or with an MTP block made of its last layer."""
    with open_gguf(source) as file:
        stored = {t.name: (t.shape, t.type.id, file.tensor_bytes(t.name)) for t in file.tensors}
        replaced = {"qwen35moe.block_count", "qwen35moe.attention.recurrent_layers"}
        pairs = [file.encoded_pair(key) for key in file.facts.kv_sizes if key not in replaced]
        n_layer = int(file.metadata["qwen35moe.block_count"])
        recurrent = [bool(x) for x in file.metadata["qwen35moe.attention.recurrent_layers"]]
    recurrent += [False] * mtp
    pairs.append(pair("qwen35moe.block_count", ValueType.U32, len(recurrent)))
    pairs.append(pair("qwen35moe.attention.recurrent_layers", ValueType.BOOL, recurrent))
    tensors = [
        Tensor(name, shape, type, data.tobytes()) for name, (shape, type, data) in stored.items()
    ]
    if mtp:
        pairs.append(pair("qwen35moe.nextn_predict_layers", ValueType.U32, 1))
        tensors += _mtp_block(tensors, n_layer)
    return write_gguf(path, _fused(tensors) if fuse else tensors, pairs)


def _mtp_block(tensors: list[Tensor], layer: int) -> list[Tensor]:
    last = f"blk.{layer - 1}."
    block = [
        Tensor(t.name.replace(last, f"blk.{layer}."), t.shape, t.type, t.data)
        for t in tensors
        if t.name.startswith(last)
    ]
    n_embd = next(t.shape[-1] for t in tensors if t.name == "token_embd.weight")
    rng = np.random.default_rng(3)
    nextn = f"blk.{layer}.nextn."
    return [
        *block,
        f32_tensor(f"{nextn}eh_proj.weight", rng.standard_normal((n_embd, 2 * n_embd)) * 0.05),
        f32_tensor(f"{nextn}enorm.weight", rng.uniform(0.5, 1.5, n_embd)),
        f32_tensor(f"{nextn}hnorm.weight", rng.uniform(0.5, 1.5, n_embd)),
    ]


def _fused(tensors: list[Tensor]) -> list[Tensor]:
    by_name = {t.name: t for t in tensors}
    result = []
    for tensor in tensors:
        if "ffn_up_exps" in tensor.name:
            continue
        if "ffn_gate_exps" not in tensor.name:
            result.append(tensor)
            continue
        up = by_name[tensor.name.replace("gate_exps", "up_exps")]
        n_expert, n_ff, n_embd = tensor.shape
        halves = [np.frombuffer(t.data, np.uint8).reshape(n_expert, -1) for t in (tensor, up)]
        data = np.concatenate(halves, axis=1).tobytes()
        name = tensor.name.replace("gate_exps", "gate_up_exps")
        result.append(Tensor(name, (n_expert, 2 * n_ff, n_embd), tensor.type, data))
    return result
