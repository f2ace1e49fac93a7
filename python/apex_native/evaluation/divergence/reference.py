"""What candidates are compared with: a model, or llama-perplexity's base file of one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_native._native import core
from apex_native.engine import Model
from apex_native.errors import DataError
from apex_native.evaluation.divergence.options import TextOptions
from apex_native.evaluation.divergence.text import Chunks, Text, chunk_text, hash_tokens
from apex_native.evaluation.model_pool import ModelPool
from apex_native.evaluation.model_under_test import ModelUnderTest
from apex_native.evaluation.record import Fields, reference_row
from apex_native.results import Reference, TextData

__all__ = [
    "AnyReference",
    "OpenReference",
    "is_base_file",
    "open_reference",
    "require_same_tokenizer",
]

BASE_MAGIC = b"_logits_"

AnyReference = ModelUnderTest | Path | None
"""A model, the path of a base file, or nothing to compare with."""


@dataclass(frozen=True, slots=True)
class OpenReference:
    """A reference whose logits can be had: from a loaded model, a base file, stored hidden states.

    Without any of these candidates are scored alone. With a model hidden takes its states.
    """

    tested: ModelUnderTest | None = None
    model: Model | None = None
    base: Any = None
    base_path: Path | None = None
    hidden: Any = None

    @property
    def exists(self) -> bool:
        """False where candidates are scored alone."""
        return self.model is not None or self.base is not None or self.hidden is not None

    def row(self, fields: Fields | None = None) -> Reference | None:
        """The reference's row of the results, with what was measured."""
        if self.tested is not None:
            return reference_row(self.tested, fields)
        if self.base_path is None:
            return None
        return Reference(self.base_path.name, path=str(self.base_path), **(fields or {}))

    def chunks(self, text: Text | None, tokenizer: Model, options: TextOptions) -> Chunks:
        """The tokens to score; a base file brings its own."""
        if self.base is None:
            if text is None:
                raise ValueError("an evaluation needs a text")
            return chunk_text(
                text,
                tokenizer,
                ctx=options.ctx,
                n_chunks=options.chunks,
                parse_special=options.parse_special,
            )
        return self._base_chunks(text, tokenizer, options)

    def _base_chunks(self, text: Text | None, tokenizer: Model, options: TextOptions) -> Chunks:
        base, path = self.base, self.base_path
        assert path is not None
        if base.n_vocab != tokenizer.n_vocab:
            raise DataError(
                f"{path} was made with a vocabulary of {base.n_vocab} tokens, "
                f"{tokenizer.path} has {tokenizer.n_vocab}; it is another model's"
            )
        tokens = base.tokens
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < base.n_vocab:
            raise DataError(f"{path}: holds tokens outside its vocabulary of {base.n_vocab}")
        n_chunks = options.chunks or base.n_chunks
        if n_chunks > base.n_chunks:
            raise DataError(f"{path} has {base.n_chunks} chunks, not {n_chunks}")
        used = tokens[: n_chunks * base.n_ctx]
        if text is not None:
            own = tokenizer.tokenize(
                text.content, add_special=True, parse_special=options.parse_special
            )[: len(used)]
            if len(own) != len(used) or (own != used).any():
                raise DataError(f"{path} was made from another text than {text.name}")
        data = TextData(
            name=path.name if text is None else text.name,
            sha256=hashlib.sha256(used.tobytes()).hexdigest(),
            n_tokens=len(tokens),
            n_chunks=n_chunks,
            ctx=base.n_ctx,
            parse_special=options.parse_special,
            add_bos=tokenizer.add_bos,
            tokens_sha256=hash_tokens(used),
        )
        return Chunks(used.copy(), data)


def is_base_file(path: Path) -> bool:
    """True if the file begins as llama-perplexity's files of log-probabilities do."""
    try:
        with path.open("rb") as file:
            return file.read(len(BASE_MAGIC)) == BASE_MAGIC
    except OSError:
        return False


def open_reference(
    reference: AnyReference, pool: ModelPool, *, gpu_reserve: int = 0
) -> OpenReference:
    """Load a model, open a base file; GgufError, ModelError, DataError. See `ModelPool.load`."""
    if reference is None:
        return OpenReference()
    if isinstance(reference, Path):
        return OpenReference(base=core.BaseFile(str(reference)), base_path=reference)
    return OpenReference(tested=reference, model=pool.load(reference, gpu_reserve=gpu_reserve))


def require_same_tokenizer(fingerprint: str, source: str, model: Model) -> None:
    """DataError where a model's tokens do not mean what those of the source mean."""
    if model.fingerprint != fingerprint:
        raise DataError(
            f"{model.path} has another tokenizer than {source}: these are not quantizations "
            "of one model, and their probabilities cannot be compared"
        )
