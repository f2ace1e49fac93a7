"""Small models whose tensors reach every branch of llama.cpp's base mixes.

Widths are tiny, counts of layers, heads and experts are those the mixes look at. The golden types
in ``golden/mix_*.json`` were printed by llama-quantize for exactly these tables.
"""

from __future__ import annotations

from collections.abc import Callable

from apex_native.types import GgmlType, Role
from plan_tables import (
    HIDDEN,
    Table,
    add_attention,
    add_dense_ffn,
    add_experts,
    add_frame,
)

VOCAB = 512


def _table(architecture: str, n_layer: int, n_head: int, n_head_kv: int, n_mtp: int = 0) -> Table:
    table = Table(architecture, n_layer, n_mtp)
    table.hparams(
        context_length=512,
        embedding_length=HIDDEN,
        feed_forward_length=HIDDEN,
        attention__head_count=n_head,
        attention__head_count_kv=n_head_kv,
        attention__layer_norm_rms_epsilon=1e-5,
        attention__layer_norm_epsilon=1e-5,
    )
    return table


def _experts(table: Table, n_expert: int, used: int = 2) -> Table:
    table.hparams(expert_count=n_expert, expert_used_count=used, expert_feed_forward_length=HIDDEN)
    return table


def _latent_attention(table: Table) -> None:
    """What glm5-next and bailingmoe3 need to load."""
    table.hparams(
        attention__key_length_mla=64,
        attention__value_length_mla=64,
        attention__q_lora_rank=64,
        attention__kv_lora_rank=64,
        ssm__conv_kernel=4,
        kda__head_dim=64,
        kda__gate_lower_bound=-5.0,
        expert_shared_count=1,
    )


def llama_gqa() -> Table:
    """32 layers, 4 query heads for each KV head."""
    table = _table("llama", 32, 32, 8)
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(32):
        add_attention(table, layer, HIDDEN, HIDDEN, HIDDEN)
        add_dense_ffn(table, layer, HIDDEN, HIDDEN)
    return table


def llama_mha() -> Table:
    """19 layers (no multiple of 8) without grouped queries, tied embeddings."""
    table = _table("llama", 19, 8, 8)
    add_frame(table, HIDDEN, VOCAB, tied=True)
    for layer in range(19):
        add_attention(table, layer, HIDDEN, HIDDEN, HIDDEN)
        add_dense_ffn(table, layer, HIDDEN, HIDDEN)
    return table


def llama_70b() -> Table:
    """The depth and head counts llama.cpp calls 70B; only the tensors that care."""
    table = _table("llama", 80, 64, 8)
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(80):
        table.add(f"blk.{layer}.attn_v.weight", (HIDDEN, HIDDEN), Role.ATTENTION)
    return table


def qwen2_80() -> Table:
    """80 layers of qwen2 count as 70B whatever the heads."""
    table = _table("qwen2", 80, 8, 8)
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(80):
        table.add(f"blk.{layer}.attn_v.weight", (HIDDEN, HIDDEN), Role.ATTENTION)
    return table


def mixtral() -> Table:
    """8 experts, 16 layers, stacked experts."""
    table = _experts(_table("llama", 16, 32, 8), 8)
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(16):
        add_attention(table, layer, HIDDEN, HIDDEN, HIDDEN)
        add_experts(table, layer, HIDDEN, HIDDEN, 8)
    return table


def qwen3moe() -> Table:
    """16 experts, 17 layers, 8 query heads for each KV head."""
    table = _experts(_table("qwen3moe", 17, 32, 4), 16)
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(17):
        add_attention(table, layer, HIDDEN, HIDDEN, HIDDEN)
        table.add(f"blk.{layer}.attn_q_norm.weight", (64,), Role.NORM)
        add_experts(table, layer, HIDDEN, HIDDEN, 16)
    return table


def qwen35moe_mtp() -> Table:
    """Gated delta net beside attention, shared and fused experts, one prediction layer."""
    table = _experts(_table("qwen35moe", 12, 16, 2, n_mtp=1), 8)
    table.hparams(
        ssm__conv_kernel=4,
        ssm__inner_size=HIDDEN,
        ssm__state_size=64,
        ssm__group_count=2,
        ssm__time_step_rank=4,
        rope__dimension_sections=(3, 3, 2, 0),
        full_attention_interval=4,
    )
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(13):
        blk = f"blk.{layer}."
        if layer % 4 == 3 or layer == 12:
            add_attention(table, layer, HIDDEN, HIDDEN, HIDDEN)
        else:
            table.add(f"{blk}attn_qkv.weight", (HIDDEN, 2 * HIDDEN), Role.ATTENTION)
            table.add(f"{blk}attn_gate.weight", (HIDDEN, HIDDEN), Role.ATTENTION)
            table.add(f"{blk}ssm_out.weight", (HIDDEN, HIDDEN), Role.SSM)
            table.add(f"{blk}ssm_alpha.weight", (HIDDEN, 4), Role.SSM)
            table.add(f"{blk}ssm_conv1d.weight", (4, 2 * HIDDEN), Role.SSM, GgmlType.F32)
            table.add(f"{blk}ssm_a", (4,), Role.SSM)
        if layer < 6:
            add_experts(table, layer, HIDDEN, HIDDEN, 8, shared=True)
        else:
            fused = f"{blk}ffn_gate_up_exps.weight"
            table.add(fused, (HIDDEN, 2 * HIDDEN, 8), Role.EXPERT_GATE_UP)
            table.add(f"{blk}ffn_down_exps.weight", (HIDDEN, HIDDEN, 8), Role.EXPERT_DOWN)
    table.add("blk.12.nextn.eh_proj.weight", (2 * HIDDEN, HIDDEN), Role.MTP)
    table.add("blk.12.nextn.shared_head_head.weight", (HIDDEN, VOCAB), Role.MTP)
    table.add("blk.12.nextn.enorm.weight", (HIDDEN,), Role.MTP)
    return table


def deepseek2() -> Table:
    """Multi-head latent attention, a dense first layer, rows of 192 in the latent projections."""
    table = _experts(_table("deepseek2", 16, 16, 1), 32)
    table.hparams(
        leading_dense_block_count=1,
        vocab_size=VOCAB,
        attention__q_lora_rank=192,
        attention__kv_lora_rank=192,
        attention__key_length=192,
        attention__value_length=128,
        attention__key_length_mla=96,
        attention__value_length_mla=64,
        expert_shared_count=1,
        expert_weights_scale=1.0,
        rope__dimension_count=32,
    )
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(16):
        blk = f"blk.{layer}."
        table.add(f"{blk}attn_q_a.weight", (HIDDEN, 192), Role.ATTENTION)
        table.add(f"{blk}attn_q_b.weight", (192, HIDDEN), Role.ATTENTION)
        table.add(f"{blk}attn_kv_a_mqa.weight", (HIDDEN, 224), Role.ATTENTION)
        if layer % 2:
            table.add(f"{blk}attn_kv_b.weight", (192, HIDDEN), Role.ATTENTION)
        else:
            table.add(f"{blk}attn_k_b.weight", (64, 192, 16), Role.ATTENTION)
            table.add(f"{blk}attn_v_b.weight", (192, 64, 16), Role.ATTENTION)
        table.add(f"{blk}attn_output.weight", (HIDDEN, HIDDEN), Role.ATTENTION)
        if layer:
            add_experts(table, layer, HIDDEN, HIDDEN, 32, shared=True)
        else:
            add_dense_ffn(table, layer, HIDDEN, HIDDEN)
    return table


def falcon() -> Table:
    """Falcon's own rows: one KV head, fused qkv, no gate."""
    table = _table("falcon", 32, 8, 1)
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(32):
        table.add(f"blk.{layer}.attn_qkv.weight", (HIDDEN, 2 * HIDDEN), Role.ATTENTION)
        table.add(f"blk.{layer}.attn_output.weight", (HIDDEN, HIDDEN), Role.ATTENTION)
        add_dense_ffn(table, layer, HIDDEN, HIDDEN, gated=False)
    return table


def gemma3n() -> Table:
    """Two tied embedding tables and small weights that are never quantized."""
    table = _table("gemma3n", 20, 8, 2)
    table.hparams(
        embedding_length_per_layer_input=HIDDEN,
        attention__sliding_window=64,
        vocab_size=VOCAB,
    )
    add_frame(table, HIDDEN, VOCAB, tied=True)
    table.add("per_layer_token_embd.weight", (HIDDEN, VOCAB), Role.EMBEDDING)
    table.add("per_layer_model_proj.weight", (HIDDEN, HIDDEN), Role.OTHER)
    table.add("altup_proj.weight", (HIDDEN, HIDDEN, 3), Role.OTHER)
    for layer in range(20):
        add_attention(table, layer, HIDDEN, HIDDEN, HIDDEN)
        table.add(f"blk.{layer}.laurel_l.weight", (HIDDEN, 64), Role.OTHER)
        add_dense_ffn(table, layer, HIDDEN, HIDDEN)
    return table


def odd_rows() -> Table:
    """Rows that blocks of 256, 128, 64 or 32 do not divide."""
    table = _table("llama", 8, 8, 2)
    add_frame(table, 352, VOCAB)
    for layer in range(8):
        add_attention(table, layer, (384, 320, 288, 100)[layer % 4], 352, 352)
        add_dense_ffn(table, layer, 320, 704)
    return table


def glm5_next() -> Table:
    """Tensors this architecture keeps, and three it does not take below Q8_0."""
    table = _experts(_table("glm5-next", 2, 8, 8, n_mtp=1), 8)
    _latent_attention(table)
    table.hparams(
        attention__indexer__head_count=4,
        attention__indexer__key_length=64,
        attention__indexer__top_k=8,
        attention__indexer__kpool=4,
        hyper_connection__count=4,
        hyper_connection__sinkhorn_iterations=3,
        hyper_connection__epsilon=1e-5,
    )
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(3):
        blk = f"blk.{layer}."
        for part in ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_k_b", "attn_v_b"):
            table.add(f"{blk}{part}.weight", (HIDDEN, HIDDEN), Role.ATTENTION)
        table.add(f"{blk}ssm_f_a.weight", (HIDDEN, HIDDEN), Role.SSM)
        table.add(f"{blk}ssm_beta.weight", (HIDDEN, 8), Role.SSM)
        table.add(f"{blk}ssm_out.weight", (HIDDEN, HIDDEN), Role.SSM)
        add_experts(table, layer, HIDDEN, HIDDEN, 8)
    table.add("blk.2.nextn.eh_proj.weight", (2 * HIDDEN, HIDDEN), Role.MTP)
    return table


def bailingmoe3() -> Table:
    """3-D attention weights that MXFP4_MOE must not take for experts."""
    table = _experts(_table("bailingmoe3", 4, 8, 8), 16)
    _latent_attention(table)
    table.hparams(leading_dense_block_count=0, expert_gating_func=2)
    add_frame(table, HIDDEN, VOCAB)
    for layer in range(4):
        blk = f"blk.{layer}."
        table.add(f"{blk}attn_k_b.weight", (HIDDEN, HIDDEN, 4), Role.ATTENTION)
        table.add(f"{blk}attn_kv_b.weight", (HIDDEN, HIDDEN), Role.ATTENTION)
        add_experts(table, layer, HIDDEN, HIDDEN, 16)
    return table


def lfm2_hybrid() -> Table:
    """Head counts per layer, none in layer 0: no grouped queries as far as the mixes know."""
    table = _table("lfm2", 16, 32, 8)
    table.hparam("attention.head_count_kv", tuple(8 if i % 3 == 2 else 0 for i in range(16)))
    table.hparams(shortconv__l_cache=3, vocab_size=VOCAB)
    add_frame(table, HIDDEN, VOCAB, tied=True)
    for layer in range(16):
        if layer % 3 == 2:
            add_attention(table, layer, HIDDEN, HIDDEN, HIDDEN)
        else:
            table.add(f"blk.{layer}.shortconv.conv.weight", (3, HIDDEN), Role.SSM, GgmlType.F32)
            table.add(f"blk.{layer}.shortconv.in_proj.weight", (HIDDEN, HIDDEN), Role.SSM)
        add_dense_ffn(table, layer, HIDDEN, HIDDEN)
    return table


MODELS: dict[str, Callable[[], Table]] = {
    builder.__name__: builder
    for builder in (
        llama_gqa,
        llama_mha,
        llama_70b,
        qwen2_80,
        mixtral,
        qwen3moe,
        qwen35moe_mtp,
        deepseek2,
        falcon,
        gemma3n,
        odd_rows,
        glm5_next,
        bailingmoe3,
        lfm2_hybrid,
    )
}
