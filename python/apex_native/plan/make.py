"""make_plan: from a classified model and a request to a finished, audited plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from apex_native.classification import FileKind, find_kind
from apex_native.errors import PlanError
from apex_native.plan.about import About, about_metadata
from apex_native.plan.audit import audit
from apex_native.plan.edges import Edges
from apex_native.plan.ftypes import FileType, copied_file_type, predominant_file_type
from apex_native.plan.imatrix import ImatrixSummary, entry_fit, imatrix_use
from apex_native.plan.metadata import kv_bytes, new_metadata, removed_metadata
from apex_native.plan.model import Plan
from apex_native.plan.names import weights_map_key
from apex_native.plan.overrides import overridden, with_overrides
from apex_native.plan.parts import (
    PlannedTensor,
    PlanOptions,
    rules_sha256,
)
from apex_native.plan.repair import repaired_metadata
from apex_native.plan.request import PlanRequest, Semantics, as_rule_texts, resolve_request
from apex_native.plan.resolve import Decision, resolve_types
from apex_native.types import Classification, GgmlType, GgufFacts, MetadataValue

__all__ = ["make_plan"]


def make_plan(
    classification: Classification,
    *,
    tier: str | None = None,
    ftype: str | None = None,
    semantics: Semantics = "published",
    edges: Edges | None = None,
    tensor_types: Sequence[str] = (),
    like: Mapping[str, GgmlType] | None = None,
    types: Mapping[str, GgmlType] | None = None,
    reason: str = "",
    output_tensor_type: GgmlType | None = None,
    token_embedding_type: GgmlType | None = None,
    leave_output_tensor: bool = False,
    pure: bool = False,
    repair: bool = False,
    override_kv: Sequence[str] = (),
    imatrix: ImatrixSummary | None = None,
    strict: bool = False,
    about: About | None = None,
    extra_metadata: Mapping[str, MetadataValue] | None = None,
) -> Plan:
    """Decide the type of every tensor and the exact size of the output.

    Exactly one base is given: a tier (name, ``i-`` name or ``.toml`` path), an ftype (one of
    llama-quantize's, decided as it would), like (another file's name → type map), or types (a name
    → type map of any origin, as a search finds one); a multimodal projector needs none and gets the
    type they are published in. Options come before tensor_types ("REGEX=TYPE", first match wins),
    these before the tier's rules, these before the base mix; the shape fallback comes last. A plan
    that lacks an imatrix it needs is still made, so that sizes are known first: see
    ``Plan.blocking_findings``.

    Args:
        classification: the model's tensors with their roles, and the facts they come from.
        tier: recipe; its base mix decides what its rules do not name.
        ftype: name, alias or number of a file type.
        semantics: "published" leaves a tier's type to the base mix where it equals the mix's
            default type, as in the published files; "declared" applies every rule.
        edges: layer widths for a tier, instead of those for the model's depth.
        tensor_types: rules that override the base.
        like: name → type map of another file.
        types: name → type map; tensors it lacks stay as they are.
        reason: why types are as they are; it stands with every tensor they decide.
        output_tensor_type: type of ``output.weight`` (or of tied embeddings).
        token_embedding_type: type of the token embeddings.
        leave_output_tensor: keep ``output.weight`` in its source type.
        pure: no mix, every tensor in the file type's default type.
        repair: write layer counts without the layers that have no tensors (multi-token prediction).
        override_kv: metadata to write instead of the source's, ``KEY=TYPE:VALUE`` as
            llama-quantize's option of that name takes it; the plan is made with it too.
        imatrix: which entries the importance matrix has.
        strict: raise instead of returning a plan with findings above INFO.
        about: what the file says of itself, instead of the source's words.
        extra_metadata: further key-value pairs to write, typed as ``MetadataEntry.infer`` does.

    Raises:
        PlanError: the file is no model, the request is not valid, a tensor cannot be given a
            type, or strict found something.
    """
    given = like if types is None else types
    ftype = _checked_file_type(classification.facts, tier, ftype, given)
    options = PlanOptions(
        tensor_types=as_rule_texts(tensor_types),
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        repair=repair,
        override_kv=as_rule_texts(override_kv, "override_kv"),
    )
    classification = overridden(classification, options.override_kv)
    request = resolve_request(
        classification,
        tier=tier,
        ftype=ftype,
        like=like,
        types=types,
        reason=reason,
        semantics=semantics,
        edges=edges,
        options=options,
        imatrix=imatrix,
    )
    plan = _assemble(request, classification, about or About(), extra_metadata or {})
    if strict:
        plan.require_clean()
    return plan


def _assemble(
    request: PlanRequest,
    classification: Classification,
    about: About,
    extra_metadata: Mapping[str, MetadataValue],
) -> Plan:
    facts = classification.facts
    decisions = resolve_types(request, classification, request.semantics)
    notes = _differences_between_semantics(request, classification, decisions)
    tensors = _planned_tensors(request, classification, decisions, notes)
    file_type = _file_type_number(request, facts, tensors)
    digest = rules_sha256((tensor.name, tensor.type) for tensor in tensors)
    repaired = repaired_metadata(classification, facts) if request.options.repair else ()
    described = (*repaired, *about_metadata(about, facts))
    new = (*described, *new_metadata(request, file_type, digest, extra_metadata))
    written = with_overrides(new, request.options.override_kv)
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
        findings=audit(request, classification, facts, tensors, decisions),
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
                imatrix_source=_other_source(request.imatrix, tensor.name),
            )
        )
    return tuple(planned)


def _other_source(imatrix: ImatrixSummary | None, name: str) -> str:
    source = name if imatrix is None else imatrix.source(name)
    return "" if source == name else source


def _differences_between_semantics(
    request: PlanRequest,
    classification: Classification,
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
    for name, there in resolve_types(request, classification, other).items():
        if there.type is not decisions[name].type:
            notes[name] = f"{other} semantics give {there.type}: {there.reason}"
    return notes


def _file_type_number(
    request: PlanRequest, facts: GgufFacts, tensors: Sequence[PlannedTensor]
) -> int:
    if request.file_type is None or request.tier is not None:
        return predominant_file_type((tensor.type, tensor.nbytes) for tensor in tensors)
    if request.file_type is FileType.COPY:
        in_order = sorted(facts.tensors, key=lambda tensor: weights_map_key(tensor.name))
        return copied_file_type(facts, in_order)
    return request.file_type.number


_NO_MODEL = {
    FileKind.LORA_ADAPTER: "llama.cpp applies adapters as they are (`llama-cli --lora`)",
    FileKind.CONTROL_VECTOR: "llama.cpp adds them as they are (`llama-cli --control-vector`)",
    FileKind.IMATRIX: "give it to the model's quantization as `imatrix`",
}


def _checked_file_type(
    facts: GgufFacts,
    tier: str | None,
    ftype: str | None,
    like: Mapping[str, GgmlType] | None,
) -> str | None:
    """The file type to plan with: a projector's is the usual one unless something is asked for."""
    kind = find_kind(facts)
    if kind in _NO_MODEL:
        raise PlanError(f"this is {_article(kind)}, no model to quantize; {_NO_MODEL[kind]}")
    if kind is not FileKind.PROJECTOR:
        return ftype
    if tier is not None:
        raise PlanError(
            f"this is {_article(kind)} and tiers are for language models; leave `tier` out for "
            f"{default_projector_type(facts)}, or give an `ftype`"
        )
    return default_projector_type(facts) if ftype is None and like is None else ftype


def _article(kind: FileKind) -> str:
    return f"{'an' if kind.value[0] in 'aeiou' else 'a'} {kind.value}"


def default_projector_type(facts: GgufFacts) -> str:
    """Q8_0 from 16 bits, F16 from 32: what projectors are published in."""
    n_bytes: Counter[GgmlType] = Counter()
    for tensor in facts.tensors:
        if len(tensor.shape) > 1:
            n_bytes[tensor.type] += tensor.nbytes
    return "F16" if n_bytes and n_bytes.most_common(1)[0][0] is GgmlType.F32 else "Q8_0"
