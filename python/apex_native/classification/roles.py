"""The name table: which tensor names have which role.

One row per kind of tensor. ``names`` are base names as ``names.parse_name`` returns them,
separated by blanks: block and part (``.weight``, ``.bias``, ``.scale``) removed, further indices
written ``#``. They are compared whole, so ``ffn_gate`` does not claim ``ffn_gate_inp``.

Source of the names: ``LLM_TENSOR_NAMES`` in llama.cpp's src/llama-arch.cpp and ``TENSOR_NAMES``
of gguf-py; ``tests/test_classify_architectures.py`` holds the table against both.
"""

from __future__ import annotations

from typing import NamedTuple

from ..types import Role

__all__ = [
    "BLOCK_RULES",
    "MODEL_RULES",
    "PREFIX_RULES",
    "SHARED_BESIDE_EXPERTS",
    "Rule",
    "find_rule",
]


class Rule(NamedTuple):
    """One row of the table; ``name`` is what ``ClassifiedTensor.rule`` reports."""

    name: str
    role: Role
    names: str


# Inside a block: blk.N, and T5's enc.blk.N and dec.blk.N.
BLOCK_RULES: tuple[Rule, ...] = (
    # Routed experts. '.#' is one tensor per expert, as Mixtral was first converted; 'chexps' are
    # GroveMoE's chunk experts, chosen by the same router, one for each group of experts.
    Rule("routed expert gate", Role.EXPERT_GATE, "ffn_gate_exps ffn_gate_chexps ffn_gate.#"),
    Rule("routed expert up", Role.EXPERT_UP, "ffn_up_exps ffn_up_chexps ffn_up.#"),
    Rule("routed expert down", Role.EXPERT_DOWN, "ffn_down_exps ffn_down_chexps ffn_down.#"),
    Rule("routed expert gate and up, fused", Role.EXPERT_GATE_UP, "ffn_gate_up_exps"),
    Rule("shared expert", Role.SHARED_EXPERT, "ffn_gate_shexp ffn_up_shexp ffn_down_shexp"),
    Rule(
        "router",
        Role.ROUTER,
        "ffn_gate_inp ffn_gate_inp_shexp exp_probs_b exp_probs_b_vl ffn_gate_tid2eid",
    ),
    Rule("dense ffn", Role.DENSE_FFN, "ffn_gate ffn_up ffn_down ffn ffn.act"),
    # Every token passes the projections into and out of the experts' latent space
    # (Nemotron 3 'latent', Kimi K3 'routed'): dense matrices, whatever their name suggests.
    Rule(
        "latent projection around the experts",
        Role.DENSE_FFN,
        "ffn_latent_down ffn_latent_up ffn_routed_down ffn_routed_up",
    ),
    # CogVLM's second set of weights, for image tokens: picked by token kind, not by a router.
    Rule("dense ffn for image tokens", Role.DENSE_FFN, "vis_gate vis_up vis_down"),
    Rule("dense ffn convolution", Role.DENSE_FFN, "ffn_conv_base ffn_conv_proj"),
    Rule(
        "channel mixing",
        Role.DENSE_FFN,
        "channel_mix_key channel_mix_value channel_mix_receptance "
        "channel_mix_lerp_k channel_mix_lerp_r",
    ),
    Rule(
        "attention",
        Role.ATTENTION,
        "attn_q attn_k attn_v attn_qkv attn_kv attn_output attn_o attn_gate attn_sinks attn_rel_b",
    ),
    Rule(
        "latent attention",
        Role.ATTENTION,
        "attn_q_a attn_q_b attn_kv_a_mqa attn_kv_b attn_k_b attn_v_b attn_output_a attn_output_b",
    ),
    Rule(
        "attention compressor",
        Role.ATTENTION,
        "attn_compressor_kv attn_compressor_gate attn_compressor_ape",
    ),
    Rule(
        "attention indexer",
        Role.ATTENTION,
        "indexer.proj indexer.attn_k indexer.attn_q_b indexer.q_proj indexer.k_proj "
        "indexer_compressor_kv indexer_compressor_gate indexer_compressor_ape",
    ),
    Rule(
        "cross attention",
        Role.ATTENTION,
        "cross_attn_q cross_attn_k cross_attn_v cross_attn_o cross_attn_rel_b",
    ),
    Rule("attention for image tokens", Role.ATTENTION, "vis_attn_qkv vis_attn_output"),
    Rule("attention convolution", Role.ATTENTION, "attn_conv_base attn_conv_proj"),
    Rule(
        "state space",
        Role.SSM,
        "ssm_in ssm_out ssm_x ssm_dt ssm_a ssm_d "
        "ssm_conv1d ssm_conv1d_q ssm_conv1d_k ssm_conv1d_v "
        "ssm_ba ssm_alpha ssm_beta ssm_f_a ssm_f_b ssm_g ssm_g_a ssm_g_b",
    ),
    Rule("short convolution", Role.SSM, "shortconv.conv shortconv.in_proj shortconv.out_proj"),
    Rule(
        "time mixing",
        Role.SSM,
        "time_mix_key time_mix_value time_mix_receptance time_mix_gate time_mix_output "
        "time_mix_first time_mix_decay time_mix_decay_w1 time_mix_decay_w2 "
        "time_mix_w0 time_mix_w1 time_mix_w2 time_mix_a0 time_mix_a1 time_mix_a2 "
        "time_mix_v0 time_mix_v1 time_mix_v2 time_mix_g1 time_mix_g2 "
        "time_mix_k_k time_mix_k_a time_mix_r_k "
        "time_mix_lerp_x time_mix_lerp_w time_mix_lerp_k time_mix_lerp_v time_mix_lerp_r "
        "time_mix_lerp_g time_mix_lerp_fused",
    ),
    Rule(
        "attention norm",
        Role.NORM,
        "attn_norm attn_norm_2 attn_q_norm attn_k_norm attn_q_a_norm attn_kv_a_norm attn_sub_norm "
        "attn_output_norm post_attention_norm cross_attn_norm "
        "attn_compressor_norm indexer.k_norm indexer.q_norm indexer_compressor_norm",
    ),
    Rule(
        "ffn norm",
        Role.NORM,
        "ffn_norm ffn_norm_exps ffn_sub_norm ffn_routed_norm "
        "pre_ffw_norm_2 post_ffw_norm post_ffw_norm_1 post_ffw_norm_2",
    ),
    Rule("state space norm", Role.NORM, "ssm_norm ssm_dt_norm ssm_b_norm ssm_c_norm time_mix_ln"),
    Rule(
        "other norm",
        Role.NORM,
        "layer_output_norm post_norm laurel_post_norm altup_router_norm hc_attn_norm hc_ffn_norm "
        "ple_norm_key ple_norm_query ple_norm_conv",
    ),
    Rule(
        "next-token prediction head",
        Role.MTP,
        "nextn.eh_proj nextn.embed_tokens nextn.enorm nextn.hnorm nextn.shared_head_head "
        "nextn.shared_head_norm",
    ),
    # None of the roles: small side paths of the residual stream (Gemma 3n's AltUp, LAuReL and
    # per-layer inputs, hyper-connections, n-gram embeddings, block residuals), scales, angles.
    # altup_router mixes residual copies; it routes no expert.
    Rule(
        "residual adapter",
        Role.OTHER,
        "altup_correct_coef altup_correct_scale altup_predict_coef altup_router "
        "laurel_l laurel_r inp_gate proj attn_res_score ffn_res_score",
    ),
    Rule(
        "hyper-connection",
        Role.OTHER,
        "hc_attn_fn hc_attn_base hc_attn_scale hc_attn_down hc_attn_up hc_attn_inject "
        "hc_ffn_fn hc_ffn_base hc_ffn_scale hc_ffn_down hc_ffn_up hc_ffn_inject",
    ),
    Rule("per-layer n-gram embedding", Role.OTHER, "ple_key ple_value ple_conv1d"),
    Rule("layer scale", Role.OTHER, "layer_output_scale"),
    Rule("rotary embedding", Role.OTHER, "attn_rot_embd"),
)

# Instead of 'dense ffn' in a block with experts, in architectures that compute both.
SHARED_BESIDE_EXPERTS = Rule(
    "dense ffn beside the experts", Role.SHARED_EXPERT, "ffn_gate ffn_up ffn_down"
)

# Outside the blocks: the whole name without its part.
MODEL_RULES: tuple[Rule, ...] = (
    Rule("token embedding", Role.EMBEDDING, "token_embd per_layer_token_embd"),
    Rule("position and segment embedding", Role.EMBEDDING, "position_embd token_types"),
    Rule("output head", Role.OUTPUT, "output"),
    Rule("classification or embedding head", Role.OUTPUT, "cls cls.output dense_2 dense_3"),
    Rule(
        "model norm",
        Role.NORM,
        "output_norm token_embd_norm enc.output_norm dec.output_norm cls.norm "
        "per_layer_proj_norm output_hc_norm",
    ),
    # Weights that only draft models have: MTP assistants, EAGLE-3, DFlash, DSpark.
    Rule(
        "draft head",
        Role.MTP,
        "nextn.pre_projection nextn.post_projection masked_embd_centroids fc "
        "markov_w1 markov_w2 conf_proj selector_predecessor selector_successor selector_hidden",
    ),
    Rule("draft vocabulary index", Role.OTHER, "d2t masked_embd_ordering"),
    Rule("rotary embedding", Role.OTHER, "rope_freqs rope_factors_long rope_factors_short"),
    Rule(
        "residual adapter",
        Role.OTHER,
        "altup_proj altup_unembd_proj per_layer_model_proj output_res_score",
    ),
    Rule(
        "hyper-connection",
        Role.OTHER,
        "output_hc_fn output_hc_base output_hc_scale output_hc_down output_hc_up",
    ),
    Rule("initial state", Role.OTHER, "hrm.z_l_init"),
    # The name of LLaVA's first converters; today it is v.image_newline.
    Rule("image newline", Role.PROJECTOR, "model.image_newline"),
)

# Outside the blocks, by first component alone: encoders and projectors have hundreds of names,
# their own blocks and even their own experts, none of which belong to the language model.
PREFIX_RULES: tuple[Rule, ...] = (
    Rule("vision encoder", Role.PROJECTOR, "v resampler"),
    Rule("audio encoder or decoder", Role.PROJECTOR, "a conv1d convnext posnet"),
    Rule("projector", Role.PROJECTOR, "mm adapter"),
)


def _index(rules: tuple[Rule, ...]) -> dict[str, Rule]:
    """Base name to row; ValueError if two rows claim the same name."""
    by_name: dict[str, Rule] = {}
    for rule in rules:
        for name in rule.names.split():
            if name in by_name:
                raise ValueError(f"'{name}' is claimed by '{by_name[name].name}' and '{rule.name}'")
            by_name[name] = rule
    return by_name


_BY_BLOCK_NAME = _index(BLOCK_RULES)
_BY_MODEL_NAME = _index(MODEL_RULES)
_BY_PREFIX = _index(PREFIX_RULES)


def find_rule(base: str, *, in_block: bool) -> Rule | None:
    """The row that claims this base name, None if there is none."""
    if in_block:
        return _BY_BLOCK_NAME.get(base)
    return _BY_MODEL_NAME.get(base) or _BY_PREFIX.get(base.partition(".")[0])
