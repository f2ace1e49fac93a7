"""Which programs cannot read a type: shown before hours are spent on a file nobody can open.

llama.cpp at this package's pin reads all types it writes. For the others:

| type | gguf (Python) | Ollama |
|---|---|---|
| MXFP4 | 0.18.0 and later | yes |
| TQ1_0, TQ2_0 | 0.16.3 and later | no |
| NVFP4, Q1_0 | 0.19.0 and later | no |
| Q2_0 | not up to 0.19.0 | no |

gguf: ``GGMLQuantizationType`` in gguf/constants.py of the releases 0.10.0, 0.16.3, 0.17.1, 0.18.0
and 0.19.0; a reader that lacks a type cannot open the file at all. Ollama: ``TensorType`` in
fs/ggml/type.go at ollama/ollama@1f9b1debf, which marks the ternary types as not supported and ends
at MXFP4. (It marks the IQ types so too, but runs them through llama.cpp since: issue 4786.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from apex_native.plan.parts import Finding, FindingKind
from apex_native.types import GgmlType

__all__ = ["CANNOT_READ", "reader_findings"]

_OLLAMA = "Ollama does not support it"

CANNOT_READ = {
    GgmlType.Q2_0: f"gguf 0.19.0 (Python) cannot open a file with it, {_OLLAMA}",
    GgmlType.NVFP4: f"gguf before 0.19.0 (Python) cannot open a file with it, {_OLLAMA}",
    GgmlType.Q1_0: f"gguf before 0.19.0 (Python) cannot open a file with it, {_OLLAMA}",
    GgmlType.TQ1_0: _OLLAMA,
    GgmlType.TQ2_0: _OLLAMA,
}


def reader_findings(types: Iterable[GgmlType]) -> Iterator[Finding]:
    """A warning for each type of an output that a common reader cannot open."""
    for type, count in Counter(types).items():
        if type in CANNOT_READ:
            tensors = "1 tensor" if count == 1 else f"{count} tensors"
            message = f"{type} ({tensors}): {CANNOT_READ[type]}"
            yield Finding(FindingKind.READERS_LACK_TYPE, "", message)
