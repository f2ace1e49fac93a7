"""What building a corpus needs of a model; `apex_native.engine.Model` has all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["CorpusProgress", "GeneratingModel", "ProgressCallback", "Tokenizer", "Tokens"]

Tokens = npt.NDArray[np.int32]


@runtime_checkable
class Tokenizer(Protocol):
    """Counts tokens and knows the model's chat template."""

    @property
    def chat_template(self) -> str | None:
        """The Jinja template in the model's metadata."""

    @property
    def fingerprint(self) -> str:
        """The same for models whose tokens mean the same."""

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""

    @property
    def bos_token(self) -> int:
        """The token a text begins with, -1 if there is none."""

    @property
    def eos_token(self) -> int:
        """The token a text ends with, -1 if there is none."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        """Tokens of a text, int32 (n,)."""

    def token_text(self, token: int) -> str:
        """The text of one token."""


@runtime_checkable
class GeneratingModel(Tokenizer, Protocol):
    """Also writes text, for sources of kind ``self``."""

    @property
    def path(self) -> str:
        """The file it was loaded from."""

    @property
    def eos_tokens(self) -> tuple[int, ...]:
        """The tokens that end a generation."""

    def detokenize(self, tokens: Tokens | Sequence[int]) -> str:
        """The text of tokens, special ones as they are spelled."""

    def generate(
        self,
        prompt: Tokens | Sequence[int],
        *,
        n_predict: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
    ) -> Tokens:
        """Continue a prompt; ends after an end token, the same seed gives the same tokens."""


@dataclass(frozen=True, slots=True)
class CorpusProgress:
    """A snapshot: tokens of the budget that are there, and what is being drawn from."""

    tokens_done: int
    n_tokens: int
    source: str
    elapsed_s: float

    @property
    def share(self) -> float:
        """How much of the budget is there, 0 to 1."""
        return min(1.0, self.tokens_done / self.n_tokens) if self.n_tokens else 1.0

    @property
    def state(self) -> str:
        """Tokens and where they come from, in words."""
        return f"{self.tokens_done:,}/{self.n_tokens:,} tokens, {self.source}"

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the speed so far; None while unknown."""
        if not self.tokens_done or not self.elapsed_s:
            return None
        return max(0, self.n_tokens - self.tokens_done) * self.elapsed_s / self.tokens_done


ProgressCallback = Callable[[CorpusProgress], None]
