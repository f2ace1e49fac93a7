"""``winogrande-debiased-eval.csv``: index, sentence with a gap ``_``, two choices, 1 or 2."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import GapItem, single_correct
from apex_native.evaluation.tasks.text import decode_text, split_lines

__all__ = ["format_winogrande", "gap_item", "parse_winogrande"]


def parse_winogrande(data: bytes, source: str, *, upstream: bool = False) -> list[GapItem]:
    """The items of a file's bytes.

    As in llama-perplexity a quotation mark anywhere protects commas up to the next one. Where that
    has bugs this is right: quotes around choices are no part of them, a doubled quote inside
    quotes is one, a line that cannot be read is an error, and the last line counts. upstream=True
    keeps quotes, skips what it cannot read, and drops the last line of a file that does not end in
    two line breaks. Raises DataError with the line of what is wrong.
    """
    text = decode_text(data, source)
    # It drops one line break at the end and then what follows the last one.
    upstreams = text.removesuffix("\n").split("\n")[:-1]
    lines = upstreams if upstream else split_lines(text)
    items: list[GapItem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() and not upstream:
            continue
        try:
            items.append(_parse_line(line, f"{source}, line {number}", upstream=upstream))
        except DataError:
            if not upstream:
                raise
    if not items:
        raise DataError(f"{source}: has no tasks; expected lines of index,sentence,choice,choice,1")
    return items


def _parse_line(line: str, place: str, *, upstream: bool) -> GapItem:
    commas = _commas(line)
    if len(commas) < 4:
        raise DataError(
            f"{place}: has {len(commas)} commas outside quotes, expected 4 "
            "(index,sentence,choice,choice,answer); quote the sentence"
        )
    begins = [0, *(comma + 1 for comma in commas)]
    ends = [*commas, len(line)]
    _, sentence, first, second, answer = (
        line[begin:end] for begin, end in zip(begins, ends, strict=True)
    )
    if upstream:
        sentence = sentence[1:-1] if sentence.startswith('"') else sentence
        found = re.match(r"\s*[+-]?\d+", answer)
        answer = found.group().strip() if found else answer
    else:
        sentence, first, second = _unquote(sentence), _unquote(first), _unquote(second)
        answer = answer.strip()
    return gap_item(sentence, (first, second), answer, place, allow_empty=upstream)


def _commas(line: str) -> list[int]:
    """Where the first four commas outside quotation marks are."""
    commas: list[int] = []
    quoted = False
    for i, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            commas.append(i)
            if len(commas) == 4:
                break
    return commas


def _unquote(field: str) -> str:
    if len(field) >= 2 and field.startswith('"') and field.endswith('"'):
        return field[1:-1].replace('""', '"')
    return field


def gap_item(
    sentence: str, choices: tuple[str, str], answer: str, place: str, *, allow_empty: bool = False
) -> GapItem:
    """An item from its parts; DataError where there is no gap, no answer or an empty choice."""
    before, gap, after = sentence.partition("_")
    if not gap:
        raise DataError(f"{place}: the sentence has no gap; mark it with _")
    if answer not in ("1", "2", "+1", "+2"):
        raise DataError(f"{place}: the answer must be 1 or 2, found '{answer[:40]}'")
    if not allow_empty and not all(choice.strip() for choice in choices):
        raise DataError(f"{place}: a choice is empty; fill it in")
    return GapItem(before, after, choices, single_correct(int(answer) - 1, 2), place)


def format_winogrande(items: Sequence[GapItem]) -> str:
    """The file's text, a field in quotes where it must be."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for i, item in enumerate(items):
        fields = (item.before + "_" + item.after, *item.choices)
        if "_" in item.before or any("\n" in field or "\r" in field for field in fields):
            raise DataError(f"{item.place}: a second gap or a line break does not fit the format")
        writer.writerow((i, *fields, item.correct.index(True) + 1))
    return out.getvalue()
