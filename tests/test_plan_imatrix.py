"""Which tensors need an importance matrix, what is found about it, and what strict makes of it."""

from __future__ import annotations

import pytest

from apex_native.errors import PlanError
from apex_native.plan import (
    EntryFit,
    FileType,
    FindingKind,
    ImatrixSummary,
    ImatrixUse,
    Plan,
    Severity,
    make_plan,
)
from apex_native.plan.imatrix import imatrix_use
from apex_native.types import GgmlType
from mix_models import MODELS
from plan_tables import Table

REQUIRING = {"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"}
KERNELS_ABORT = {"IQ2_XXS", "IQ2_XS", "IQ1_S"}
IGNORING = {"Q8_0", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "F32", "F16", "BF16"}


@pytest.mark.parametrize("type", [t for t in GgmlType if t.is_target])
def test_what_each_type_does_with_an_imatrix(type) -> None:
    def use(name: str, source: GgmlType = GgmlType.F64) -> ImatrixUse:
        return imatrix_use(name, source, type, FileType.Q4_K_M)

    if type.name in REQUIRING:
        assert use("blk.0.ffn_up.weight") is ImatrixUse.REQUIRED
    elif type.name in IGNORING:
        assert use("blk.0.ffn_up.weight") is ImatrixUse.UNUSED
    else:
        assert use("blk.0.ffn_up.weight") is ImatrixUse.USED
    # Upstream exempts these two names, and its kernels abort for three types.
    for name in ("output.weight", "token_embd.weight"):
        assert (use(name) is ImatrixUse.REQUIRED) == (type.name in KERNELS_ABORT)
    assert use("blk.0.ffn_up.weight", source=type) is ImatrixUse.UNUSED


def test_q2_k_needs_an_imatrix_in_q2_k_s_only() -> None:
    for file_type in (FileType.Q2_K_S, FileType.Q2_K, None):
        use = imatrix_use("blk.0.ffn_up.weight", GgmlType.F16, GgmlType.Q2_K, file_type)
        assert (use is ImatrixUse.REQUIRED) == (file_type is FileType.Q2_K_S)
    use = imatrix_use("output.weight", GgmlType.F16, GgmlType.Q2_K, FileType.Q2_K_S)
    assert use is ImatrixUse.USED


def full_imatrix(table: Table, **changes: tuple[int, int] | None) -> ImatrixSummary:
    """Entries for all tensors of the blocks, as llama-imatrix writes; changes by block suffix."""
    entries = {}
    for tensor in table.facts.tensors:
        if tensor.name.startswith("blk.") and tensor.name.endswith("weight"):
            entries[tensor.name] = (tensor.n_per_row, tensor.n_expert_slices)
    for name, entry in changes.items():
        full_name = f"blk.{name.replace('__', '.')}.weight".replace("blk.L", "blk.")
        if entry is None:
            del entries[full_name]
        else:
            entries[full_name] = entry
    return ImatrixSummary(entries, sha256="0" * 64)


def plan_of(table: Table, **arguments) -> Plan:
    return make_plan(table.classification, **arguments)


def findings(plan: Plan, *kinds: FindingKind) -> list[tuple[FindingKind, str]]:
    return [(f.kind, f.tensor) for f in plan.findings if f.kind in kinds]


IMATRIX_KINDS = (
    FindingKind.IMATRIX_NEEDED,
    FindingKind.IMATRIX_WRONG_SIZE,
    FindingKind.IMATRIX_FOREIGN,
    FindingKind.IMATRIX_LACKS_ENTRY,
)


def test_a_tier_that_needs_an_imatrix_is_planned_without_one_and_blocked() -> None:
    table = MODELS["mixtral"]()
    plan = plan_of(table, tier="mini")
    assert plan.total_bytes > 0
    assert [f.message for f in plan.blocking_findings] == [
        "tier mini needs an importance matrix and none is given"
    ]
    assert all(t.imatrix_entry is EntryFit.NOT_GIVEN for t in plan.tensors)
    given = plan_of(table, tier="mini", imatrix=full_imatrix(table))
    assert given.types == plan.types
    assert given.blocking_findings == ()


def test_the_i_variant_blocks_even_where_no_type_needs_an_imatrix() -> None:
    table = MODELS["mixtral"]()
    assert plan_of(table, tier="quality").blocking_findings == ()
    (finding,) = plan_of(table, tier="i-quality").blocking_findings
    assert finding.message == "tier i-quality needs an importance matrix and none is given"


def test_a_file_type_that_needs_an_imatrix_names_the_types() -> None:
    table = MODELS["mixtral"]()
    (finding,) = plan_of(table, ftype="IQ2_XXS").blocking_findings
    # 16 layers: q (1), three expert tensors, of which the first eighth of ffn_down is Q2_K.
    assert finding.message == ("no importance matrix is given and 62 tensors need it (IQ2_XXS)")
    assert plan_of(table, ftype="Q4_K_M").blocking_findings == ()


def test_entries_fit_by_size_over_all_experts() -> None:
    table = MODELS["mixtral"]()
    imatrix = full_imatrix(table)
    plan = plan_of(table, ftype="IQ2_XXS", imatrix=imatrix)
    tensors = {t.name: t for t in plan.tensors}
    assert tensors["blk.3.ffn_up_exps.weight"].imatrix is ImatrixUse.REQUIRED
    assert tensors["blk.3.ffn_up_exps.weight"].imatrix_entry is EntryFit.FITS
    assert tensors["output.weight"].imatrix_entry is EntryFit.MISSING
    assert findings(plan, *IMATRIX_KINDS) == [
        (FindingKind.IMATRIX_LACKS_ENTRY, "token_embd.weight"),
        (FindingKind.IMATRIX_LACKS_ENTRY, "output.weight"),
    ]


def test_missing_and_misfitting_entries_are_found() -> None:
    table = MODELS["mixtral"]()
    imatrix = full_imatrix(
        table,
        L3__ffn_up_exps=None,  # IQ2_XXS: required
        L4__ffn_up_exps=(256, 1),  # required, of a model with one expert
        L5__attn_v=(512, 1),  # Q4_K: of another width
        L6__attn_v=None,  # Q4_K: quantized without
        L7__ffn_up_exps=(512, 4),  # as many values, cut otherwise: of another model
        L8__ffn_up_exps=(2048, 1),  # a legacy file does not say how it is cut: fits
        L99__attn_v=(256, 1),
    )
    plan = plan_of(table, ftype="IQ2_XXS", imatrix=imatrix)
    assert findings(plan, *IMATRIX_KINDS) == [
        (FindingKind.IMATRIX_FOREIGN, ""),
        (FindingKind.IMATRIX_LACKS_ENTRY, "token_embd.weight"),
        (FindingKind.IMATRIX_LACKS_ENTRY, "output.weight"),
        (FindingKind.IMATRIX_NEEDED, "blk.3.ffn_up_exps.weight"),
        (FindingKind.IMATRIX_NEEDED, "blk.4.ffn_up_exps.weight"),
        (FindingKind.IMATRIX_WRONG_SIZE, "blk.5.attn_v.weight"),
        (FindingKind.IMATRIX_LACKS_ENTRY, "blk.6.attn_v.weight"),
        (FindingKind.IMATRIX_NEEDED, "blk.7.ffn_up_exps.weight"),
    ]
    assert [f.tensor for f in plan.blocking_findings] == [
        "blk.3.ffn_up_exps.weight", "blk.4.ffn_up_exps.weight", "blk.5.attn_v.weight",
        "blk.7.ffn_up_exps.weight",
    ]  # fmt: skip


def test_a_misfitting_token_embedding_entry_is_ignored_as_upstream_does() -> None:
    table = MODELS["mixtral"]()
    entries = dict(full_imatrix(table).entries)
    entries["token_embd.weight"] = (1, 1)
    imatrix = ImatrixSummary(entries, sha256="")
    plan = plan_of(table, ftype="Q4_K_M", imatrix=imatrix)
    assert (FindingKind.IMATRIX_LACKS_ENTRY, "token_embd.weight") in findings(plan, *IMATRIX_KINDS)
    assert plan.blocking_findings == ()
    # Unless its type is one whose kernel aborts without data.
    plan = plan_of(table, ftype="Q4_K_M", imatrix=imatrix, token_embedding_type=GgmlType.IQ2_XS)
    assert [f.tensor for f in plan.blocking_findings] == ["token_embd.weight"]


def test_an_output_tensor_in_a_kernel_type_is_blocked_without_data() -> None:
    table = MODELS["mixtral"]()
    plan = plan_of(table, ftype="Q4_K_M", output_tensor_type=GgmlType.IQ1_S)
    assert [(f.kind, f.tensor) for f in plan.blocking_findings] == [
        (FindingKind.IMATRIX_NEEDED, "output.weight")
    ]


def test_an_imatrix_without_entries_is_no_imatrix_to_the_mix() -> None:
    table = MODELS["mixtral"]()
    empty = plan_of(table, ftype="IQ3_XXS", imatrix=ImatrixSummary({}, sha256=""))
    assert empty.types == plan_of(table, ftype="IQ3_XXS").types
    full = plan_of(table, ftype="IQ3_XXS", imatrix=full_imatrix(table))
    assert empty.types != full.types


def test_strict_refuses_warnings_and_blocks_but_not_information() -> None:
    table = MODELS["mixtral"]()
    plan = plan_of(table, tier="quality", strict=True)
    assert {f.severity for f in plan.findings} == {Severity.INFO}
    with pytest.raises(PlanError, match=r"1 finding; .*:\n  rule-without-effect: rule zzz=Q8_0"):
        plan_of(table, tier="quality", strict=True, tensor_types=["zzz=Q8_0"])
    with pytest.raises(PlanError, match="imatrix-needed: tier mini needs"):
        plan_of(table, tier="mini", strict=True)
    with pytest.raises(PlanError, match=r"(?s)57 findings.*\n  and 49 more$") as caught:
        plan_of(MODELS["odd_rows"](), ftype="Q6_K", strict=True)
    assert str(caught.value).count("shape-fallback") == 8
