"""Texts of a sweep as blocks of tokens, cut once where the sweep begins; workers need no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apex_native.corpus import build_corpus, load_recipe
from apex_native.engine import GPU_UBATCH, UBATCH, Model, Placement, Tokens
from apex_native.errors import DataError
from apex_native.evaluation.divergence.noise import NOISE_POSITIONS, choose_noise_chunks
from apex_native.evaluation.divergence.text import Chunks, chunk_text, read_text
from apex_native.gguf import open_gguf
from apex_native.imatrix.calibration_text import CalibrationText, open_text
from apex_native.sweeps.definition import MatrixDefinition, TextDefinition
from apex_native.sweeps.jobs import Block, MatrixJob, NoiseJob

__all__ = ["MatrixText", "ScoredText", "cut_matrix_text", "cut_text"]


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text cut into blocks; noise is the job of its noise floor, if there is one."""

    definition: TextDefinition
    chunks: Chunks
    blocks: tuple[Block, ...]
    tokenizer: str
    noise: NoiseJob | None


@dataclass(frozen=True, slots=True)
class MatrixText:
    """The text of an importance matrix, cut into jobs."""

    definition: MatrixDefinition
    tokens: Tokens
    dataset: str
    jobs: tuple[MatrixJob, ...]


def cut_text(
    definition: TextDefinition, tokenizer: Model, *, on_gpu: bool, n_candidates: int
) -> ScoredText:
    """Tokenize and cut; a block is whole batches, so that cutting changes no batch.

    Raises DataError for a text that cannot be read or is too short.
    """
    chunks = chunk_text(
        read_text(definition.path),
        tokenizer,
        ctx=definition.ctx,
        n_chunks=definition.chunks,
        parse_special=definition.parse_special,
        n_ctx_train=_longest_context(Path(tokenizer.path)),
    )
    n_ubatch = GPU_UBATCH if on_gpu else UBATCH
    together = max(1, n_ubatch // definition.ctx)
    blocks = _blocks(definition.name, chunks.tokens, definition.ctx, definition.block, together)
    blocks = [Block.of(b.text, b.index, b.array, b.ctx, n_ubatch) for b in blocks]
    n_noise = definition.noise_chunks
    if n_noise is None:
        n_noise = choose_noise_chunks(chunks.data.n_chunks, 1 + n_candidates, on_gpu=on_gpu)
    noise = None
    if n_noise:
        first = chunks.tokens[: min(n_noise, chunks.data.n_chunks) * definition.ctx]
        block = Block.of(definition.name, 0, first, definition.ctx, n_ubatch)
        noise = NoiseJob(block, NOISE_POSITIONS)
    return ScoredText(definition, chunks, tuple(blocks), tokenizer.fingerprint, noise)


def cut_matrix_text(
    definition: MatrixDefinition, model: Path, tokenizer: Model, placement: Placement
) -> MatrixText:
    """Build or read the text and cut it; a recipe that lets the model write loads it for that.

    Raises DataError, CorpusError.
    """
    text = _calibration_text(definition, model, tokenizer, placement)
    tokens = tokenizer.tokenize(text.text, add_special=True, parse_special=text.parse_special)
    available = len(tokens) // definition.ctx
    n_chunks = min(available, definition.chunks or available)
    if n_chunks < 1:
        raise DataError(
            f"the text of matrix '{definition.name}' has {len(tokens)} tokens, expected at least "
            f"{definition.ctx} for one chunk; give more text, or a smaller ctx"
        )
    tokens = np.ascontiguousarray(tokens[: n_chunks * definition.ctx], np.int32)
    together = max(1, definition.batch // definition.ctx)
    blocks = _blocks(definition.name, tokens, definition.ctx, definition.block, together)
    jobs = tuple(MatrixJob(block, definition.batch) for block in blocks)
    return MatrixText(definition, tokens, text.dataset, jobs)


def _calibration_text(
    definition: MatrixDefinition, model: Path, tokenizer: Model, placement: Placement
) -> CalibrationText:
    assert definition.text is not None
    if Path(definition.text).is_file() and Path(definition.text).suffix != ".toml":
        if definition.seed is not None:
            raise DataError(
                f"matrix '{definition.name}': seeds are for recipes, and {definition.text} is a "
                "text; leave them out"
            )
        return open_text(definition.text, parse_special=definition.parse_special)(tokenizer)
    recipe = load_recipe(definition.text).with_options(seed=definition.seed)
    if not recipe.needs_generation:
        corpus = build_corpus(recipe, tokenizer)
    else:
        with placement.load(model) as writer:
            corpus = build_corpus(recipe, writer)
    return CalibrationText(corpus.text, f"recipe {recipe.name}", corpus.parse_special)


def _blocks(name: str, tokens: Tokens, ctx: int, n_chunks: int, together: int) -> Sequence[Block]:
    """Blocks of n_chunks, rounded up to whole batches of chunks that are computed together."""
    step = -(-n_chunks // together) * together * ctx
    return [
        Block.of(name, i, tokens[begin : begin + step], ctx, 0)
        for i, begin in enumerate(range(0, len(tokens), step))
    ]


def _longest_context(path: Path) -> int:
    with open_gguf(path) as file:
        found = file.metadata.get(f"{file.facts.architecture}.context_length", 0)
    return found if isinstance(found, int) and found > 0 else 1 << 30
