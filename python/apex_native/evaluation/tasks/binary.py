"""llama-perplexity's binary multiple-choice format (MMLU, ARC, TruthfulQA, ...).

Little-endian: u32 number of tasks; a u32 for each, its position in the file; the tasks. A task is
the question and two sets of answers, mc1 (one is correct) and mc2 (several are; llama-perplexity
reads and does not use it). A text is a u32 length and its bytes; a set is a u32 number n, n texts
and n i32 labels, 1 for correct and 0 for not (tools/perplexity/perplexity.cpp, multiple_choice_*).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import MAX_ANSWERS, ChoiceItem

__all__ = ["AnswerSet", "Question", "format_questions", "parse_questions", "question_items"]

_U32 = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """Answers and their labels: 1 for correct, 0 for not."""

    answers: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A task of the file."""

    question: str
    mc1: AnswerSet
    mc2: AnswerSet = AnswerSet()


class _Reader:
    """Numbers and texts from a position on; every read is checked against the file's size."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data = data
        self.source = source
        self.position = 0
        self.task = 0

    def fail(self, problem: str) -> DataError:
        task = f", task {self.task}" if self.task else ""
        return DataError(f"{self.source}{task}, byte {self.position}: {problem}")

    def take(self, n_bytes: int, what: str) -> bytes:
        left = len(self.data) - self.position
        if n_bytes > left:
            raise self.fail(
                f"{what} of {n_bytes:,} bytes, but {left:,} are left; the file is cut off or no "
                "multiple-choice file"
            )
        self.position += n_bytes
        return self.data[self.position - n_bytes : self.position]

    def number(self, what: str) -> int:
        (value,) = _U32.unpack(self.take(4, what))
        return int(value)

    def text(self, what: str) -> str:
        raw = self.take(self.number(f"length of {what}"), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self.position += error.start - len(raw)
            raise self.fail(f"{what} is no UTF-8; write the file again from its source") from None

    def answers(self, name: str) -> AnswerSet:
        n = self.number(f"number of answers of {name}")
        if n > MAX_ANSWERS:
            raise self.fail(
                f"{name} has {n:,} answers, expected at most {MAX_ANSWERS}; "
                "this is no multiple-choice file"
            )
        answers = tuple(self.text(f"answer {i + 1} of {name}") for i in range(n))
        labels = struct.unpack(f"<{n}i", self.take(4 * n, f"labels of {name}"))
        return AnswerSet(answers, labels)


def parse_questions(data: bytes, source: str) -> list[Question]:
    """The questions of a file's bytes, in the order of its table of positions.

    Every position, count and length is checked before it is used. Raises DataError with task and
    byte of what is wrong.
    """
    reader = _Reader(data, source)
    n_tasks = reader.number("number of tasks")
    if n_tasks == 0:
        raise reader.fail("the file has no tasks")
    table = reader.take(4 * n_tasks, f"table of {n_tasks:,} positions")
    positions = struct.unpack(f"<{n_tasks}I", table)
    questions: list[Question] = []
    n_read = 0
    for reader.task, position in enumerate(positions, 1):
        if not 4 + len(table) <= position < len(data):
            raise reader.fail(
                f"its position is {position:,}, expected {4 + len(table):,} to {len(data) - 1:,}; "
                "the file is damaged"
            )
        reader.position = position
        questions.append(
            Question(reader.text("question"), reader.answers("mc1"), reader.answers("mc2"))
        )
        n_read += reader.position - position
        if n_read > len(data):
            raise reader.fail("tasks lie upon each other; the file is damaged")
    return questions


def format_questions(questions: Sequence[Question]) -> bytes:
    """The file's bytes; DataError for what the format, or llama-perplexity, cannot hold."""
    tasks = [_format_question(question, i) for i, question in enumerate(questions, 1)]
    begin = 4 + 4 * len(tasks)
    positions: list[int] = []
    for task in tasks:
        positions.append(begin)
        begin += len(task)
    if begin > 0xFFFFFFFF:
        raise DataError(f"{len(tasks):,} tasks take {begin:,} bytes; the format ends at 4 GiB")
    head = struct.pack(f"<I{len(tasks)}I", len(tasks), *positions)
    return b"".join((head, *tasks))


def _format_question(question: Question, number: int) -> bytes:
    parts = [_format_text(question.question)]
    for name, answers in (("mc1", question.mc1), ("mc2", question.mc2)):
        n = len(answers.answers)
        if n > MAX_ANSWERS or n != len(answers.labels):
            raise DataError(
                f"question {number}: {name} has {n} answers and {len(answers.labels)} labels, "
                f"expected as many, at most {MAX_ANSWERS}"
            )
        parts.append(_U32.pack(n))
        parts += [_format_text(answer) for answer in answers.answers]
        parts.append(struct.pack(f"<{n}i", *answers.labels))
    return b"".join(parts)


def _format_text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return _U32.pack(len(raw)) + raw


def question_items(
    questions: Sequence[Question], source: str, *, upstream: bool = False
) -> list[ChoiceItem]:
    """Items from the mc1 answers; DataError for an empty text or labels without a correct one.

    upstream=True takes any labels, as llama-perplexity does: what is not 1 is wrong.
    """
    items: list[ChoiceItem] = []
    for number, question in enumerate(questions, 1):
        place = f"{source}, task {number}"
        answers, labels = question.mc1.answers, question.mc1.labels
        if not question.question.strip() or not answers:
            raise DataError(f"{place}: the question is empty or has no answers; fill it in")
        for i, answer in enumerate(answers, 1):
            if not answer.strip():
                raise DataError(f"{place}: answer {i} is empty; fill it in")
        if not upstream and (set(labels) - {0, 1} or 1 not in labels):
            raise DataError(
                f"{place}: labels must be 0 or 1 with a 1 among them, found "
                f"{', '.join(map(str, labels[:8]))}; correct them"
            )
        items.append(
            ChoiceItem(question.question, answers, tuple(label == 1 for label in labels), place)
        )
    return items
