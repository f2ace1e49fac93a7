"""The short way through the stages: what ``import apex_native`` offers over an open file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apex_native._native import core, forward_log
from apex_native.classification import classify_tensors
from apex_native.plan import Edges, Plan
from apex_native.plan import make_plan as make_plan_from_facts
from apex_native.types import Classification, GgmlType, GgufFacts, MetadataValue

if TYPE_CHECKING:
    from apex_native.evaluation.models import EvalResults, Text
    from apex_native.gguf import GgufFile
    from apex_native.imatrix import Imatrix
    from apex_native.plan.request import Semantics

__all__ = ["LoadCheck", "check_load", "classify", "evaluate", "make_plan"]


def classify(source: GgufFile | GgufFacts) -> Classification:
    """A role, a layer and a place in the trunk for every tensor of an open file.

    Raises GgufError where the file's own counts contradict each other.
    """
    return classify_tensors(source if isinstance(source, GgufFacts) else source.facts)


def make_plan(
    source: GgufFile,
    *,
    tier: str | None = None,
    ftype: str | None = None,
    like: GgufFile | Mapping[str, GgmlType] | None = None,
    semantics: Semantics = "published",
    edges: Edges | None = None,
    tensor_types: Sequence[str] = (),
    output_tensor_type: GgmlType | None = None,
    token_embedding_type: GgmlType | None = None,
    leave_output_tensor: bool = False,
    pure: bool = False,
    imatrix: Imatrix | None = None,
    strict: bool = False,
) -> Plan:
    """Decide every tensor's type and the exact size of the output, before a byte is written.

    Exactly one base: a tier ("quality", "i-compact", a path to a tier's .toml), an ftype of
    llama-quantize ("Q4_K_M"), or like, another open file whose types are taken over. Everything
    else is as in `apex_native.plan.make_plan`; the plan also records this package's version.
    Works on a header without data. Raises PlanError; with strict also for every audit warning.
    """
    if like is not None and not isinstance(like, Mapping):
        like = {tensor.name: tensor.type for tensor in like.tensors}
    return make_plan_from_facts(
        classify(source),
        source.facts,
        tier=tier,
        ftype=ftype,
        like=like,
        semantics=semantics,
        edges=edges,
        tensor_types=tensor_types,
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        imatrix=imatrix.summary() if imatrix is not None else None,
        strict=strict,
        extra_metadata=_provenance(),
    )


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


def evaluate(
    reference: str | os.PathLike[str] | None,
    candidates: Sequence[str | os.PathLike[str]],
    text: str | os.PathLike[str] | Text | None = None,
    **settings: Any,
) -> EvalResults:
    """Perplexity of models, and how far candidates diverge from a reference, in one pass.

        found = apex.evaluate("model-bf16.gguf", ["quality.gguf", "mini.gguf"], "wiki.txt")
        found.results.candidates[0].kld_mean

    Settings (ctx, chunks, type_k, known, checkpoint, n_threads, ...), units and errors are those
    of `apex_native.evaluation.models.evaluate_models`.
    """
    from apex_native.evaluation.models import evaluate_models

    return evaluate_models(reference, candidates, text, **settings)
