"""Planning over an open file, and a first look at what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apex_native._native import core, forward_log
from apex_native.api.arguments import AnyImatrix, AnySource, matrix_of, opened, types_of
from apex_native.classification import classify_tensors
from apex_native.plan import Edges, ImatrixSummary, Plan
from apex_native.plan import make_plan as make_plan_from_facts
from apex_native.quantization import underflow_findings
from apex_native.types import Classification, GgmlType, GgufFacts, MetadataValue

if TYPE_CHECKING:
    from apex_native.imatrix import Imatrix, Prior
    from apex_native.plan.request import Semantics
    from apex_native.weights import WeightSource

__all__ = ["LoadCheck", "check_load", "classify", "make_plan"]


def classify(source: AnySource | GgufFacts) -> Classification:
    """A role, a layer and a place in the trunk for every tensor of a file, open or by its path.

    Raises GgufError where the file's own counts contradict each other.
    """
    if isinstance(source, GgufFacts):
        return classify_tensors(source)
    with opened("source", source) as file:
        return classify_tensors(file.facts)


def make_plan(
    source: AnySource,
    *,
    tier: str | None = None,
    ftype: str | None = None,
    like: AnySource | Mapping[str, GgmlType] | None = None,
    types: Mapping[str, GgmlType] | None = None,
    reason: str = "",
    semantics: Semantics = "published",
    edges: Edges | None = None,
    tensor_types: Sequence[str] = (),
    output_tensor_type: GgmlType | None = None,
    token_embedding_type: GgmlType | None = None,
    leave_output_tensor: bool = False,
    pure: bool = False,
    repair: bool = False,
    imatrix: AnyImatrix | None = None,
    prior: Prior | str | None = "auto",
    strict: bool = False,
) -> Plan:
    """Decide every tensor's type and the exact size of the output, before a byte is written.

    source is an open file or a path; like and imatrix may be paths too.

    Exactly one base: a tier ("quality", "i-compact", a path to a tier's .toml), an ftype of
    llama-quantize ("Q4_K_M"), like, another file whose types are taken over, or types, a name →
    type map with the reason for it. prior says what to believe of an imatrix where it saw little,
    as ``--prior`` does: "auto", "none" (what llama-quantize does), tokens, "all-experts:K";
    `quantize` applies the plan's. Everything else is as in `apex_native.plan.make_plan`; the plan
    also records this package's version. Works on a header without data. Raises PlanError, with
    strict also for every audit warning; ImatrixError for a prior the matrix does not allow.
    """
    with opened("source", source) as file:
        classification = classify(file)
        summary = _summary(file, matrix_of(imatrix), prior)
    plan = make_plan_from_facts(
        classification,
        tier=tier,
        ftype=ftype,
        like=types_of(like),
        types=types,
        reason=reason,
        semantics=semantics,
        edges=edges,
        tensor_types=tensor_types,
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        repair=repair,
        imatrix=summary,
        extra_metadata=_provenance(),
    )
    with opened("source", source) as file:
        plan = replace(plan, findings=(*plan.findings, *underflow_findings(file, plan)))
    if strict:
        plan.require_clean()
    return plan


def _summary(
    source: WeightSource, imatrix: Imatrix | None, prior: Prior | str | None
) -> ImatrixSummary | None:
    if imatrix is None:
        return None
    from apex_native.imatrix import Importance

    return Importance(imatrix, source.facts, prior).summary()


def _provenance() -> dict[str, MetadataValue]:
    info = core().build_info()
    return {
        "apex.version": info["version"],
        "apex.llama_cpp_commit": info["llama_cpp_commit"],
    }


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """What llama.cpp says of a file it loaded and computed with.

    mean_nll is the mean negative log-likelihood, in nats, of the text's tokens after the first:
    a sign of life, not a benchmark.
    """

    description: str
    n_parameters: int
    n_vocab: int
    n_tokens: int
    mean_nll: float


def check_load(
    path: str | os.PathLike[str], text: str, *, n_threads: int | None = None
) -> LoadCheck:
    """Load a file in llama.cpp on the CPU and decode the first 512 tokens of text.

    Raises GgufError with llama.cpp's reason where it refuses the file, or where logits are not
    finite; ValueError where text has fewer than two tokens.
    """
    result = core().load_check(os.fspath(path), text, n_threads=n_threads or os.cpu_count() or 1)
    forward_log()
    return LoadCheck(**result)
