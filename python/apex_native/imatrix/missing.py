"""What a matrix says nothing about, by name and with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apex_native.imatrix.entries import Imatrix
from apex_native.plan.allow import reason_to_keep
from apex_native.types import GgufFacts, TensorInfo

__all__ = ["MissingData", "missing_data"]


@dataclass(frozen=True, slots=True)
class MissingData:
    """A tensor that can be quantized and has no data, or too little."""

    tensor: str
    reason: str


def missing_data(imatrix: Imatrix, facts: GgufFacts) -> list[MissingData]:
    """Every quantizable tensor of a model that the matrix does not describe, in file order."""
    mtp_reason = str(imatrix.settings.get("mtp_reason", ""))
    architecture = str(facts.metadata.get("general.architecture", ""))
    names = {tensor.name for tensor in facts.tensors}
    return [
        MissingData(tensor.name, reason)
        for tensor in facts.tensors
        if reason_to_keep(tensor.name, tensor.shape, architecture) is None
        for reason in _reasons(imatrix, tensor, names, _first_mtp_layer(facts), mtp_reason)
    ]


def _reasons(
    imatrix: Imatrix, tensor: TensorInfo, names: set[str], first_mtp: int | None, mtp_reason: str
) -> Iterator[str]:
    entry = imatrix.entries.get(tensor.name)
    if entry is not None:
        unseen = int((entry.counts == 0).sum())
        if unseen:
            yield f"{unseen} of {len(entry.counts)} experts without a token"
    elif tensor.name == "token_embd.weight" and "output.weight" in names:
        yield "its rows are looked up, not multiplied"
    elif first_mtp is not None and _is_in_layer(tensor.name, first_mtp):
        yield f"MTP block: {mtp_reason}" if mtp_reason else "MTP block: not computed"
    else:
        yield "no matrix product read it"


def _first_mtp_layer(facts: GgufFacts) -> int | None:
    architecture = facts.metadata.get("general.architecture")
    n_mtp = facts.metadata.get(f"{architecture}.nextn_predict_layers", 0)
    n_layers = facts.metadata.get(f"{architecture}.block_count", 0)
    if not isinstance(n_mtp, int) or not isinstance(n_layers, int) or not 0 < n_mtp < n_layers:
        return None
    return n_layers - n_mtp


def _is_in_layer(name: str, first: int) -> bool:
    parts = name.split(".")
    return parts[0] == "blk" and parts[1].isdecimal() and int(parts[1]) >= first
