"""Every tensor name that gguf-py or llama.cpp knows is claimed, by the right role.

The oracle reads the *enum* names (``FFN_GATE_UP_EXP``), never the tensor names, so it shares
nothing with the table under test.
"""

from __future__ import annotations

import pytest
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES

from apex_native.classification import classify_tensors
from apex_native.types import ClassifiedTensor, GgmlType, GgufFacts, Role, TensorInfo

N_LAYER = 33
BLOCKS = (0, 7, 32)
PARTS = (".weight", ".bias", ".scale", ".input_scale", "")

# LLM_TENSOR_NAMES of llama.cpp (src/llama-arch.cpp, the pinned 0c1e57098) without those that
# gguf 0.19 also has: enum name without LLM_TENSOR_, tensor name.
LLAMA_CPP_NAMES = """
HRM_Z_L_INIT hrm.z_l_init
FFN_GATE_EXP blk.{bid}.ffn_gate.{xid}
FFN_DOWN_EXP blk.{bid}.ffn_down.{xid}
FFN_UP_EXP blk.{bid}.ffn_up.{xid}
FFN_EXP_PROBS_B_VL blk.{bid}.exp_probs_b_vl
FFN_ACT blk.{bid}.ffn.act
SSM_G blk.{bid}.ssm_g
ATTN_RES_SCORE blk.{bid}.attn_res_score
FFN_RES_SCORE blk.{bid}.ffn_res_score
OUTPUT_RES_SCORE output_res_score
FFN_ROUTED_DOWN blk.{bid}.ffn_routed_down
FFN_ROUTED_UP blk.{bid}.ffn_routed_up
FFN_ROUTED_NORM blk.{bid}.ffn_routed_norm
ATTN_KV blk.{bid}.attn_kv
ATTN_OUT_A blk.{bid}.attn_output_a
ATTN_OUT_B blk.{bid}.attn_output_b
HC_HEAD_FN output_hc_fn
HC_HEAD_BASE output_hc_base
HC_HEAD_SCALE output_hc_scale
HC_HEAD_NORM output_hc_norm
HC_HEAD_DOWN output_hc_down
HC_HEAD_UP output_hc_up
HC_ATTN_FN blk.{bid}.hc_attn_fn
HC_ATTN_BASE blk.{bid}.hc_attn_base
HC_ATTN_SCALE blk.{bid}.hc_attn_scale
HC_FFN_FN blk.{bid}.hc_ffn_fn
HC_FFN_BASE blk.{bid}.hc_ffn_base
HC_FFN_SCALE blk.{bid}.hc_ffn_scale
HC_ATTN_NORM blk.{bid}.hc_attn_norm
HC_ATTN_DOWN blk.{bid}.hc_attn_down
HC_ATTN_UP blk.{bid}.hc_attn_up
HC_ATTN_INJECT blk.{bid}.hc_attn_inject
HC_FFN_NORM blk.{bid}.hc_ffn_norm
HC_FFN_DOWN blk.{bid}.hc_ffn_down
HC_FFN_UP blk.{bid}.hc_ffn_up
HC_FFN_INJECT blk.{bid}.hc_ffn_inject
PLE_KEY blk.{bid}.ple_key
PLE_VALUE blk.{bid}.ple_value
PLE_NORM_KEY blk.{bid}.ple_norm_key
PLE_NORM_QUERY blk.{bid}.ple_norm_query
PLE_NORM_CONV blk.{bid}.ple_norm_conv
PLE_CONV1D blk.{bid}.ple_conv1d
ATTN_COMPRESSOR_WKV blk.{bid}.attn_compressor_kv
ATTN_COMPRESSOR_WGATE blk.{bid}.attn_compressor_gate
ATTN_COMPRESSOR_APE blk.{bid}.attn_compressor_ape
ATTN_COMPRESSOR_NORM blk.{bid}.attn_compressor_norm
NEXTN_PROJ_PRE nextn.pre_projection
NEXTN_PROJ_POST nextn.post_projection
INDEXER_Q_PROJ blk.{bid}.indexer.q_proj
INDEXER_K_PROJ blk.{bid}.indexer.k_proj
INDEXER_Q_NORM blk.{bid}.indexer.q_norm
INDEXER_COMPRESSOR_WKV blk.{bid}.indexer_compressor_kv
INDEXER_COMPRESSOR_WGATE blk.{bid}.indexer_compressor_gate
INDEXER_COMPRESSOR_APE blk.{bid}.indexer_compressor_ape
INDEXER_COMPRESSOR_NORM blk.{bid}.indexer_compressor_norm
FFN_GATE_TID2EID blk.{bid}.ffn_gate_tid2eid
MASKED_EMBD_CENTROIDS masked_embd_centroids
MASKED_EMBD_ORDERING masked_embd_ordering
FC fc
D2T d2t
DSPARK_MARKOV_W1 markov_w1
DSPARK_MARKOV_W2 markov_w2
DSPARK_CONF_PROJ conf_proj
DFLASH_ATTN_CONV_BASE blk.{bid}.attn_conv_base
DFLASH_ATTN_CONV_PROJ blk.{bid}.attn_conv_proj
DFLASH_FFN_CONV_BASE blk.{bid}.ffn_conv_base
DFLASH_FFN_CONV_PROJ blk.{bid}.ffn_conv_proj
DFLASH_SELECTOR_PREV selector_predecessor
DFLASH_SELECTOR_NEXT selector_successor
DFLASH_SELECTOR_HIDDEN selector_hidden
"""

# TN_* of llama.cpp's tools/mtmd/clip-impl.h that gguf 0.19 lacks and whose first component or
# last words look like the language model's own.
ENCODER_NAMES = (
    "v.blk.{bid}.attn_sinks",
    "v.blk.{bid}.ffn_gate_inp.weight",
    "v.blk.{bid}.ffn_gate_exps.weight",
    "v.blk.{bid}.ffn_up_exps.weight",
    "v.blk.{bid}.ffn_down_exps.weight",
    "v.blk.{bid}.exp_probs_b.bias",
    "v.blk.{bid}.{xid}.attn.query.proj.weight",
    "v.patch_embd.weight.1",
    "v.token_embd.img_start",
    "v.vit_merger.attn_q.weight",
    "v.proj_blk.{bid}.cross_attn_q.weight",
    "a.blk.{bid}.res2.{xid}.weight",
    "a.gen.code.blk.{bid}.ffn_down.weight",
    "a.gen.code.output_norm.weight",
    "a.rvq.codebook.weight",
    "mm.a.local_blk.{bid}.attn_v.weight",
    "mm.model.mb_block.{bid}.block.{xid}.0.weight",
    "adapter.linear.dense_h_to_4h.weight",
    "adapter.boi",
    "resampler.query",
    "model.image_newline",
)

# First match decides; each entry is (words of the enum name, role). A word matches whole or, with
# '*', as the start of one: FFN_GATE_UP_EXP is the words FFN, GATE, UP, EXP.
ORACLE: tuple[tuple[str, Role], ...] = (
    ("V", Role.PROJECTOR),
    ("A", Role.PROJECTOR),
    ("CONV1D", Role.PROJECTOR),
    ("CONVNEXT", Role.PROJECTOR),
    ("POSNET", Role.PROJECTOR),
    ("NEXTN", Role.MTP),
    ("FC", Role.MTP),
    ("DSPARK", Role.MTP),
    ("SELECTOR", Role.MTP),
    ("CENTROIDS", Role.MTP),
    ("NORM*", Role.NORM),
    ("TIME MIX LN", Role.NORM),
    ("VISEXP ATTN", Role.ATTENTION),
    ("VISEXP", Role.DENSE_FFN),
    ("PROBS", Role.ROUTER),
    ("TID2EID", Role.ROUTER),
    ("GATE INP", Role.ROUTER),
    ("GATE UP EXP*", Role.EXPERT_GATE_UP),
    ("GATE EXP*", Role.EXPERT_GATE),
    ("UP EXP*", Role.EXPERT_UP),
    ("DOWN EXP*", Role.EXPERT_DOWN),
    ("GATE CHEXP*", Role.EXPERT_GATE),
    ("UP CHEXP*", Role.EXPERT_UP),
    ("DOWN CHEXP*", Role.EXPERT_DOWN),
    ("SHEXP", Role.SHARED_EXPERT),
    ("LATENT", Role.DENSE_FFN),
    ("ROUTED", Role.DENSE_FFN),
    ("CHANNEL MIX", Role.DENSE_FFN),
    ("SSM", Role.SSM),
    ("TIME MIX", Role.SSM),
    ("SHORTCONV", Role.SSM),
    ("LAYER TOKEN EMBD", Role.EMBEDDING),
    ("ALTUP", Role.OTHER),
    ("LAUREL", Role.OTHER),
    ("PER LAYER", Role.OTHER),
    ("HC", Role.OTHER),
    ("PLE", Role.OTHER),
    ("HRM", Role.OTHER),
    ("RES SCORE", Role.OTHER),
    ("OUT SCALE", Role.OTHER),
    ("ROPE", Role.OTHER),
    ("ROT EMBD", Role.OTHER),
    ("D2T", Role.OTHER),
    ("ORDERING", Role.OTHER),
    ("ATTN", Role.ATTENTION),
    ("INDEXER", Role.ATTENTION),
    ("FFN", Role.DENSE_FFN),
    ("TOKEN", Role.EMBEDDING),
    ("POS EMBD", Role.EMBEDDING),
    ("OUTPUT", Role.OUTPUT),
    ("CLS", Role.OUTPUT),
    ("DENSE", Role.OUTPUT),
)


def _words_match(rule: str, enum_name: str) -> bool:
    wanted, words = rule.split(), enum_name.split("_")
    if len(wanted) == 1 and wanted[0] in ("V", "A", "CONV1D", "FC"):
        return words[0] == wanted[0]
    return any(
        all(
            word.startswith(want[:-1]) if want.endswith("*") else word == want
            for want, word in zip(wanted, words[start:], strict=False)
        )
        for start in range(len(words) - len(wanted) + 1)
    )


def expected_role(enum_name: str) -> Role:
    """The role an enum name tells; a new enum name that tells none must be added to ORACLE."""
    for rule, role in ORACLE:
        if _words_match(rule, enum_name):
            return role
    raise AssertionError(f"no oracle for {enum_name}")


def expand(pattern: str) -> list[str]:
    """The tensor names of a pattern with {bid}: several blocks, each with and without parts."""
    blocks = BLOCKS if "{bid}" in pattern else (0,)
    return [pattern.format(bid=bid, xid=5) + part for bid in blocks for part in PARTS]


def classify_names(names: list[str], architecture: str = "llama") -> list[ClassifiedTensor]:
    """Classifies the names in a model of N_LAYER blocks; no warning may name any of them."""
    facts = GgufFacts(
        metadata={
            "general.architecture": architecture,
            f"{architecture}.block_count": N_LAYER,
            # Stated, because nextn tensors of the last block would otherwise shorten the trunk.
            f"{architecture}.nextn_predict_layers": 0,
            f"{architecture}.expert_count": 8,
            f"{architecture}.expert_used_count": 2,
        },
        tensors=tuple(TensorInfo(name, (8, 32, 32), GgmlType.F32, 32768) for name in names),
        kv_sizes={},
    )
    result = classify_tensors(facts)
    assert [tensor.name for tensor in result.tensors] == names
    assert [warning for warning in result.warnings if "unknown tensor name" in warning] == []
    assert [tensor.name for tensor in result.tensors if not tensor.rule] == []
    return list(result.tensors)


# Architectures whose dense weights lie in the blocks of the experts: see the graphs' table in
# test_classify.py.
BESIDE_EXPERTS = {"gemma4", "grok", "arctic"}


def check_roles(known: list[tuple[str, str]], architecture: str = "llama") -> None:
    """Classifies all names of (enum name, pattern) pairs and compares each with the oracle."""
    pairs = [(enum_name, name) for enum_name, pattern in known for name in expand(pattern)]
    found = classify_names([name for _, name in pairs], architecture)
    for (enum_name, name), tensor in zip(pairs, found, strict=True):
        role = expected_role(enum_name)
        if architecture in BESIDE_EXPERTS and enum_name in ("FFN_GATE", "FFN_UP", "FFN_DOWN"):
            role = Role.SHARED_EXPERT
        assert tensor.role is role, name
        assert tensor.is_mtp == (expected_role(enum_name) is Role.MTP), name
        in_trunk = name.startswith(("blk.", "enc.blk.", "dec.blk."))
        layer = int(name.split("blk.")[1].split(".")[0]) if in_trunk else None
        assert tensor.layer == layer, name


def _tensors_of(arch: MODEL_ARCH) -> list[tuple[str, str]]:
    # Newer gguf-py lists V_PROJ_NORM without having named it.
    known = [tensor for tensor in MODEL_TENSORS[arch] if tensor in TENSOR_NAMES]
    return [(tensor.name, TENSOR_NAMES[tensor]) for tensor in known]


def _has_experts(arch: MODEL_ARCH) -> bool:
    # V_ENC_MSFA_EXP is an expansion in an image encoder, not an expert.
    return any(
        tensor.name.endswith(("_EXP", "_EXPS", "_CHEXP")) and not tensor.name.startswith("V_")
        for tensor in MODEL_TENSORS[arch]
    )


@pytest.mark.parametrize("arch", MODEL_TENSORS, ids=lambda arch: MODEL_ARCH_NAMES[arch])
def test_architecture_has_exact_roles(arch: MODEL_ARCH) -> None:
    check_roles(_tensors_of(arch), MODEL_ARCH_NAMES[arch])


@pytest.mark.parametrize(
    "arch",
    [arch for arch in MODEL_TENSORS if _has_experts(arch)],
    ids=lambda arch: MODEL_ARCH_NAMES[arch],
)
def test_expert_tensors_get_expert_roles_and_no_other_does(arch: MODEL_ARCH) -> None:
    claimed: dict[Role, set[str]] = {}
    for enum_name, pattern in _tensors_of(arch):
        for tensor in classify_names([name for name in expand(pattern) if ".weight" in name]):
            claimed.setdefault(tensor.role, set()).add(enum_name)
    expected = {
        Role.EXPERT_GATE: {"FFN_GATE_EXP", "FFN_GATE_CHEXP"},
        Role.EXPERT_UP: {"FFN_UP_EXP", "FFN_UP_CHEXP"},
        Role.EXPERT_DOWN: {"FFN_DOWN_EXP", "FFN_DOWN_CHEXP"},
        Role.EXPERT_GATE_UP: {"FFN_GATE_UP_EXP"},
        Role.SHARED_EXPERT: {"FFN_GATE_SHEXP", "FFN_UP_SHEXP", "FFN_DOWN_SHEXP"},
    }
    names = {tensor.name for tensor in MODEL_TENSORS[arch]}
    for role, enum_names in expected.items():
        assert claimed.get(role, set()) == enum_names & names


def test_expert_architectures_are_many() -> None:
    # Guards the selection above, which must not become empty: gguf 0.19 selects 45.
    assert sum(map(_has_experts, MODEL_TENSORS)) >= 30


def test_names_outside_the_architecture_lists_have_exact_roles() -> None:
    check_roles([(tensor.name, name) for tensor, name in TENSOR_NAMES.items()])


def test_names_only_llama_cpp_knows_have_exact_roles() -> None:
    known = [(row.split()[0], row.split()[1]) for row in LLAMA_CPP_NAMES.strip().splitlines()]
    assert len(known) == 70
    check_roles(known)


@pytest.mark.parametrize("pattern", ENCODER_NAMES)
def test_encoder_tensor_is_no_part_of_the_language_model(pattern: str) -> None:
    for bid in BLOCKS:
        (tensor,) = classify_names([pattern.format(bid=bid, xid=5)])
        assert tensor.role is Role.PROJECTOR
        assert tensor.layer is None
        assert not tensor.is_mtp
