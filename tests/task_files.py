"""Task files the demo model can answer to some degree: generated, the same for the same seed.

The model was trained on worked arithmetic of this kind, so it knows which numbers and names go on
in a calculation; wrong answers are the same text with others. Written as a program's arguments:
``python tests/task_files.py hellaswag 400 > hellaswag.txt``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

from apex_native.evaluation.tasks.binary import AnswerSet, Question, format_questions
from apex_native.evaluation.tasks.hellaswag import format_hellaswag
from apex_native.evaluation.tasks.items import ChoiceItem, GapItem, single_correct
from apex_native.evaluation.tasks.winogrande import format_winogrande

NAMES = (
    *("Ana", "Ben", "Dara", "Eli", "Fay", "Gus", "Hana", "Ivan", "Jun"),
    *("Kim", "Lena", "Mara", "Nils", "Omar", "Pia", "Rosa", "Sam", "Tess"),
)
THINGS = (
    *("apples", "books", "coins", "pens", "stamps", "shells"),
    *("cards", "marbles", "tickets", "stones", "eggs", "cups"),
)


def hellaswag_items(n: int, *, seed: int = 1) -> list[ChoiceItem]:
    """Contexts of very different lengths, four endings of different lengths."""
    rng = random.Random(seed)
    return [_hellaswag_item(rng, i) for i in range(n)]


def _hellaswag_item(rng: random.Random, number: int) -> ChoiceItem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(3, 60), rng.randint(3, 60)
    story = "".join(
        f"Question: {rng.choice(NAMES)} had {x + y} {thing} and lost {y}. How many {thing} are "
        f"left? Reasoning: {x + y} - {y} = {x}. Answer: {x} "
        for x, y in ((rng.randint(2, 60), rng.randint(2, 60)) for _ in range(rng.randint(0, 1)))
    )
    context = (
        f"{story}Question: {name} has {a} {thing} and buys {b} more. How many {thing} does {name} "
        f"have now? Reasoning: Start with {a}. After buying {b}:"
    )
    total = a + b
    right = rng.choice((f"{a} + {b} = {total}.", f"{a} + {b} = {total}. Answer: {total}"))
    wrong = [
        f"{a} + {b} = {total + rng.choice((-10, -1, 1, 2, 10))}.",
        f"{a} + {b} = {total}. Answer: {total + rng.choice((-2, -1, 1))} {thing}",
        f"{b} + {a} = {total}.",
    ]
    label = rng.randrange(4)
    endings = (*wrong[:label], right, *wrong[label:])
    return ChoiceItem(context, endings, single_correct(label, 4), f"task {number}")


def winogrande_items(n: int, *, seed: int = 1) -> list[GapItem]:
    """Sentences with a long and with a short rest, some quoted, some that begin with the gap."""
    rng = random.Random(seed)
    return [_winogrande_item(rng, i) for i in range(n)]


def _winogrande_item(rng: random.Random, number: int) -> GapItem:
    first, second = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    a, b, c = (rng.randint(3, 60) for _ in range(3))
    kind = rng.randrange(4)
    if kind == 0:
        sentence = (
            f"Question: {first} is {a} years old, {second} is {b} years older. In {c} years, how "
            f"old will _ be? Reasoning: {second} is {a} + {b} = {a + b} now."
        )
        choices, answer = (first, second), 1
    elif kind == 1:
        sentence = f"Question: {first} has {a} {thing} and buys {b} more. The {thing} are for _."
        choices, answer = (second, first), 1
    elif kind == 2:
        sentence = f"_ has {a} {thing}. How many {thing} does {first} have now?"
        choices, answer = (first, second), 0
    else:
        sentence = f"Start with {a} {thing}. After buying {b}: {a} + _ = {a + b}."
        choices, answer = (str(b), str(b + c)), 0
    if rng.random() < 0.5:
        choices, answer = (choices[1], choices[0]), 1 - answer
    before, _, after = sentence.partition("_")
    return GapItem(before, after, choices, single_correct(answer, 2), f"task {number}")


def questions(n: int, *, seed: int = 1, max_answers: int = 4) -> list[Question]:
    """Questions with two to max_answers answers: numbers alone and short sentences."""
    rng = random.Random(seed)
    return [_question(rng, max_answers) for _ in range(n)]


def _question(rng: random.Random, max_answers: int) -> Question:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(3, 60), rng.randint(3, 60)
    question = (
        f"Question: {name} had {a + b} {thing} and lost {b}. How many {thing} are left?\n"
        f"Reasoning: {a + b} - {b} = {a}.\nAnswer:"
    )
    right, wrong_numbers = a, [x for x in range(1, 99) if x != a]
    numbers = [right, *rng.sample(wrong_numbers, rng.randint(1, max_answers - 1))]
    rng.shuffle(numbers)
    as_sentence = rng.random() < 0.4
    answers = tuple(f"{x} {thing} are left" if as_sentence else str(x) for x in numbers)
    labels = tuple(int(x == right) for x in numbers)
    return Question(question, AnswerSet(answers, labels), AnswerSet(answers, labels))


WRITERS: dict[str, Callable[[int], bytes]] = {
    "hellaswag": lambda n: format_hellaswag(hellaswag_items(n)).encode(),
    "winogrande": lambda n: format_winogrande(winogrande_items(n)).encode(),
    "multiple-choice": lambda n: format_questions(questions(n)),
    "multiple-choice-many": lambda n: format_questions(questions(n, max_answers=12)),
}

if __name__ == "__main__":
    sys.stdout.buffer.write(WRITERS[sys.argv[1]](int(sys.argv[2])))
