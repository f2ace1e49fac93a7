"""From a recipe and a model to a calibration text."""

from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from apex_native.argument_kinds import require_kind
from apex_native.corpus.chat import ChatRenderer
from apex_native.corpus.corpus import MANIFEST_SCHEMA_VERSION, Corpus
from apex_native.corpus.fill import N_CANDIDATES, Fill, Piece, Preparation, interleave
from apex_native.corpus.protocols import CorpusProgress, ProgressCallback, Tokenizer
from apex_native.corpus.recipe import Domain, Recipe, load_recipe
from apex_native.corpus.self_text import GenerationJournal
from apex_native.corpus.source_specs import SelfSpec, SourceSpec
from apex_native.corpus.sources import Source, open_source
from apex_native.errors import CorpusError
from apex_native.printable import counted

__all__ = ["SHARE_TOLERANCE", "build_corpus"]

SHARE_TOLERANCE = 0.02
"""How far a domain's share of the tokens may be off what the recipe says."""

N_FREE_CANDIDATES = 3
"""Texts the model wrote freely that are thrown away for being too long: they can be cut to a
sixteenth, so little is gained by another, and each is a generation."""

_SHORTEST_PIECE_CHARS = 400
_PROGRESS_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What one source of a domain was asked for and gave."""

    domain: Domain
    spec: SourceSpec
    source: Source
    fill: Fill


def build_corpus(
    recipe: Recipe | str | os.PathLike[str],
    model: Tokenizer,
    *,
    seed: int | None = None,
    tokens: int | None = None,
    allow_short: bool = False,
    journal: GenerationJournal | None = None,
    progress: ProgressCallback | None = None,
) -> Corpus:
    """Build a calibration text for a model, the same bytes for the same recipe, seed and model.

    recipe: a Recipe, a shipped name or a ``.toml`` path. tokens and seed override the recipe's.
    allow_short: too little source text is a warning in the manifest and no error. journal: where
    text that the model writes itself is kept, to go on after an interruption. progress is called
    about ten times a second.

    Raises CorpusError for a recipe, source or chat template that cannot be used, and where a domain
    misses its share by more than `SHARE_TOLERANCE` of the tokens; TypeError for a model that is
    none, as a path.
    """
    require_kind(
        *("model", model, Tokenizer),
        "load it with apex.load_model (vocab_only=True is enough for most recipes)",
    )
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(os.fspath(recipe))
    recipe = recipe.with_options(tokens=tokens, seed=seed, allow_short=allow_short)
    return _Builder(recipe, model, journal, progress).build()


class _Builder:
    def __init__(
        self,
        recipe: Recipe,
        model: Tokenizer,
        journal: GenerationJournal | None,
        progress: ProgressCallback | None,
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._journal = journal
        self._progress = progress
        self._renderer = _renderer(recipe, model)
        self._prepare = Preparation(self._renderer, model, recipe.max_similarity)
        self._started = time.monotonic()
        self._reported = 0.0
        self._done = 0

    def build(self) -> Corpus:
        drawn = [one for domain in self._recipe.domains for one in self._draw_domain(domain)]
        warnings = self._check(drawn)
        pieces = self._mixed(drawn, "order")
        text = _text_of(pieces)
        counted = self._model.tokenize(text, add_special=False, parse_special=True)
        self._report_end(len(counted), len(pieces))
        data = text.encode()
        about_text = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "tokens": len(counted),
            "documents": len(pieces),
        }
        by_domain = {
            domain.name: _text_of(
                self._mixed([one for one in drawn if one.domain is domain], f"order/{domain.name}")
            )
            for domain in self._recipe.domains
        }
        return Corpus(text, self._manifest(about_text, drawn, warnings), by_domain)

    def _mixed(self, drawn: list[_Drawn], purpose: str) -> list[Piece]:
        return interleave([one.fill.pieces for one in drawn], self._rng(purpose))

    def _draw_domain(self, domain: Domain) -> list[_Drawn]:
        drawn: list[_Drawn] = []
        carried = 0.0
        for index, spec in enumerate(domain.sources):
            exact = self._recipe.tokens * domain.share * (spec.share or 0.0) + carried
            fill = Fill(wanted=max(0, round(exact)), n_candidates=_candidates(spec))
            source = self._open(spec, fill.wanted)
            rng = self._rng(f"{domain.name}/{index}/{spec.kind}/{spec.label}")
            label = f"{domain.name}: {spec.label}"
            before = self._done

            def on_piece(fill: Fill, label: str = label, before: int = before) -> None:
                self._done = before + fill.n_tokens
                self._report(label)

            self._report(label)
            fill.draw(source.documents(rng), self._prepare, on_piece)
            # A document more or less is made up for by the next source of the domain; a source
            # that ran dry is not, or one source would silently stand in for another.
            carried = 0.0 if fill.exhausted else exact - fill.n_tokens
            drawn.append(_Drawn(domain, spec, source, fill))
        return drawn

    def _open(self, spec: SourceSpec, wanted: int) -> Source:
        # Small budgets need small pieces, or no share could be met.
        max_chars = min(self._recipe.max_document_chars, max(_SHORTEST_PIECE_CHARS, wanted))
        return open_source(
            spec,
            recipe=self._recipe,
            max_chars=max_chars,
            model=self._model,
            renderer=self._renderer,
            journal=self._journal,
        )

    def _rng(self, purpose: str) -> random.Random:
        # Seeded by text: Python hashes it with SHA-512, the same on every machine.
        return random.Random(f"{self._recipe.seed}/{purpose}")

    def _report(self, label: str) -> None:
        elapsed = time.monotonic() - self._started
        if self._progress is not None and elapsed - self._reported >= _PROGRESS_EVERY_S:
            self._reported = elapsed
            self._progress(CorpusProgress(self._done, self._recipe.tokens, label, elapsed))

    def _report_end(self, n_tokens: int, n_documents: int) -> None:
        """The last word: what there is, and not where the last report happened to be."""
        if self._progress is not None:
            elapsed = time.monotonic() - self._started
            label = counted(n_documents, "document")
            self._progress(CorpusProgress(n_tokens, n_tokens, label, elapsed))

    def _check(self, drawn: list[_Drawn]) -> list[str]:
        """Warnings about what could not be met; CorpusError for what is too far off."""
        warnings = [_shortfall(one) for one in drawn if one.fill.exhausted or one.fill.shortest]
        for domain in self._recipe.domains:
            ours = [one for one in drawn if one.domain is domain]
            wanted = self._recipe.tokens * domain.share
            found = sum(one.fill.n_tokens for one in ours)
            if abs(found - wanted) <= SHARE_TOLERANCE * self._recipe.tokens:
                continue
            message = f"domain {domain.name}: {found:,} tokens, wanted {wanted:,.0f}"
            reasons = ", ".join(_shortfall(one) for one in ours if one.fill.exhausted)
            if reasons and found < wanted and not self._recipe.allow_short:
                raise CorpusError(
                    f"{message} ({reasons}); add sources, ask for another number of tokens, or "
                    "take what there is with allow_short = true"
                )
            # Without a dry source the budget is too small for whole documents to meet it.
            warnings.append(message)
        if not sum(one.fill.n_tokens for one in drawn):
            raise CorpusError(f"no text at all: {', '.join(warnings)}; ask for more tokens")
        return warnings

    def _manifest(
        self, about_text: dict[str, Any], drawn: list[_Drawn], warnings: list[str]
    ) -> dict[str, Any]:
        total = sum(one.fill.n_tokens for one in drawn)
        renderer = self._renderer
        return {
            "schema_version": MANIFEST_SCHEMA_VERSION,
            "version": metadata.version("apex-native"),
            "text": about_text,
            "parse_special": True,
            "seed": self._recipe.seed,
            "tokens_wanted": self._recipe.tokens,
            "tokenizer": {"fingerprint": self._model.fingerprint, "n_vocab": self._model.n_vocab},
            "chat_template": {
                "used": "plain" if renderer.is_plain else "model",
                "sha256": renderer.template_sha256,
                "notes": list(renderer.notes),
            },
            "domains": [
                _domain_record(domain, [one for one in drawn if one.domain is domain], total)
                for domain in self._recipe.domains
            ],
            "dropped_duplicates": sum(one.fill.dropped_duplicates for one in drawn),
            "recipe_sha256": self._recipe.sha256,
            "recipe": self._recipe.to_dict(),
            "warnings": warnings,
        }


def _candidates(spec: SourceSpec) -> int:
    return N_FREE_CANDIDATES if isinstance(spec, SelfSpec) and spec.free else N_CANDIDATES


def _text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _renderer(recipe: Recipe, model: Tokenizer) -> ChatRenderer:
    if recipe.chat_template == "plain":
        return ChatRenderer(None)

    def spelled(token: int) -> str:
        return model.token_text(token) if token >= 0 else ""

    return ChatRenderer(
        model.chat_template,
        bos_token=spelled(model.bos_token),
        eos_token=spelled(model.eos_token),
    )


def _shortfall(one: _Drawn) -> str:
    fill = one.fill
    reason = fill.exhausted or f"the shortest of its documents has {fill.shortest:,}"
    text = (
        f"source {one.spec.label} of domain {one.domain.name} gave {fill.n_tokens:,} of "
        f"{fill.wanted:,} tokens: {reason}"
    )
    counts = one.source.skipped + fill.refused
    if counts:
        reason, n = counts.most_common(1)[0]
        text += f", {counts.total()} were unusable, {n} of them: {reason}"
    return text


def _domain_record(domain: Domain, drawn: list[_Drawn], total: int) -> dict[str, Any]:
    tokens = sum(one.fill.n_tokens for one in drawn)
    return {
        "name": domain.name,
        "share_wanted": domain.share,
        "share": tokens / total,
        "tokens": tokens,
        "documents": sum(len(one.fill.pieces) for one in drawn),
        "sources": [_source_record(one, tokens) for one in drawn],
    }


def _source_record(one: _Drawn, domain_tokens: int) -> dict[str, Any]:
    fill = one.fill
    return {
        "kind": one.spec.kind,
        "name": one.spec.label,
        "share_wanted": one.spec.share,
        "share": fill.n_tokens / domain_tokens if domain_tokens else 0.0,
        "tokens": fill.n_tokens,
        "documents": len(fill.pieces),
        "dropped_duplicates": fill.dropped_duplicates,
        "skipped": dict(sorted((one.source.skipped + fill.refused).items())),
        "exhausted": fill.exhausted or None,
        "inputs": one.source.inputs,
    }
