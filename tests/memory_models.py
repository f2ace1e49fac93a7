"""Headers of small models of many architectures, and what their caches hold by the papers.

Every builder gives a header without data and, layer by layer, the values a token adds to K and V,
the cells of that layer, and the F32 values of a recurrent layer. Nothing of apex_native.memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from apex_native.types import GgmlType, Role
from plan_tables import STRING, Table, add_dense_ffn, add_experts, add_frame

N_EMBD, N_HEAD, N_KV, HEAD, N_FF, N_VOCAB, N_LAYER = 256, 4, 2, 64, 384, 512, 6
WINDOW, UBATCH = 128, 512


@dataclass
class Expected:
    """k and v: values a cell; window: cells of a sliding layer; state: F32 values in all."""

    table: Table
    k: list[int] = field(default_factory=list)
    v: list[int] = field(default_factory=list)
    window: list[int | None] = field(default_factory=list)
    state: list[int] = field(default_factory=list)

    def layer(self, k: int, v: int, *, window: int | None = None, state: int = 0) -> None:
        self.k.append(k)
        self.v.append(v)
        self.window.append(window)
        self.state.append(state)


def _start(architecture: str, *, tied: bool = False, **hparams: object) -> Expected:
    table = Table(architecture, N_LAYER)
    table.set("tokenizer.ggml.model", STRING, "none")
    table.hparams(vocab_size=N_VOCAB, context_length=32768, embedding_length=N_EMBD)
    table.hparams(attention__head_count=N_HEAD, attention__head_count_kv=N_KV)
    table.hparams(feed_forward_length=N_FF, attention__layer_norm_rms_epsilon=1e-5)
    table.hparams(attention__key_length=HEAD, attention__value_length=HEAD)
    table.hparams(**hparams)
    add_frame(table, N_EMBD, N_VOCAB, tied=tied)
    return Expected(table)


def _norms(table: Table, layer: int, *names: str, width: int = N_EMBD) -> None:
    for name in names:
        table.add(f"blk.{layer}.{name}.weight", (width,), Role.NORM)


def _attention(table: Table, layer: int, *, head: int = HEAD) -> None:
    for part, width in (("q", N_HEAD * head), ("k", N_KV * head), ("v", N_KV * head)):
        table.add(f"blk.{layer}.attn_{part}.weight", (N_EMBD, width), Role.ATTENTION)
    table.add(f"blk.{layer}.attn_output.weight", (N_HEAD * head, N_EMBD), Role.ATTENTION)


def llama() -> Expected:
    made = _start("llama")
    for layer in range(N_LAYER):
        _norms(made.table, layer, "attn_norm", "ffn_norm")
        _attention(made.table, layer)
        add_dense_ffn(made.table, layer, N_EMBD, N_FF)
        made.layer(N_KV * HEAD, N_KV * HEAD)
    return made


def qwen2() -> Expected:
    made = _start("qwen2")
    for layer in range(N_LAYER):
        _norms(made.table, layer, "attn_norm", "ffn_norm")
        _attention(made.table, layer)
        for part, width in (("q", N_HEAD * HEAD), ("k", N_KV * HEAD), ("v", N_KV * HEAD)):
            made.table.add(f"blk.{layer}.attn_{part}.bias", (width,), Role.ATTENTION)
        add_dense_ffn(made.table, layer, N_EMBD, N_FF)
        made.layer(N_KV * HEAD, N_KV * HEAD)
    return made


def qwen3moe() -> Expected:
    made = _start("qwen3moe", expert_count=8, expert_used_count=2, expert_feed_forward_length=N_FF)
    for layer in range(N_LAYER):
        _norms(made.table, layer, "attn_norm", "ffn_norm")
        _norms(made.table, layer, "attn_q_norm", "attn_k_norm", width=HEAD)
        _attention(made.table, layer)
        add_experts(made.table, layer, N_EMBD, N_FF, 8)
        made.layer(N_KV * HEAD, N_KV * HEAD)
    return made


def _window() -> int:
    return -(-(WINDOW + UBATCH) // 256) * 256


def _gemma(architecture: str, period: int, head: int) -> Expected:
    made = _start(architecture, tied=True, attention__sliding_window=WINDOW)
    made.table.hparams(attention__key_length=head, attention__value_length=head)
    for layer in range(N_LAYER):
        _norms(made.table, layer, "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
        if architecture == "gemma3":
            _norms(made.table, layer, "attn_q_norm", "attn_k_norm", width=head)
        _attention(made.table, layer, head=head)
        add_dense_ffn(made.table, layer, N_EMBD, N_FF)
        slides = layer % period < period - 1
        made.layer(N_KV * head, N_KV * head, window=_window() if slides else None)
    return made


def gemma2() -> Expected:
    """Heads of 128, as in the 27B: CUDA's attention has no capped logits for heads of 64."""
    made = _gemma("gemma2", 2, 128)
    made.table.hparams(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    return made


def gemma3() -> Expected:
    return _gemma("gemma3", 6, HEAD)


def cohere2() -> Expected:
    made = _start("cohere2", tied=True, attention__sliding_window=WINDOW)
    made.table.hparams(logit_scale=0.25, attention__layer_norm_epsilon=1e-5)
    for layer in range(N_LAYER):
        _norms(made.table, layer, "attn_norm")
        _attention(made.table, layer)
        add_dense_ffn(made.table, layer, N_EMBD, N_FF)
        made.layer(N_KV * HEAD, N_KV * HEAD, window=_window() if layer % 4 < 3 else None)
    return made


def gpt_oss() -> Expected:
    made = _start("gpt-oss", attention__sliding_window=WINDOW)
    made.table.hparams(expert_count=8, expert_used_count=2, expert_feed_forward_length=N_FF)
    for layer in range(N_LAYER):
        _norms(made.table, layer, "attn_norm", "post_attention_norm")
        _attention(made.table, layer)
        add_experts(made.table, layer, N_EMBD, N_FF, 8)
        block = f"blk.{layer}."
        made.table.add(block + "attn_sinks.weight", (N_HEAD,), Role.ATTENTION)
        widths = (("q", N_HEAD * HEAD), ("k", N_KV * HEAD), ("v", N_KV * HEAD), ("output", N_EMBD))
        for part, width in widths:
            made.table.add(f"{block}attn_{part}.bias", (width,), Role.ATTENTION)
        made.table.add(block + "ffn_gate_inp.bias", (8,), Role.ROUTER)
        for part, width in (("gate", N_FF), ("up", N_FF), ("down", N_EMBD)):
            made.table.add(f"{block}ffn_{part}_exps.bias", (width, 8), Role.EXPERT_UP, GgmlType.F32)
        made.layer(N_KV * HEAD, N_KV * HEAD, window=_window() if layer % 2 == 0 else None)
    return made


def deepseek2() -> Expected:
    """Latent attention: K holds the latent and the rotated part, V is a view of it."""
    latent, rope, nope, q_rank = 192, 64, 64, 128
    made = _start("deepseek2", attention__head_count_kv=1, attention__key_length=latent + rope)
    made.table.hparams(attention__value_length=latent, attention__q_lora_rank=q_rank)
    made.table.hparams(attention__kv_lora_rank=latent, rope__dimension_count=rope)
    made.table.hparams(attention__key_length_mla=nope + rope, attention__value_length_mla=HEAD)
    made.table.hparams(leading_dense_block_count=N_LAYER, expert_shared_count=0)
    made.table.hparams(expert_feed_forward_length=N_FF, expert_count=0, expert_used_count=0)
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        _norms(made.table, layer, "attn_norm", "ffn_norm")
        _norms(made.table, layer, "attn_q_a_norm", width=q_rank)
        _norms(made.table, layer, "attn_kv_a_norm", width=latent)
        for name, shape in (
            ("attn_q_a", (N_EMBD, q_rank)),
            ("attn_q_b", (q_rank, N_HEAD * (nope + rope))),
            ("attn_kv_a_mqa", (N_EMBD, latent + rope)),
            ("attn_k_b", (nope, latent, N_HEAD)),
            ("attn_v_b", (latent, HEAD, N_HEAD)),
            ("attn_output", (N_HEAD * HEAD, N_EMBD)),
        ):
            made.table.add(f"{block}{name}.weight", shape, Role.ATTENTION)
        add_dense_ffn(made.table, layer, N_EMBD, N_FF)
        made.layer(latent + rope, 0)
    return made


def lfm2() -> Expected:
    """Short convolutions, and attention in every third layer."""
    kv = tuple(N_KV if layer % 3 == 2 else 0 for layer in range(N_LAYER))
    made = _start("lfm2", shortconv__l_cache=3, attention__head_count_kv=kv)
    made.table.tensors = [t for t in made.table.tensors if t.name == "token_embd.weight"]
    made.table.add("token_embd_norm.weight", (N_EMBD,), Role.NORM)
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        _norms(made.table, layer, "attn_norm", "ffn_norm")
        add_dense_ffn(made.table, layer, N_EMBD, N_FF)
        if kv[layer]:
            _norms(made.table, layer, "attn_q_norm", "attn_k_norm", width=HEAD)
            _attention(made.table, layer)
            made.layer(N_KV * HEAD, N_KV * HEAD)
            continue
        made.table.add(block + "shortconv.conv.weight", (3, N_EMBD), Role.SSM, GgmlType.F32)
        made.table.add(block + "shortconv.in_proj.weight", (N_EMBD, 3 * N_EMBD), Role.SSM)
        made.table.add(block + "shortconv.out_proj.weight", (N_EMBD, N_EMBD), Role.SSM)
        made.layer(0, 0, state=2 * N_EMBD)
    return made


def mamba() -> Expected:
    inner, state, conv, rank = 512, 16, 4, 16
    made = _start("mamba", ssm__conv_kernel=conv, ssm__inner_size=inner)
    made.table.hparams(ssm__state_size=state, ssm__time_step_rank=rank)
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        _norms(made.table, layer, "attn_norm")
        for name, shape in (
            ("ssm_in.weight", (N_EMBD, 2 * inner)),
            ("ssm_conv1d.weight", (conv, inner)),
            ("ssm_conv1d.bias", (inner,)),
            ("ssm_x.weight", (inner, rank + 2 * state)),
            ("ssm_dt.weight", (rank, inner)),
            ("ssm_dt.bias", (inner,)),
            ("ssm_a", (state, inner)),
            ("ssm_d", (inner,)),
            ("ssm_out.weight", (inner, N_EMBD)),
        ):
            kept = GgmlType.F32 if name in {"ssm_conv1d.weight", "ssm_a"} else None
            made.table.add(block + name, shape, Role.SSM, kept)
        made.layer(0, 0, state=(conv - 1) * inner + state * inner)
    return made


MODELS: dict[str, Callable[[], Expected]] = {
    builder.__name__: builder
    for builder in (
        *(llama, qwen2, qwen3moe, gemma2, gemma3, cohere2, gpt_oss, deepseek2),
        *(lfm2, mamba),
    )
}
