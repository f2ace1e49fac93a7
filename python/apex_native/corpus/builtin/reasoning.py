"""Worked problems with their steps: as plain text, and as a question with its answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from apex_native.corpus.builtin.reasoning_steps import PROCEDURES, Problem
from apex_native.corpus.builtin.rounds import rounds
from apex_native.corpus.builtin.templates import Filler, Pools, load_pools, load_sections
from apex_native.corpus.document import Document

__all__ = ["reasoning_documents", "reasoning_problems"]

AS_CHAT = 0.5
"""Half of the problems are asked and answered in turns, half are text, as in exercise books."""

_LAYOUTS = (
    "Question: {question}\nReasoning: {steps}\nAnswer: {answer}\n",
    "Problem. {question}\n\nSolution.\n{listed}\n\nResult: {answer}\n",
    "### Exercise\n{question}\n\n### Step by step\n{numbered}\n\n### Answer\n{answer}\n",
    "{question}\n\nLet us work it out.\n{listed}\nTherefore: {answer}.\n",
    "Q: {question}\nA: {steps} The answer is {answer}.\n",
)

_ANSWERS = (
    "Let me work through it step by step.\n\n{numbered}\n\n**Answer:** {answer}",
    "{steps}\n\nSo the answer is {answer}.",
    "First the steps:\n{listed}\n\nFinal answer: {answer}",
    "Step by step:\n{numbered}\n\nResult: {answer}.",
)

_REQUESTS = (
    "{question}",
    "{question} Show your steps.",
    "Please solve this step by step: {question}",
    "I'm stuck on this one. {question}",
    "{question} Explain how you get there.",
)


def reasoning_problems(rng: random.Random) -> Iterator[Problem]:
    """Problems of all kinds without end."""
    pools = load_pools("pools_english.txt")
    stories = load_sections("reasoning.txt").values()
    makers: list[Callable[[random.Random], Problem]] = [
        *PROCEDURES,
        *(partial(_story, story, pools) for story in stories),
    ]
    for maker in rounds(makers, rng):
        yield maker(rng)


def _story(template: str, pools: Pools, rng: random.Random) -> Problem:
    question, steps, answer = (part.strip("\n") for part in template.split("\n---\n"))
    filler = Filler(rng, pools)
    return Problem(filler.fill(question), filler.fill_lines(steps).split("\n"), filler.fill(answer))


def reasoning_documents(rng: random.Random) -> Iterator[Document]:
    """Worked problems without end; a text holds one to three of them, a conversation one or two."""
    problems = reasoning_problems(rng)
    while True:
        if rng.random() < AS_CHAT:
            messages = []
            for problem in (next(problems) for _ in range(rng.choice((1, 1, 2)))):
                request = rng.choice(_REQUESTS).format(question=problem.question)
                messages.append({"role": "user", "content": request})
                answer = _laid_out(rng.choice(_ANSWERS), problem)
                messages.append({"role": "assistant", "content": answer})
            yield Document(messages=tuple(messages))
        else:
            layout = rng.choice(_LAYOUTS)
            parts = [_laid_out(layout, next(problems)) for _ in range(rng.randint(1, 3))]
            yield Document(text="\n".join(parts))


def _laid_out(layout: str, problem: Problem) -> str:
    return layout.format(
        question=problem.question,
        steps=" ".join(problem.steps),
        listed="\n".join(f"- {step}" for step in problem.steps),
        numbered="\n".join(f"{i}. {step}" for i, step in enumerate(problem.steps, start=1)),
        answer=problem.answer,
    )
