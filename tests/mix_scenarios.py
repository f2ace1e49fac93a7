"""What is asked of each small model: every file type, and the options of llama-quantize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apex_native.plan import FileType, ImatrixSummary
from apex_native.types import GgmlType

IMATRIX = ImatrixSummary({"blk.0.attn_v.weight": (256, 1)}, sha256="0" * 64)
"""One entry is enough: the mixes ask only whether there is an imatrix."""


@dataclass(frozen=True)
class Scenario:
    """A request, as llama-quantize's arguments and as make_plan's."""

    label: str
    ftype: str
    arguments: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    with_imatrix: bool = False

    @property
    def plan_arguments(self) -> dict[str, Any]:
        imatrix = IMATRIX if self.with_imatrix else None
        return {"ftype": self.ftype, "imatrix": imatrix, **self.options}


def _rules(*rules: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    arguments = [part for rule in rules for part in ("--tensor-type", rule)]
    return tuple(arguments), {"tensor_types": rules}


def _with_options() -> list[Scenario]:
    q5_0, q4_1 = GgmlType.Q5_0, GgmlType.Q4_1
    output = (("--output-tensor-type", "q5_0"), {"output_tensor_type": q5_0})
    embedding = (("--token-embedding-type", "Q4_1"), {"token_embedding_type": q4_1})
    both = ((*output[0], *embedding[0]), {**output[1], **embedding[1]})
    first, second = (
        _rules("ATTN_V=q8_0"),
        _rules(r"blk\.[0-3]\.ffn_down=Q6_K", "ffn_(up|down)=q3_k"),
    )
    named = _rules("per_layer_token_embd=q5_1")
    cases: Sequence[tuple[str, tuple[str, ...], dict[str, Any], tuple[str, ...]]] = [
        ("pure", ("--pure",), {"pure": True}, ("Q4_K_M", "IQ2_XS", "Q8_0", "F16")),
        ("leave", ("--leave-output-tensor",), {"leave_output_tensor": True}, ("Q4_K_M",)),
        ("output", *output, ("Q4_K_M", "IQ2_M", "MXFP4_MOE", "F16")),
        ("embedding", *embedding, ("Q4_K_M", "IQ2_M", "MXFP4_MOE", "F16")),
        ("both", *both, ("Q3_K_M", "IQ1_S")),
        ("rule", *first, ("Q4_K_M", "Q3_K_M", "IQ2_XXS")),
        ("rules", *second, ("Q5_K_M", "IQ3_M", "Q4_K_S")),
        ("default", *_rules("attn_v=q4_k"), ("Q4_K_M",)),
        ("named", (*embedding[0], *named[0]), {**embedding[1], **named[1]}, ("Q4_K_M",)),
        ("pure+rule", ("--pure", *first[0]), {"pure": True, **first[1]}, ("Q4_K_M",)),
    ]
    return [
        Scenario(f"{ftype} {name}", ftype, arguments, options)
        for name, arguments, options, ftypes in cases
        for ftype in ftypes
    ]


SCENARIOS: tuple[Scenario, ...] = (
    *(Scenario(t.name, t.name) for t in FileType),
    *(Scenario(f"{t.name} imatrix", t.name, with_imatrix=True) for t in FileType),
    *_with_options(),
)
