r"""Tasks as records, one a row: JSONL and parquet files as they lie on a hub or a disk.

A row's keys say what it is:

* ``sentence, option1, option2, answer``: Winogrande's
* ``endings, label`` and ``ctx`` or ``ctx_a, ctx_b``, with ``activity_label``: HellaSwag's,
  preprocessed as the evaluation harness does
* ``question, mc1_targets {choices, labels}``: TruthfulQA's
* ``question, choices {text, label}, answerKey``: ARC's
* ``question, choices [...], answer`` (an index, or a letter): MMLU's
* ``question, answers [...], labels [0 or 1, ...]``: this project's, taken word for word

Questions of the other people's kinds are asked as ``Question: ...\nAnswer:``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import (
    MAX_ANSWERS,
    ChoiceItem,
    Item,
    TaskKind,
    single_correct,
)
from apex_native.evaluation.tasks.text import decode_text, split_lines
from apex_native.evaluation.tasks.winogrande import gap_item

__all__ = ["parse_jsonl", "parse_parquet"]

Record = Mapping[str, Any]


def parse_jsonl(data: bytes, source: str, kind: TaskKind) -> list[Item]:
    """The items of a JSONL file; DataError with the line of what is wrong."""
    return _items(_json_records(data, source), source, kind)


def _json_records(data: bytes, source: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(split_lines(decode_text(data, source)), 1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        try:
            yield place, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: no readable JSON ({error}); one object a line") from None


def parse_parquet(data: bytes, source: str, kind: TaskKind) -> list[Item]:
    """The items of a parquet file; DataError with the row, or where pyarrow is missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(
            f"{source}: reading parquet needs pyarrow; `pip install apex-native[hub]`"
        ) from None
    try:
        rows = parquet.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{source}: no readable parquet file ({error}); get it again") from None
    return _items(((f"{source}, row {i}", row) for i, row in enumerate(rows, 1)), source, kind)


def _items(records: Iterator[tuple[str, Any]], source: str, kind: TaskKind) -> list[Item]:
    items: list[Item] = []
    for place, record in records:
        if not isinstance(record, dict):
            raise DataError(f"{place}: expected an object, found {type(record).__name__}")
        for keys, read_kind, read in _READERS:
            if read_kind is kind and keys <= record.keys():
                items.append(read(record, place))
                break
        else:
            wanted = " or ".join(
                ", ".join(sorted(keys)) for keys, read_kind, _ in _READERS if read_kind is kind
            )
            raise DataError(
                f"{place}: is no {kind} task; expected the keys {wanted}, found "
                f"{', '.join(map(str, list(record)[:12]))}"
            )
    if not items:
        raise DataError(f"{source}: has no tasks; is it the right file?")
    return items


def _text(value: Any, what: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {what} must be a text that is not empty, found {value!r:.40}")
    return value


def _texts(value: Any, what: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_ANSWERS:
        count = f"{len(value)}" if isinstance(value, list) else f"{type(value).__name__}"
        raise DataError(f"{place}: {what} must be a list of 2 to {MAX_ANSWERS}, found {count}")
    return tuple(_text(text, f"{what}[{i}]", place) for i, text in enumerate(value))


def _index(value: Any, n: int, what: str, place: str) -> int:
    text = str(value)
    index = int(text) if re.fullmatch(r"\d{1,3}", text) else -1
    if isinstance(value, bool) or not 0 <= index < n:
        raise DataError(f"{place}: {what} must be 0 to {n - 1}, found {value!r:.40}")
    return index


def _labels(value: Any, n: int, what: str, place: str) -> tuple[bool, ...]:
    if not isinstance(value, list) or len(value) != n or not all(v in (0, 1) for v in value):
        raise DataError(f"{place}: {what} must be {n} numbers, 0 or 1, found {value!r:.40}")
    if 1 not in value:
        raise DataError(f"{place}: {what} call no answer correct; correct them")
    return tuple(v == 1 for v in value)


def _asked(record: Record, place: str) -> str:
    return f"Question: {_text(record['question'], 'question', place).strip()}\nAnswer:"


def _winogrande(record: Record, place: str) -> Item:
    sentence = _text(record["sentence"], "sentence", place)
    choices = (
        _text(record["option1"], "option1", place),
        _text(record["option2"], "option2", place),
    )
    return gap_item(sentence, choices, str(record["answer"]).strip(), place)


def _hellaswag_text(text: str) -> str:
    """The evaluation harness's preprocessing of WikiHow texts (lm_eval/tasks/hellaswag)."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _hellaswag(record: Record, place: str) -> Item:
    if "ctx_a" in record and "ctx_b" in record:
        context = f"{record['ctx_a']} {str(record['ctx_b']).capitalize()}"
    else:
        context = _text(record.get("ctx"), "ctx", place)
    if record.get("activity_label"):
        context = f"{record['activity_label']}: {context}"
    endings = _texts(record["endings"], "endings", place)
    if len(endings) != 4:
        raise DataError(f"{place}: HellaSwag has four endings, found {len(endings)}")
    label = _index(record["label"], 4, "label", place)
    return ChoiceItem(
        _hellaswag_text(context),
        tuple(_hellaswag_text(ending) for ending in endings),
        single_correct(label, 4),
        place,
    )


def _truthfulqa(record: Record, place: str) -> Item:
    targets = record["mc1_targets"]
    if not isinstance(targets, dict):
        raise DataError(f"{place}: mc1_targets must be an object, found {type(targets).__name__}")
    answers = _texts(targets.get("choices"), "mc1_targets.choices", place)
    labels = _labels(targets.get("labels"), len(answers), "mc1_targets.labels", place)
    return ChoiceItem(_asked(record, place), answers, labels, place)


def _arc(record: Record, place: str) -> Item:
    choices = record["choices"]
    if not isinstance(choices, dict):
        raise DataError(f"{place}: choices must be an object, found {type(choices).__name__}")
    answers = _texts(choices.get("text"), "choices.text", place)
    labels, key = choices.get("label"), record["answerKey"]
    if not isinstance(labels, list) or len(labels) != len(answers) or labels.count(key) != 1:
        raise DataError(f"{place}: answerKey {key!r:.20} must be one of choices.label")
    correct = single_correct(labels.index(key), len(answers))
    return ChoiceItem(_asked(record, place), answers, correct, place)


def _mmlu(record: Record, place: str) -> Item:
    answers = _texts(record["choices"], "choices", place)
    answer = record["answer"]
    if isinstance(answer, str) and re.fullmatch(r"[A-Z]", answer):
        answer = ord(answer) - ord("A")
    correct = single_correct(_index(answer, len(answers), "answer", place), len(answers))
    return ChoiceItem(_asked(record, place), answers, correct, place)


def _own(record: Record, place: str) -> Item:
    answers = _texts(record["answers"], "answers", place)
    labels = _labels(record["labels"], len(answers), "labels", place)
    return ChoiceItem(_text(record["question"], "question", place), answers, labels, place)


_READERS: tuple[tuple[set[str], TaskKind, Callable[[Record, str], Item]], ...] = (
    ({"sentence", "option1", "option2", "answer"}, TaskKind.WINOGRANDE, _winogrande),
    ({"endings", "label", "ctx"}, TaskKind.HELLASWAG, _hellaswag),
    ({"endings", "label", "ctx_a", "ctx_b"}, TaskKind.HELLASWAG, _hellaswag),
    ({"question", "mc1_targets"}, TaskKind.MULTIPLE_CHOICE, _truthfulqa),
    ({"question", "choices", "answerKey"}, TaskKind.MULTIPLE_CHOICE, _arc),
    ({"question", "choices", "answer"}, TaskKind.MULTIPLE_CHOICE, _mmlu),
    ({"question", "answers", "labels"}, TaskKind.MULTIPLE_CHOICE, _own),
)
"""The first whose keys a row has reads it."""
