"""Planning over an open file, and a first look at what came of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING

from apex_native._native import core, forward_log
from apex_native.api.arguments import AnyImatrix, AnySource, matrix_of, opened, types_of
from apex_native.argument_kinds import require_kind
from apex_native.classification import classify_tensors
from apex_native.errors import ModelError
from apex_native.gguf import open_gguf
from apex_native.machine import default_threads
from apex_native.plan import About, Edges, ImatrixSummary, Plan
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
    tier: str | os.PathLike[str] | None = None,
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
    override_kv: Sequence[str] = (),
    imatrix: AnyImatrix | None = None,
    prior: Prior | str | None = "auto",
    strict: bool = False,
    about: About | None = None,
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
        tier=_checked_tier(tier, ftype, edges),
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
        override_kv=override_kv,
        imatrix=summary,
        about=about,
        extra_metadata=_provenance(),
    )
    with opened("source", source) as file:
        plan = replace(plan, findings=(*plan.findings, *underflow_findings(file, plan)))
    if strict:
        plan.require_clean()
    return plan


def _checked_tier(tier: str | os.PathLike[str] | None, ftype: object, edges: object) -> str | None:
    """The tier as a text; TypeError where one of the recipe's parts is of a wrong kind."""
    advice = "give the name of a tier, or the path of a tier file"
    require_kind("tier", tier, (str, os.PathLike, NoneType), advice)
    require_kind("ftype", ftype, (str, NoneType), "give a name like 'Q4_K_M'")
    require_kind("edges", edges, (Edges, NoneType), "give apex.Edges(expert, near, attention)")
    return None if tier is None else os.fspath(tier)


def _summary(
    source: WeightSource, imatrix: Imatrix | None, prior: Prior | str | None
) -> ImatrixSummary | None:
    if imatrix is None:
        return None
    from apex_native.imatrix import Importance

    return Importance(imatrix, source.facts, prior).summary()


def _provenance() -> dict[str, MetadataValue]:
    info = core.build_info()
    return {
        "apex.version": info["version"],
        "apex.llama_cpp_commit": info["llama_cpp_commit"],
    }


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """What llama.cpp says of a file it loaded and computed with.

    kind is "language model", "encoder-decoder" or "encoder" (no logits: an embedder, say). mean_nll
    is the mean negative log-likelihood, in nats, of the text's tokens after the first: a sign of
    life, not a benchmark; None without logits or a vocabulary. zero_tensors names matrices that
    hold one value only.
    """

    description: str
    kind: str
    n_parameters: int
    n_vocab: int
    n_tokens: int
    mean_nll: float | None
    zero_tensors: tuple[str, ...] = ()


def check_load(
    path: str | os.PathLike[str], text: str, *, n_threads: int | None = None
) -> LoadCheck:
    """Load a file in llama.cpp on the CPU and compute the first 512 tokens of text.

    Encoders are asked for their embeddings, encoder-decoders for the text they read. Raises
    GgufError or ModelError with llama.cpp's reason where it refuses the file; ModelError where
    outputs are not finite, all equal, or a language model is no better than chance
    (ln n_vocab nats a token), naming matrices that hold one value only; ValueError where text has
    fewer than two tokens.
    """
    n_threads = n_threads or default_threads()
    found = core.load_check(os.fspath(path), text, n_threads=n_threads)
    forward_log()
    flat = _constant_matrices(path, n_threads)
    all_equal = found.pop("all_outputs_equal")
    checked = LoadCheck(**found, zero_tensors=flat)
    chance = math.log(checked.n_vocab) if checked.n_vocab > 1 else math.inf
    problem = ""
    if all_equal:
        problem = "computes the same value for every output"
    elif checked.kind == "language model" and (checked.mean_nll or 0) >= chance:
        problem = (
            f"needs {checked.mean_nll:.3f} nats for a token of an English text, no better than "
            f"chance, ln({checked.n_vocab:,}) = {chance:.3f}"
        )
    if problem:
        named = ", ".join(flat[:3]) + (f" and {len(flat) - 3} more" if len(flat) > 3 else "")
        cause = f"; these matrices hold one value only: {named}" if flat else ""
        raise ModelError(f"{path}: {problem}{cause}; its weights are damaged or untrained")
    return checked


def _constant_matrices(path: str | os.PathLike[str], n_threads: int) -> tuple[str, ...]:
    """Weight matrices whose values are all equal; a vector of ones or zeros is nothing unusual."""
    with open_gguf(path) as file:
        names = [
            tensor.name
            for tensor in file.tensors
            if tensor.type.is_target
            and tensor.name.endswith("weight")
            and sum(size > 1 for size in tensor.shape) > 1
        ]
        found = file.statistics(names, n_threads=n_threads) if names else []
    return tuple(
        name
        for name, values in zip(names, found, strict=True)
        if math.isclose(values.max_abs, abs(values.mean), rel_tol=1e-6)
    )
