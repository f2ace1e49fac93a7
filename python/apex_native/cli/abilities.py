"""What each verb makes of a model file: `doctor MODEL`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apex_native.errors import ApexError, PlanError

if TYPE_CHECKING:
    from apex_native.gguf import GgufFile
    from apex_native.requirements import Work

__all__ = ["Ability", "abilities"]


@dataclass(frozen=True, slots=True)
class Ability:
    """A verb, and why it cannot work with the file; None where it can."""

    verb: str
    obstacle: str | None


def abilities(path: Path) -> list[Ability]:
    """One entry for every verb that takes a model; GgufError where the file cannot be opened."""
    from apex_native.gguf import open_gguf

    with open_gguf(path) as source:
        return [Ability(verb, _obstacle(check, path)) for verb, check in _checks(path, source)]


def _checks(path: Path, source: GgufFile) -> Iterator[tuple[str, Callable[[], object]]]:
    from apex_native.api import classify, make_plan
    from apex_native.requirements import Work

    yield "inspect", lambda: classify(source)
    yield "plan", lambda: make_plan(source, ftype="Q8_0")
    yield "quantize", lambda: _require_data(source)
    yield "imatrix", lambda: _able(path, Work.CALIBRATION)
    yield "corpus", lambda: _require_vocabulary(path)
    yield "eval", lambda: _able(path, Work.EVALUATION)
    yield "bench", lambda: _able(path, Work.SPEED)


def _obstacle(check: Callable[[], object], path: Path) -> str | None:
    try:
        check()
    except ApexError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _able(path: Path, work: Work) -> None:
    from apex_native.requirements import require_able

    require_able(path, work)


def _require_vocabulary(path: Path) -> None:
    from apex_native.engine import load_model
    from apex_native.requirements import Work, require_traits

    with load_model(path, vocab_only=True) as model:
        require_traits(model, Work.CORPUS)


def _require_data(source: GgufFile) -> None:
    if source.missing_data is not None:
        raise PlanError(f"{source.missing_data}; download the whole file")
