"""What a collection is to compute, and what of it decides the sums."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from apex_native._native import core
from apex_native.engine import Model, Tokens

if TYPE_CHECKING:
    from apex_native._core import BorderStates

__all__ = ["CollectionPlan", "Scope"]

Scope = Literal["everything", "upstream"]


@dataclass(frozen=True, slots=True, eq=False)
class CollectionPlan:
    """What is to be computed: whole chunks of ctx tokens, and how."""

    tokens: Tokens
    ctx: int
    batch: int
    ubatch: int
    scope: Scope
    min_expert_tokens: int
    output: Path | None
    checkpoint_every: int | None
    moments: bool = False
    """Second moments too."""
    weights: tuple[str, ...] = ()
    """Of these weights only; empty: of all."""
    start: BorderStates | None = None
    """Where graphs start: what an earlier pass over the same chunks kept."""
    record: BorderStates | None = None
    """Where this pass keeps what goes into a layer."""

    @property
    def n_chunks(self) -> int:
        """Chunks at most computed."""
        return len(self.tokens) // self.ctx

    def group(self, group: int, n_seq: int) -> Tokens:
        """The tokens of a group of n_seq chunks, the last of which may be shorter."""
        n = n_seq * self.ctx
        return self.tokens[group * n : (group + 1) * n]

    def settings(self, model: Model) -> dict[str, Any]:
        """What decides the sums, as the file records it; the same on every machine."""
        info = core.build_info()
        return {
            "vocabulary": model.fingerprint,
            "parameters": model.n_parameters,
            "n_tokens": len(self.tokens),
            "tokens_sha256": hashlib.sha256(self.tokens.tobytes()).hexdigest(),
            "ctx": self.ctx,
            "batch": self.batch,
            "ubatch": self.ubatch,
            "scope": self.scope,
            "expert_used_count": model.expert_used_count,
            "min_expert_tokens": self.min_expert_tokens,
            "version": info["version"],
            "llama_cpp_commit": info["llama_cpp_commit"],
        }
