"""Text to measure on where the user gives none."""

from __future__ import annotations

import os
from dataclasses import replace

from apex_native.allocation.texts import DomainText
from apex_native.corpus import build_corpus, load_recipe
from apex_native.engine import load_model

__all__ = ["builtin_texts"]

RECIPE = "diverse"

SEED_OFFSET = 7919
"""Another seed than the calibration text's, which the recipe fixes."""

TOKENS = 100_000
"""Enough for all parts of a thorough search."""


def builtin_texts(model: str | os.PathLike[str], seed: int = 0) -> tuple[DomainText, ...]:
    """Chat, code, reasoning and tool calls, a domain each, in the model's own chat template."""
    recipe = load_recipe(RECIPE)
    texts = []
    with load_model(model, vocab_only=True) as tokenizer:
        for domain in recipe.domains:
            corpus = build_corpus(
                replace(recipe, domains=(replace(domain, share=1.0),)),
                tokenizer,
                seed=seed + SEED_OFFSET,
                tokens=TOKENS // len(recipe.domains),
                allow_short=True,
            )
            texts.append(DomainText(domain.name, corpus.text))
    return tuple(texts)
