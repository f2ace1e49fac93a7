"""What a model is calibrated on: files, a recipe, or a text that is there already."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from apex_native.corpus import Corpus, CorpusProgress, build_corpus, load_recipe
from apex_native.engine import Model
from apex_native.imatrix.texts import read_text

__all__ = ["AnyCalibrationText", "CalibrationText", "TextForModel", "open_text"]

RECIPE_SUFFIX = ".toml"


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """A text, what the matrix file calls it, and whether special tokens it spells become tokens."""

    text: str = field(repr=False)
    dataset: str = ""
    parse_special: bool = False


AnyPath = str | os.PathLike[str]
AnyCalibrationText = AnyPath | Sequence[AnyPath] | Corpus | CalibrationText


class TextForModel(Protocol):
    """The text, made for a model where a recipe says how."""

    def __call__(
        self, model: Model, progress: Callable[[CorpusProgress], None] | None = None, /
    ) -> CalibrationText:
        """Raises CorpusError."""
        ...


def open_text(source: AnyCalibrationText, *, parse_special: bool = False) -> TextForModel:
    """Read what can be read without a model; the rest when it is there, as a recipe counts tokens.

    source: a text file, several of them (joined), a recipe of `apex_native.corpus` (its name or
    ``.toml``), a `Corpus`, or a `CalibrationText`. parse_special is of files; the others know.
    Raises DataError and CorpusError.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.suffix == RECIPE_SUFFIX or not path.is_file():
            return _recipe_text(os.fspath(source))
        source = [path]
    if isinstance(source, CalibrationText):
        text = source
    elif isinstance(source, Corpus):
        name = f"recipe {source.manifest['recipe']['name']}"
        text = CalibrationText(source.text, name, source.parse_special)
    else:
        dataset = ", ".join(os.fspath(path) for path in source)
        text = CalibrationText(read_text(source), dataset, parse_special)
    return lambda _model, _progress=None: text


def _recipe_text(name: str) -> TextForModel:
    recipe = load_recipe(name)

    def build(
        model: Model, progress: Callable[[CorpusProgress], None] | None = None
    ) -> CalibrationText:
        status = Path(model.path).stat()
        made_of = (recipe.sha256, model.path, status.st_size, status.st_mtime_ns)
        if made_of not in _built:
            corpus = build_corpus(recipe, model, progress=progress)
            _built.clear()
            _built[made_of] = CalibrationText(
                corpus.text, f"recipe {recipe.name}", corpus.parse_special
            )
        return _built[made_of]

    return build


_built: dict[tuple[object, ...], CalibrationText] = {}
"""The last recipe's text: `quantize --hessian` calibrates twice, and a model may take minutes to
write what the recipe wants of it."""
