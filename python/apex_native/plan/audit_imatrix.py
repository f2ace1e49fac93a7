"""What the importance matrix lacks for a plan: of the whole, of entries, of experts and columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apex_native.plan.imatrix import EntryDoubts, EntryFit, ImatrixSummary, ImatrixUse
from apex_native.plan.names import is_token_embedding
from apex_native.plan.parts import Finding, FindingKind, PlannedTensor
from apex_native.plan.request import PlanRequest

__all__ = ["imatrix_findings"]

_LISTED = 6
"""Experts named in a finding; the rest is counted."""


def imatrix_findings(request: PlanRequest, tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    """All findings about the importance matrix, or about there being none."""
    if request.imatrix is None:
        yield from _none_given(request, tensors)
        return
    yield from _as_a_whole(request.imatrix, tensors)
    yield from _entries(tensors)
    yield from _other_names(request.imatrix, tensors)
    for tensor in tensors:
        doubts = request.imatrix.doubts.get(tensor.name)
        used = tensor.imatrix is not ImatrixUse.UNUSED and tensor.imatrix_entry is EntryFit.FITS
        if doubts is not None and used:
            yield from _doubts(tensor, doubts, fills_gaps=request.imatrix.fills_gaps)


def _none_given(request: PlanRequest, tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    needy = [tensor for tensor in tensors if tensor.imatrix is ImatrixUse.REQUIRED]
    if request.needs_imatrix and request.tier is not None:
        message = f"tier {request.tier.name} needs an importance matrix and none is given"
        yield Finding(FindingKind.IMATRIX_NEEDED, "", message)
    elif needy:
        types = ", ".join(sorted({tensor.type.name for tensor in needy}))
        message = f"no importance matrix is given and {len(needy)} tensors need it ({types})"
        yield Finding(FindingKind.IMATRIX_NEEDED, needy[0].name, message)


def _as_a_whole(imatrix: ImatrixSummary, tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    used = {imatrix.source(tensor.name) for tensor in tensors}
    strangers = [name for name in imatrix.entries if name not in used]
    if len(strangers) == len(imatrix.entries):
        first = f", the first is {strangers[0]}" if strangers else ""
        message = (
            f"the importance matrix has {len(strangers)} entries and none is of a tensor of this "
            f"model{first}"
        )
        yield Finding(FindingKind.IMATRIX_MATCHES_NOTHING, "", message)
        return
    if strangers:
        message = (
            f"the importance matrix has {len(strangers)} entries for tensors this model lacks, "
            f"the first is {strangers[0]}; it may be of another model"
        )
        yield Finding(FindingKind.IMATRIX_FOREIGN, "", message)
    able = [tensor for tensor in tensors if tensor.imatrix is not ImatrixUse.UNUSED]
    served = [tensor for tensor in able if tensor.imatrix_entry is EntryFit.FITS]
    # llama-imatrix has no data for the embeddings, which are looked up, and none for the output
    # unless it is asked to.
    lacking = [
        tensor
        for tensor in able
        if tensor.imatrix_entry is EntryFit.MISSING
        and not (is_token_embedding(tensor.name) or tensor.name == "output.weight")
    ]
    if lacking:
        share = sum(t.n_elements for t in served) / sum(t.n_elements for t in able)
        message = (
            f"the importance matrix serves {len(served)} of the {len(able)} tensors that can use "
            f"one ({share:.1%} of their weights), not {lacking[0].name}"
        )
        yield Finding(FindingKind.IMATRIX_PARTIAL, "", message)


def _entries(tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    """Entries that are missing or of the wrong size."""
    for tensor in tensors:
        entry = tensor.imatrix_entry
        if tensor.imatrix is ImatrixUse.UNUSED or entry in (EntryFit.FITS, EntryFit.NOT_GIVEN):
            continue
        problem = "has no entry" if entry is EntryFit.MISSING else "has an entry of the wrong size"
        if tensor.imatrix is ImatrixUse.REQUIRED:
            kind = FindingKind.IMATRIX_NEEDED
            message = f"{tensor.type} needs an importance matrix; the given one {problem}"
        elif entry is EntryFit.WRONG_SIZE and not is_token_embedding(tensor.name):
            kind = FindingKind.IMATRIX_WRONG_SIZE
            message = f"the importance matrix {problem}; it is of another model or version"
        else:
            kind = FindingKind.IMATRIX_LACKS_ENTRY
            message = f"the importance matrix {problem}: quantized without it"
        yield Finding(kind, tensor.name, message)


def _other_names(imatrix: ImatrixSummary, tensors: Sequence[PlannedTensor]) -> Iterator[Finding]:
    """Data under the name of a fused or an unfused form: used where exact, otherwise not."""
    for tensor in tensors:
        if tensor.imatrix is ImatrixUse.UNUSED:
            continue
        if tensor.imatrix_source:
            message = f"takes the entry of {tensor.imatrix_source}, which has the same input"
            yield Finding(FindingKind.IMATRIX_SAME_INPUT, tensor.name, message)
        elif tensor.name in imatrix.unusable:
            names = " and ".join(imatrix.unusable[tensor.name])
            message = f"the matrix's {names} describe another input and are not used for it"
            yield Finding(FindingKind.IMATRIX_OTHER_INPUT, tensor.name, message)


def _doubts(tensor: PlannedTensor, doubts: EntryDoubts, *, fills_gaps: bool) -> Iterator[Finding]:
    slices = "experts" if tensor.role.is_routed_expert else "slices"
    n_unseen = len(doubts.unseen)
    if n_unseen == doubts.n_slices:
        message = "the importance matrix says nothing of it: all columns count alike"
        if not fills_gaps:
            message = "the importance matrix says nothing of it: no tokens, or sums of zero"
        yield Finding(FindingKind.IMATRIX_SAYS_NOTHING, tensor.name, message)
    elif n_unseen:
        remedy = "the prior gives them the others' mean profile"
        if not fills_gaps:
            remedy = "their columns count alike, or not at all; a prior would fill them"
        message = (
            f"calibration reached {doubts.n_slices - n_unseen} of {doubts.n_slices} {slices}, not "
            f"{_listed(slices, doubts.unseen)}: {remedy}"
        )
        yield Finding(FindingKind.EXPERTS_UNSEEN, tensor.name, message)
    if doubts.few:
        message = (
            f"{len(doubts.few)} of {doubts.n_slices} {slices} saw few tokens in calibration: "
            f"{_listed(slices, doubts.few)}"
        )
        yield Finding(FindingKind.EXPERTS_FEW_TOKENS, tensor.name, message)
    if doubts.silent_columns:
        silent = f"{doubts.silent_columns} of {doubts.n_columns} columns have importance 0"
        if fills_gaps:
            message = f"{silent}: the prior raises them to a share of the mean"
            yield Finding(FindingKind.COLUMNS_RAISED, tensor.name, message)
        else:
            message = f"{silent}: {tensor.type} may write their weights as zeros"
            yield Finding(FindingKind.COLUMNS_SILENT, tensor.name, message)


def _listed(noun: str, numbers: Sequence[int]) -> str:
    """Expert 3, experts 3, 5: numbers of experts, not of tokens."""
    noun = noun if len(numbers) > 1 else noun.removesuffix("s")
    shown = f"{noun} " + ", ".join(str(number) for number in numbers[:_LISTED])
    more = len(numbers) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown
