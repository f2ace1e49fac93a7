"""Stage `classify`: tensor table in, the role and layer of every tensor out.

Input: :class:`~apex_native.types.GgufFacts` (metadata and tensor table, no weights).
Output: :class:`~apex_native.types.Classification`, tensors in file order.
Invariants: every tensor comes out, exactly once; a name that no row of ``roles`` knows gets
``Role.OTHER``, an empty ``rule`` and a warning. Names are parsed and looked up, never searched
for substrings. Pure Python: needs neither numpy nor the native extension.
Not decided here: types (``plan``) and which tensors may be quantized at all (``plan``).
"""

from __future__ import annotations

from .kind import FileKind, find_kind
from .tensors import classify_tensors

__all__ = ["FileKind", "classify_tensors", "find_kind"]
