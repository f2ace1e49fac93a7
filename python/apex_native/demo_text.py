"""Text for the demo model, written by templates: arithmetic, tool calls, Python, short prose.

The evaluation of ``apex-native demo`` and ``quantize --check`` need text of the kinds the demo
model was trained on. It is generated, never copied, and the same for the same seed everywhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

__all__ = ["CALIBRATION_SEED", "SANITY_SEED", "demo_text"]

CALIBRATION_SEED = 1
"""Seed of the text behind the importance matrix that ships with the package."""

SANITY_SEED = 2
"""Seed of the text the demo evaluates on: not the calibration text."""

_PEOPLE = [
    "Ada",
    "Bea",
    "Carl",
    "Dina",
    "Emil",
    "Finn",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Klara",
    "Leo",
]
_THINGS = [
    "lamps",
    "chairs",
    "ropes",
    "plates",
    "letters",
    "boats",
    "candles",
    "ladders",
    "kettles",
    "maps",
]
_PLACES = [
    "Bergen",
    "Lagos",
    "Kyoto",
    "Cusco",
    "Tartu",
    "Nantes",
    "Izmir",
    "Quebec",
    "Malmo",
    "Seville",
]
_FUNCTIONS = ["total", "scale", "keep_large", "count_words", "longest", "swap", "pad", "clamp"]
_BODIES = (
    """\
    result = []
    for value in values:
        if value > LIMIT:
            result.append(value)
    return result
""",
    """\
    if not values:
        return LIMIT
    return max(values) - min(values)
""",
    """\
    total = 0
    for index, value in enumerate(values):
        total += value * LIMIT
    return total
""",
    """\
    try:
        return self.items[LIMIT]
    except IndexError:
        return None
""",
)
_WEATHER = ("rain", "wind", "snow", "fog", "warm sun", "low cloud")


def demo_text(n_chars: int, *, seed: int) -> str:
    """At least n_chars characters of mixed paragraphs, ended at the end of one."""
    rng = random.Random(seed)
    parts: list[str] = []
    length = 0
    while length < n_chars:
        paragraph = rng.choice(_TEMPLATES)(rng)
        parts.append(paragraph)
        length += len(paragraph)
    return "".join(parts)


def _arithmetic(rng: random.Random) -> str:
    person, thing = rng.choice(_PEOPLE), rng.choice(_THINGS)
    a, b, c = rng.randint(3, 60), rng.randint(3, 60), rng.randint(2, 12)
    if rng.random() < 0.5:
        return (
            f"Question: {person} packs {a} {thing} in the morning and {b} in the evening, every "
            f"day for {c} days. How many {thing} is that?\n"
            f"Reasoning: One day gives {a} + {b} = {a + b}. {c} days give {c} * {a + b} = "
            f"{c * (a + b)}.\nAnswer: {c * (a + b)}\n"
        )
    total = a + b + c
    return (
        f"Question: There are {total} {thing}. {person} takes {a} and later {b}. "
        f"How many are left?\n"
        f"Reasoning: {total} - {a} = {total - a}. Then {total - a} - {b} = {c}.\nAnswer: {c}\n"
    )


def _tool_call(rng: random.Random) -> str:
    place, person, day = rng.choice(_PLACES), rng.choice(_PEOPLE), rng.randint(1, 28)
    if rng.random() < 0.5:
        asked = f"When does the train to {place} leave on day {day}?"
        arguments: dict[str, str | int] = {"to": place, "day": day}
        call = {"name": "train_times", "arguments": arguments}
        hour = rng.randint(5, 22)
        result: dict[str, str | int] = {"to": place, "leaves": f"{hour}:30"}
        answer = f"The train to {place} leaves at {hour}:30."
    else:
        amount = rng.randint(5, 900)
        asked = f"Send {amount} euros to {person}."
        arguments = {"to": person, "amount": amount}
        call = {"name": "send_money", "arguments": arguments}
        result = {"status": "ok", "amount": amount}
        answer = f"Done. {person} gets {amount} euros."
    return (
        f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        f"{json.dumps(call)}\n</tool_call><|im_end|>\n<|im_start|>tool\n{json.dumps(result)}"
        f"<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    )


def _python(rng: random.Random) -> str:
    name, limit = rng.choice(_FUNCTIONS), rng.randint(2, 99)
    body = rng.choice(_BODIES).replace("LIMIT", str(limit))
    argument = "self" if "self" in body else "values"
    return f'def {name}_{limit}({argument}):\n    """Return the {name} of the values."""\n{body}\n'


def _prose(rng: random.Random) -> str:
    person, other = rng.sample(_PEOPLE, 2)
    place, weather = rng.choice(_PLACES), rng.choice(_WEATHER)
    thing, years = rng.choice(_THINGS), rng.randint(2, 40)
    sentences = [
        f"{person} had lived in {place} for {years} years before the old harbour was closed.",
        f"In the winter there was {weather} over the town, and nobody went out after dark.",
        f"The {thing} were kept in a room behind the house, where {other} had put them.",
        f'"We should go back to {place}," said {other}, but {person} did not answer.',
        f"It was the first time that so many people had come to see the {thing}.",
        f"By the end of the year {person} had sold most of them and moved to the south.",
    ]
    return " ".join(rng.sample(sentences, 4)) + "\n\n"


_TEMPLATES: tuple[Callable[[random.Random], str], ...] = (_arithmetic, _tool_call, _python, _prose)
