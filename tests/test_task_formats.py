"""Readers and writers of llama-perplexity's three formats: what is right, and what is not."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_native.errors import DataError
from apex_native.evaluation.tasks import (
    AnswerSet,
    ChoiceItem,
    GapItem,
    Question,
    format_hellaswag,
    format_questions,
    format_winogrande,
    parse_hellaswag,
    parse_questions,
    parse_winogrande,
    question_items,
)
from task_files import hellaswag_items, questions, winogrande_items

HELLASWAG = (
    b"Making tea: She boils water.\n2\nruns away.\nsings.\npours it on the leaves.\nflies.\n"
)
WINOGRANDE = b"0,Sarah was better than Maria so _ got the easier cases.,Sarah,Maria,2\n"


def without_places(items: list[ChoiceItem] | list[GapItem]) -> list[tuple[object, ...]]:
    return [
        (item.context, item.endings, item.correct)
        if isinstance(item, ChoiceItem)
        else (item.before, item.after, item.choices, item.correct)
        for item in items
    ]


# --- HellaSwag -----------------------------------------------------------------------------------


def test_hellaswag_round_trip() -> None:
    items = hellaswag_items(200)
    read = parse_hellaswag(format_hellaswag(items).encode(), "file")
    assert without_places(read) == without_places(items)


def test_hellaswag_task_is_six_lines() -> None:
    (item,) = parse_hellaswag(HELLASWAG, "file")
    assert item.context == "Making tea: She boils water."
    assert item.endings[2] == "pours it on the leaves."
    assert item.correct == (False, False, True, False)
    assert item.place == "file, task 1 (line 1)"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_hellaswag_needs_no_line_break_at_the_end(end: bytes) -> None:
    assert len(parse_hellaswag(HELLASWAG.rstrip(b"\n") + end, "file")) == 1


def test_crlf_is_no_part_of_a_text_but_upstream_keeps_it() -> None:
    data = HELLASWAG.replace(b"\n", b"\r\n")
    assert parse_hellaswag(data, "file")[0].endings[1] == "sings."
    assert parse_hellaswag(data, "file", upstream=True)[0].endings[1] == "sings.\r"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (HELLASWAG + b"one more line\n", "has 7 lines, expected 6 a task"),
        (HELLASWAG[:-10], "has 5 lines"),
        (HELLASWAG.replace(b"2", b"4"), "line 2: the label must be 0 to 3, found '4'"),
        (HELLASWAG.replace(b"2", b""), "line 2: the label must be 0 to 3, found ''"),
        (HELLASWAG.replace(b"2", b"-1"), "line 2: the label must be 0 to 3"),
        (HELLASWAG.replace(b"sings.", b"  "), "line 4: ending 2 of the task is empty"),
        (HELLASWAG * 2 + HELLASWAG.replace(b"flies.", b""), "line 18: ending 4"),
        (HELLASWAG.replace(b"sings", b"s\xffngs"), "line 4: byte 0xff at offset 43 is no UTF-8"),
        (HELLASWAG.replace(b"sings", b"s\0ngs"), "line 4: holds a zero byte"),
    ],
)
def test_hellaswag_errors_name_the_line(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        parse_hellaswag(data, "hellaswag_val_full.txt")
    assert str(error.value).startswith("hellaswag_val_full.txt")


# --- Winogrande ----------------------------------------------------------------------------------


def test_winogrande_round_trip() -> None:
    items = winogrande_items(200)
    read = parse_winogrande(format_winogrande(items).encode(), "file")
    assert without_places(read) == without_places(items)


def test_winogrande_parts() -> None:
    (item,) = parse_winogrande(WINOGRANDE, "file")
    assert item.before == "Sarah was better than Maria so "
    assert item.after == " got the easier cases."
    assert item.choices == ("Sarah", "Maria")
    assert item.correct == (False, True)


@pytest.mark.parametrize(
    ("line", "before", "choices"),
    [
        ('0,"Well, _ said so.",Ann,Bob,1', "Well, ", ("Ann", "Bob")),
        ('0,"""Well, _ said so.""",Ann,Bob,1', '"Well, ', ("Ann", "Bob")),
        ('0,A _ b.,"Ann, too","Bob",1', "A ", ("Ann, too", "Bob")),
        ('0,He said "a, b" and _ c.,Ann,Bob,1', 'He said "a, b" and ', ("Ann", "Bob")),
    ],
)
def test_winogrande_quotes(line: str, before: str, choices: tuple[str, str]) -> None:
    (item,) = parse_winogrande(line.encode(), "file")
    assert (item.before, item.choices) == (before, choices)


def test_upstream_loses_the_last_line_and_keeps_quotes_of_choices() -> None:
    quoted = b'1,"A, _ b.","Ann","Bob",1\n'
    assert len(parse_winogrande(WINOGRANDE + quoted, "file")) == 2
    assert len(parse_winogrande(WINOGRANDE + quoted, "file", upstream=True)) == 1
    items = parse_winogrande(WINOGRANDE + quoted + b"\n", "file", upstream=True)
    assert items[1].choices == ('"Ann"', '"Bob"')


def test_upstream_skips_what_it_cannot_read() -> None:
    data = b"index,sentence,option1,option2,answer\n" + WINOGRANDE + WINOGRANDE
    assert len(parse_winogrande(data, "file", upstream=True)) == 1
    with pytest.raises(DataError, match="line 1: the sentence has no gap"):
        parse_winogrande(data, "file")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"0,no gap here,a,b,1", "line 2: the sentence has no gap; mark it with _"),
        (b"0,a _ b,c,d,3", "line 2: the answer must be 1 or 2, found '3'"),
        (b"0,a _ b,c,d,", "line 2: the answer must be 1 or 2, found ''"),
        (b"0,a _ b,c,d,1 or 2", "line 2: the answer must be 1 or 2, found '1 or 2'"),
        (b"0,a _ b,c,d", "line 2: has 3 commas outside quotes, expected 4"),
        (b'0,"a _ b,c,d,1', "line 2: has 1 commas outside quotes"),
        (b"0,a _ b,,d,1", "line 2: a choice is empty"),
        (b"0,a _ b,c,\xc3,1", "line 2: byte 0xc3"),
    ],
)
def test_winogrande_errors_name_the_line(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_winogrande(WINOGRANDE + line + b"\n", "file")


@pytest.mark.parametrize("data", [b"", b"\n\n"])
def test_no_sentences_are_no_tasks(data: bytes) -> None:
    with pytest.raises(DataError, match="has no tasks"):
        parse_winogrande(data, "file")


# --- the binary format ---------------------------------------------------------------------------


def test_questions_round_trip() -> None:
    written = questions(200, max_answers=12)
    assert parse_questions(format_questions(written), "file") == written


def test_layout_of_the_binary_format() -> None:
    question = Question("Q?", AnswerSet(("a", "bc"), (0, 1)), AnswerSet(("é",), (1,)))
    task = (
        b"\x02\0\0\0Q?"
         b"\x02\0\0\0" + b"\x01\0\0\0a" + b"\x02\0\0\0bc" + b"\0\0\0\0" + b"\x01\0\0\0"
        + b"\x01\0\0\0" + b"\x02\0\0\0\xc3\xa9" + b"\x01\0\0\0"
    )  # fmt: skip
    head = struct.pack("<III", 2, 12, 12 + len(task))
    assert format_questions([question, question]) == head + task + task


def test_positions_decide_about_the_order() -> None:
    first, second = questions(2)
    data = bytearray(format_questions([first, second]))
    data[4:12] = data[8:12] + data[4:8]
    assert parse_questions(bytes(data), "file") == [second, first]


def binary(n_tasks: int = 1, positions: tuple[int, ...] = (8,), task: bytes = b"") -> bytes:
    return struct.pack(f"<{1 + len(positions)}I", n_tasks, *positions) + task


BIG = b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "number of tasks of 4 bytes, but 0 are left"),
        (b"\1\0", "number of tasks of 4 bytes, but 2 are left"),
        (b"\0\0\0\0", "the file has no tasks"),
        (BIG, "table of 4,294,967,295 positions of 17,179,869,180 bytes, but 0 are left"),
        (binary(positions=(7,), task=bytes(40)), "its position is 7, expected 8 to 47"),
        (binary(positions=(0xFFFFFFFF,), task=bytes(40)), "its position is 4,294,967,295"),
        (binary(positions=(48,), task=bytes(40)), "its position is 48, expected 8 to 47"),
        (binary(task=BIG), "task 1, byte 12: question of 4,294,967,295 bytes, but 0 are left"),
        (binary(task=b"\1\0\0\0Q" + BIG), "mc1 has 4,294,967,295 answers, expected at most 100"),
        (binary(task=b"\1\0\0\0Q\x65\0\0\0"), "mc1 has 101 answers, expected at most 100"),
        (binary(task=b"\1\0\0\0Q\1\0\0\0" + BIG), "answer 1 of mc1 of 4,294,967,295 bytes"),
        (binary(task=b"\1\0\0\0\xff\1\0\0\0"), "task 1, byte 12: question is no UTF-8"),
    ],
)
def test_binary_errors_name_task_and_byte(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_questions(data, "file")


def test_every_truncation_is_an_error() -> None:
    data = format_questions(questions(3))
    for size in range(len(data)):
        with pytest.raises(DataError, match=r"^file"):
            parse_questions(data[:size], "file")


def test_tasks_may_not_lie_upon_each_other() -> None:
    # A small file that names one large task a thousand times would take a gigabyte to read.
    task = b"\0\0\x10\0" + b"x" * (1 << 20) + b"\0\0\0\0" * 2
    n = 1000
    data = struct.pack(f"<{n + 1}I", n, *([4 + 4 * n] * n)) + task
    with pytest.raises(DataError, match=r"task 2, .*tasks lie upon each other"):
        parse_questions(data, "file")


@given(st.binary(max_size=200))
def test_any_bytes_are_questions_or_an_error(data: bytes) -> None:
    outcome: object
    try:
        outcome = parse_questions(data, "file")
    except DataError as error:
        outcome = str(error).startswith("file")
    assert outcome


@given(st.data())
def test_any_damaged_byte_is_read_or_an_error(data: st.DataObject) -> None:
    content = bytearray(format_questions(questions(3)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    outcome: object
    try:
        outcome = question_items(parse_questions(bytes(content), "file"), "file")
    except DataError as error:
        outcome = str(error).startswith("file")
    assert outcome


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("", AnswerSet(("a", "b"), (1, 0))), "the question is empty or has no answers"),
        (Question("Q", AnswerSet()), "the question is empty or has no answers"),
        (Question("Q", AnswerSet(("a", " "), (1, 0))), "answer 2 is empty"),
        (Question("Q", AnswerSet(("a", "b"), (0, 0))), "labels must be 0 or 1 with a 1 among"),
        (Question("Q", AnswerSet(("a", "b"), (1, 7))), "labels must be 0 or 1 .*found 1, 7"),
    ],
)
def test_bad_questions_are_refused(question: Question, message: str) -> None:
    good = questions(1)
    with pytest.raises(DataError, match="file, task 2: .*" + message):
        question_items([*good, question], "file")


def test_upstream_takes_any_label() -> None:
    question = Question("Q", AnswerSet(("a", "b"), (0, 7)))
    (item,) = question_items([question], "file", upstream=True)
    assert item.correct == (False, False)


@pytest.mark.parametrize(
    "question",
    [
        Question("Q", AnswerSet(tuple("ab"), (1,))),
        Question("Q", AnswerSet(tuple("a" * 101), (1,) * 101)),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(question: Question) -> None:
    with pytest.raises(DataError, match="question 1: mc1 has"):
        format_questions([question])


def test_texts_with_line_breaks_are_not_written_as_lines() -> None:
    item = ChoiceItem("a\nb", ("c", "d", "e", "f"), (True, False, False, False), "item 1")
    with pytest.raises(DataError, match="item 1: a text with a line break"):
        format_hellaswag([item])
    gap = GapItem("a _ b", "c", ("d", "e"), (True, False), "item 2")
    with pytest.raises(DataError, match="item 2: a second gap or a line break"):
        format_winogrande([gap])
