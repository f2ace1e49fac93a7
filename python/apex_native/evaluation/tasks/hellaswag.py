"""``hellaswag_val_full.txt``: six lines a task, context, label (0 to 3) and four endings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import ChoiceItem, single_correct
from apex_native.evaluation.tasks.text import decode_text, split_lines

__all__ = ["N_ENDINGS", "format_hellaswag", "parse_hellaswag"]

N_ENDINGS = 4

_LINES = 2 + N_ENDINGS


def parse_hellaswag(data: bytes, source: str, *, upstream: bool = False) -> list[ChoiceItem]:
    """The items of a file's bytes.

    Lines may end in LF or CRLF; upstream=True keeps the CR as llama-perplexity does, which makes
    it part of each text. Raises DataError with the line of what is wrong.
    """
    text = decode_text(data, source)
    lines = text.removesuffix("\n").split("\n") if upstream else split_lines(text)
    if lines in ([], [""]):
        raise DataError(f"{source}: is empty; expected {_LINES} lines a task")
    if len(lines) % _LINES:
        raise DataError(
            f"{source}: has {len(lines)} lines, expected {_LINES} a task (context, label, "
            f"{N_ENDINGS} endings); the file is cut off or a text holds a line break"
        )
    return [
        _parse_item(lines[first : first + _LINES], first, source)
        for first in range(0, len(lines), _LINES)
    ]


def _parse_item(lines: Sequence[str], first: int, source: str) -> ChoiceItem:
    place = f"{source}, task {first // _LINES + 1} (line {first + 1})"
    context, label, *endings = lines
    if not re.fullmatch(r"[0-3]\s*", label):
        raise DataError(
            f"{source}, line {first + 2}: the label must be 0 to {N_ENDINGS - 1}, found "
            f"'{label[:40]}'; check that every task has {_LINES} lines"
        )
    for i, text in enumerate((context, *endings)):
        if not text.strip():
            what = "context" if i == 0 else f"ending {i}"
            line = first + (1 if i == 0 else 2 + i)
            raise DataError(f"{source}, line {line}: {what} of the task is empty; fill it in")
    return ChoiceItem(context, tuple(endings), single_correct(int(label), N_ENDINGS), place)


def format_hellaswag(items: Sequence[ChoiceItem]) -> str:
    """The file's text; DataError for an item that it cannot hold."""
    lines: list[str] = []
    for item in items:
        if len(item.endings) != N_ENDINGS or sum(item.correct) != 1:
            raise DataError(f"{item.place}: HellaSwag has four endings, one of them correct")
        texts = (item.context, *item.endings)
        if any("\n" in text or "\r" in text for text in texts):
            raise DataError(f"{item.place}: a text with a line break does not fit the format")
        lines += [item.context, str(item.correct.index(True)), *item.endings]
    return "".join(line + "\n" for line in lines)
