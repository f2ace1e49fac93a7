"""The key-value pairs of the output: what is written anew, what is not copied, what they weigh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apex_native.errors import PlanError
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.plan.ftypes import FileType
from apex_native.plan.imatrix import ImatrixSummary
from apex_native.plan.request import PlanRequest
from apex_native.types import GgufFacts, MetadataValue

__all__ = ["kv_bytes", "new_metadata", "removed_metadata"]

QUANTIZATION_VERSION = 2
"""GGML_QNT_VERSION of the pinned ggml."""

_MAX_OVERRIDE_BYTES = 127
"""llama-quantize passes the imatrix strings through a char[128]."""

_NOT_COPIED = frozenset({"split.no", "split.count", "split.tensors.count", "general.alignment"})
"""The output is one file (shards state their own split keys), written with alignment 32."""

_PROVENANCE_PREFIXES = ("apex.", "quantize.imatrix.")
"""Keys that describe how a file was quantized; false in a copy that was quantized otherwise."""


def new_metadata(
    request: PlanRequest,
    file_type: int,
    rules_sha256: str,
    extra: Mapping[str, MetadataValue],
) -> tuple[MetadataEntry, ...]:
    """The pairs this plan writes, each key once; extra ones (typed by inference) come last.

    Raises PlanError if an extra key is one the plan writes itself.
    """
    entries = [
        MetadataEntry("general.quantization_version", GgufValueType.UINT32, QUANTIZATION_VERSION),
        MetadataEntry("general.file_type", GgufValueType.UINT32, file_type),
    ]
    if request.tier is not None:
        entries.append(MetadataEntry("apex.tier", GgufValueType.STRING, request.tier.name))
        entries.append(MetadataEntry("apex.semantics", GgufValueType.STRING, request.semantics))
    entries.append(MetadataEntry("apex.rules_sha256", GgufValueType.STRING, rules_sha256))
    if request.imatrix is not None and request.file_type is not FileType.COPY:
        entries.extend(_imatrix_metadata(request.imatrix))
    own = {entry.key for entry in entries}
    for key, value in extra.items():
        if key in own:
            raise PlanError(f"extra metadata '{key}' is written by the plan itself; leave it out")
        entries.append(MetadataEntry.infer(key, value))
    return tuple(entries)


def _imatrix_metadata(imatrix: ImatrixSummary) -> list[MetadataEntry]:
    """What llama-quantize records of an imatrix, and the hash of its file."""
    string, u32 = GgufValueType.STRING, GgufValueType.UINT32
    entries = [MetadataEntry("apex.imatrix_sha256", string, imatrix.sha256)]
    if not imatrix.entries:
        return entries
    if imatrix.prior is not None:
        entries.append(MetadataEntry("apex.imatrix_prior", string, imatrix.prior))
    entries.append(MetadataEntry("quantize.imatrix.file", string, _cut(imatrix.file)))
    if imatrix.datasets:
        dataset = _cut(imatrix.datasets[0])
        entries.append(MetadataEntry("quantize.imatrix.dataset", string, dataset))
    n_entries = len(imatrix.entries)
    entries.append(MetadataEntry("quantize.imatrix.entries_count", u32, n_entries))
    if imatrix.chunk_count > 0:
        entries.append(MetadataEntry("quantize.imatrix.chunks_count", u32, imatrix.chunk_count))
    return entries


def _cut(text: str) -> str:
    """At most 127 bytes of UTF-8, cut between characters (llama-quantize may cut inside one)."""
    return text.encode()[:_MAX_OVERRIDE_BYTES].decode(errors="ignore")


def removed_metadata(
    request: PlanRequest, facts: GgufFacts, written: Iterable[MetadataEntry]
) -> tuple[str, ...]:
    """The source's keys that are not copied; those that are written anew do not count."""
    new_keys = {entry.key for entry in written}
    stale_prefixes = () if request.file_type is FileType.COPY else _PROVENANCE_PREFIXES
    return tuple(
        key
        for key in facts.kv_sizes
        if key not in new_keys and (key in _NOT_COPIED or key.startswith(stale_prefixes))
    )


def kv_bytes(facts: GgufFacts, written: Iterable[MetadataEntry], removed: Iterable[str]) -> int:
    """Encoded size of all pairs of the output: the source's that are copied, and the new ones."""
    sizes = dict(facts.kv_sizes)
    for key in removed:
        sizes.pop(key, None)
    for entry in written:
        sizes[entry.key] = entry.nbytes
    return sum(sizes.values())
