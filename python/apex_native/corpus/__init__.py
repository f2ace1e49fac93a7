"""Calibration texts: a recipe of domains, sources and a budget of tokens becomes a text."""

from __future__ import annotations

from apex_native.corpus.build import SHARE_TOLERANCE, build_corpus
from apex_native.corpus.builtin import builtin_topics
from apex_native.corpus.corpus import Corpus, domain_paths, load_corpus, manifest_path
from apex_native.corpus.protocols import CorpusProgress, GeneratingModel, Tokenizer
from apex_native.corpus.recipe import (
    Domain,
    Recipe,
    load_recipe,
    parse_recipe,
    recipe_names,
    recipe_text,
)
from apex_native.corpus.self_text import GenerationJournal

__all__ = [
    "SHARE_TOLERANCE",
    "Corpus",
    "CorpusProgress",
    "Domain",
    "GeneratingModel",
    "GenerationJournal",
    "Recipe",
    "Tokenizer",
    "build_corpus",
    "builtin_topics",
    "domain_paths",
    "load_corpus",
    "load_recipe",
    "manifest_path",
    "parse_recipe",
    "recipe_names",
    "recipe_text",
]
