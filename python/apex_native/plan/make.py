"""make_plan: from a classified model and a request to a finished, audited plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apex_native.errors import PlanError
from apex_native.plan.audit import audit
from apex_native.plan.edges import Edges
from apex_native.plan.ftypes import FileType, copied_file_type, predominant_file_type
from apex_native.plan.imatrix import ImatrixSummary, entry_fit, imatrix_use
from apex_native.plan.metadata import kv_bytes, new_metadata, removed_metadata
from apex_native.plan.model import Plan
from apex_native.plan.names import weights_map_key
from apex_native.plan.parts import (
    Finding,
    PlannedTensor,
    PlanOptions,
    Severity,
    rules_sha256,
)
from apex_native.plan.request import PlanRequest, Semantics, as_rule_texts, resolve_request
from apex_native.plan.resolve import Decision, resolve_types
from apex_native.types import Classification, GgmlType, GgufFacts, MetadataValue

__all__ = ["make_plan"]

_FINDINGS_SHOWN = 8


def make_plan(
    classification: Classification,
    facts: GgufFacts,
    *,
    tier: str | None = None,
    ftype: str | None = None,
    semantics: Semantics = "published",
    edges: Edges | None = None,
    tensor_types: Sequence[str] = (),
    like: Mapping[str, GgmlType] | None = None,
    output_tensor_type: GgmlType | None = None,
    token_embedding_type: GgmlType | None = None,
    leave_output_tensor: bool = False,
    pure: bool = False,
    imatrix: ImatrixSummary | None = None,
    strict: bool = False,
    extra_metadata: Mapping[str, MetadataValue] | None = None,
) -> Plan:
    """Decide the type of every tensor and the exact size of the output.

    Exactly one base is given: a tier (name, ``i-`` name or ``.toml`` path), an ftype (one of
    llama-quantize's, decided as it would), or like (another file's name → type map). Options
    come before tensor_types ("REGEX=TYPE", first match wins), these before the tier's rules,
    these before the base mix; the shape fallback comes last. A plan that lacks an imatrix it
    needs is still made, so that sizes are known first: see ``Plan.blocking_findings``.

    Args:
        classification: the model's tensors with their roles.
        facts: metadata and tensor table of the same file.
        tier: recipe; its base mix decides what its rules do not name.
        ftype: name, alias or number of a file type.
        semantics: "published" leaves a tier's type to the base mix where it equals the mix's
            default type, as in the published files; "declared" applies every rule.
        edges: layer widths for a tier, instead of those for the model's depth.
        tensor_types: rules that override the base.
        like: name → type map.
        output_tensor_type: type of ``output.weight`` (or of tied embeddings).
        token_embedding_type: type of the token embeddings.
        leave_output_tensor: keep ``output.weight`` in its source type.
        pure: no mix, every tensor in the file type's default type.
        imatrix: which entries the importance matrix has.
        strict: raise instead of returning a plan with findings above INFO.
        extra_metadata: further key-value pairs to write, typed as ``MetadataEntry.infer`` does.

    Raises:
        PlanError: the request is not valid, a tensor cannot be given a type, or strict found
            something.
    """
    _check_same_file(classification, facts)
    options = PlanOptions(
        tensor_types=as_rule_texts(tensor_types),
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
    )
    request = resolve_request(
        classification,
        tier=tier,
        ftype=ftype,
        like=like,
        semantics=semantics,
        edges=edges,
        options=options,
        imatrix=imatrix,
    )
    plan = _assemble(request, classification, facts, extra_metadata or {})
    if strict:
        _check_findings(plan.findings)
    return plan


def _assemble(
    request: PlanRequest,
    classification: Classification,
    facts: GgufFacts,
    extra_metadata: Mapping[str, MetadataValue],
) -> Plan:
    decisions = resolve_types(request, classification, facts, request.semantics)
    notes = _differences_between_semantics(request, classification, facts, decisions)
    tensors = _planned_tensors(request, classification, decisions, notes)
    file_type = _file_type_number(request, facts, tensors)
    digest = rules_sha256((tensor.name, tensor.type) for tensor in tensors)
    written = new_metadata(request, file_type, digest, extra_metadata)
    removed = removed_metadata(request, facts, written)
    return Plan(
        base=request.base,
        tier=request.tier.name if request.tier else None,
        semantics=request.semantics if request.tier else None,
        ftype=request.file_type.name if request.file_type else "",
        file_type=file_type,
        architecture=classification.architecture,
        n_layer=classification.n_layer,
        n_layer_all=classification.n_layer_all,
        edges=request.edges,
        edges_rule=request.edges_rule,
        needs_imatrix=request.needs_imatrix,
        imatrix_sha256=request.imatrix.sha256 if request.imatrix else None,
        options=request.options,
        tensors=tensors,
        metadata=written,
        metadata_removed=removed,
        kv_bytes=kv_bytes(facts, written, removed),
        findings=audit(request, tensors, decisions),
    )


def _planned_tensors(
    request: PlanRequest,
    classification: Classification,
    decisions: Mapping[str, Decision],
    notes: Mapping[str, str],
) -> tuple[PlannedTensor, ...]:
    planned = []
    for tensor in classification.tensors:
        decision = decisions[tensor.name]
        source = tensor.info.type
        planned.append(
            PlannedTensor(
                name=tensor.name,
                role=tensor.role,
                layer=tensor.layer,
                is_mtp=tensor.is_mtp,
                shape=tensor.info.shape,
                source_type=source,
                wanted=decision.wanted,
                type=decision.type,
                decided_by=decision.decided_by,
                reason=decision.reason,
                imatrix=imatrix_use(tensor.name, source, decision.type, request.file_type),
                imatrix_entry=entry_fit(request.imatrix, tensor.info),
                note=notes.get(tensor.name, ""),
            )
        )
    return tuple(planned)


def _differences_between_semantics(
    request: PlanRequest,
    classification: Classification,
    facts: GgufFacts,
    decisions: Mapping[str, Decision],
) -> dict[str, str]:
    """For each tensor the other semantics would store differently, how and why.

    Both are resolved in full: a rule that is skipped in one layer also moves the counters of the
    base mix for later ones.
    """
    if request.tier is None:
        return {}
    other: Semantics = "declared" if request.semantics == "published" else "published"
    notes = {}
    for name, there in resolve_types(request, classification, facts, other).items():
        if there.type is not decisions[name].type:
            notes[name] = f"{other} semantics give {there.type}: {there.reason}"
    return notes


def _file_type_number(
    request: PlanRequest, facts: GgufFacts, tensors: Sequence[PlannedTensor]
) -> int:
    if request.file_type is None:
        return predominant_file_type((tensor.type, tensor.n_elements) for tensor in tensors)
    if request.file_type is FileType.COPY:
        in_order = sorted(facts.tensors, key=lambda tensor: weights_map_key(tensor.name))
        return copied_file_type(facts, in_order)
    return request.file_type.number


def _check_same_file(classification: Classification, facts: GgufFacts) -> None:
    classified = tuple(tensor.info for tensor in classification.tensors)
    if classified != facts.tensors:
        raise PlanError(
            f"classification ({len(classified)} tensors) and facts ({len(facts.tensors)} tensors) "
            "are not of the same file; classify the facts that are planned"
        )


def _check_findings(findings: Sequence[Finding]) -> None:
    bad = [finding for finding in findings if finding.severity is not Severity.INFO]
    if not bad:
        return
    lines = [f"{f.kind}: {f.tensor + ': ' if f.tensor else ''}{f.message}" for f in bad]
    shown = "\n  ".join(lines[:_FINDINGS_SHOWN])
    more = f"\n  and {len(lines) - _FINDINGS_SHOWN} more" if len(lines) > _FINDINGS_SHOWN else ""
    count = f"{len(lines)} finding{'s' if len(lines) > 1 else ''}"
    raise PlanError(f"the plan has {count}:\n  {shown}{more}")
