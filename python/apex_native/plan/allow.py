"""Which tensors llama.cpp never quantizes, and why (``tensor_allows_quantization``)."""

from __future__ import annotations

from apex_native.gguf_layout import ne_order

__all__ = ["reason_to_keep"]

_KEPT_NAMES = {
    "position_embd.weight": "position embedding",
    "token_types.weight": "token types",
}

_KEPT_PARTS = (
    ("_norm.weight", "norm"),
    ("ffn_gate_inp.weight", "router"),
    ("ffn_gate_tid2eid.weight", "table of token ids to experts"),
    ("altup", "very small (AltUp)"),
    ("laurel", "very small (LAuReL)"),
    ("per_layer_model_proj", "small projection"),
    ("ssm_conv1d", "small convolution"),
    ("shortconv.conv.weight", "small convolution"),
    ("indexer.k_proj.weight", "small indexer projection"),
    ("indexer.q_proj.weight", "small indexer projection"),
    ("time_mix_first.weight", "small RWKV weight"),
    ("time_mix_w0.weight", "small RWKV weight"),
    ("time_mix_w1.weight", "small RWKV weight"),
    ("time_mix_w2.weight", "small RWKV weight"),
    ("time_mix_v0.weight", "small RWKV weight"),
    ("time_mix_v1.weight", "small RWKV weight"),
    ("time_mix_v2.weight", "small RWKV weight"),
    ("time_mix_a0.weight", "small RWKV weight"),
    ("time_mix_a1.weight", "small RWKV weight"),
    ("time_mix_a2.weight", "small RWKV weight"),
    ("time_mix_g1.weight", "small RWKV weight"),
    ("time_mix_g2.weight", "small RWKV weight"),
    ("time_mix_decay_w1.weight", "small RWKV weight"),
    ("time_mix_decay_w2.weight", "small RWKV weight"),
    ("time_mix_lerp_fused.weight", "small RWKV weight"),
    ("attn_rel_b.weight", "relative position bias"),
    (".position_embd", "position embedding"),
    ("sam.pos_embd", "image encoder position embedding"),
    ("sam.neck.", "image encoder neck"),
    ("sam.net_", "image encoder neck"),
    (".rel_pos", "relative position"),
    (".patch_embd", "patch embedding"),
    (".patch_merger", "patch merger"),
    ("a.rvq.codebook", "audio codebook"),
    ("mm.a.code_embd", "audio codebook"),
)

_KEPT_PARTS_OF_ARCHITECTURE = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ),
}


def reason_to_keep(
    name: str, shape: tuple[int, ...], architecture: str, *, keep_output: bool = False
) -> str | None:
    """Why a tensor stays in its source type, or None if it may be quantized.

    shape is row-major; keep_output is llama-quantize's ``--leave-output-tensor``.
    """
    if 0 in shape:
        return "without weights"
    if len(ne_order(shape)) < 2:
        return "one-dimensional"
    # Written as upstream writes it: a 5-letter name without "weight" passes there (npos), and
    # here too (-1).
    if name.rfind("weight") != len(name) - len("weight"):
        return "not a weight"
    if keep_output and name == "output.weight":
        return "output tensor left as it is"
    if name in _KEPT_NAMES:
        return _KEPT_NAMES[name]
    for part, reason in _KEPT_PARTS:
        if part in name:
            return reason
    for part in _KEPT_PARTS_OF_ARCHITECTURE.get(architecture, ()):
        if part in name:
            return f"small weight of {architecture}"
    return None
