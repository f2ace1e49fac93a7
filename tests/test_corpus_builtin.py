"""The built-in text: every template can be filled, sums are right, code compiles, JSON is valid."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import subprocess
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest

from apex_native.corpus.builtin import builtin_documents, builtin_topics
from apex_native.corpus.builtin.code import code_documents
from apex_native.corpus.builtin.reasoning import reasoning_problems
from apex_native.corpus.builtin.reasoning_steps import PROCEDURES
from apex_native.corpus.builtin.templates import Filler, load_pools, load_sections
from apex_native.corpus.builtin.tools import tool_documents
from apex_native.corpus.document import Document
from apex_native.corpus.duplicates import NearDuplicates
from apex_native.errors import CorpusError

SEEDS = range(12)


def first(topic: str, n: int, seed: int = 0) -> list[Document]:
    return list(islice(builtin_documents(topic, random.Random(seed)), n))


@pytest.mark.parametrize("topic", builtin_topics())
def test_every_template_can_be_filled(topic: str) -> None:
    for seed in SEEDS:
        for document in first(topic, 40, seed):
            assert document.words.strip()
            assert not set("«»") & set(document.words)


@pytest.mark.parametrize("topic", builtin_topics())
def test_the_seed_decides(topic: str) -> None:
    assert first(topic, 20, seed=3) == first(topic, 20, seed=3)
    assert first(topic, 20, seed=3) != first(topic, 20, seed=4)


@pytest.mark.parametrize("topic", builtin_topics())
def test_near_duplicates_are_few(topic: str) -> None:
    # 24 documents are more than a topic gives to 50,000 tokens, except for reasoning.
    known = NearDuplicates(0.8)
    for document in first(topic, 24):
        if not known.is_known(document.words):
            known.add(document.words)
    assert len(known) >= 18


def test_an_unknown_topic_has_a_near_one() -> None:
    with pytest.raises(CorpusError, match=r"'code\.pyton'; did you mean code\.python"):
        builtin_documents("code.pyton", random.Random(1))


# --- arithmetic ---------------------------------------------------------------------------------

NUMBER = r"\(?-?\d+\)?"
LEFT = rf"(?:\d+ \* )?\(?{NUMBER}(?: [-+*/] \(?{NUMBER}\)?)+\)?"
EQUATION = re.compile(rf"(?<![\w.^/(*+-])({LEFT}) = (-?\d+)(?![\d/.x]*x)")


def value_of(expression: str) -> Fraction:
    """Exact value by Python's own parser: nothing of the code that wrote it."""

    def walk(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(int(n)):
                return Fraction(n)
            case ast.UnaryOp(ast.USub(), operand):
                return -walk(operand)
            case ast.BinOp(left, ast.Add(), right):
                return walk(left) + walk(right)
            case ast.BinOp(left, ast.Sub(), right):
                return walk(left) - walk(right)
            case ast.BinOp(left, ast.Mult(), right):
                return walk(left) * walk(right)
            case ast.BinOp(left, ast.Div(), right):
                return walk(left) / walk(right)
        raise AssertionError(expression)

    return walk(ast.parse(expression, mode="eval").body)


def equations(text: str) -> list[tuple[str, int]]:
    found = []
    for left, right in EQUATION.findall(text):
        if left.count("(") == left.count(")"):
            found.append((left, int(right)))
    return found


def test_the_reader_of_equations_sees_a_wrong_one() -> None:
    assert equations("So 3 * (4 + 5) = 27, and 7 - (-2) = 8.") == [
        ("3 * (4 + 5)", 27),
        ("7 - (-2)", 8),
    ]
    assert value_of("7 - (-2)") == 9


def test_all_equations_hold() -> None:
    n = 0
    for seed in SEEDS:
        n_kinds = len(PROCEDURES) + len(load_sections("reasoning.txt"))
        for problem in islice(reasoning_problems(random.Random(seed)), n_kinds):
            for step in (*problem.steps, problem.answer):
                for left, right in equations(step):
                    assert value_of(left) == right, (problem.question, step)
                    n += 1
    assert n > 1500


def test_answers_of_algorithms_are_right() -> None:
    """Answers computed by other means than the steps are."""
    checked = 0
    for seed in range(40):
        for maker in PROCEDURES:
            question, _, answer = maker(random.Random(seed))
            numbers = [int(n) for n in re.findall(r"-?\d+", question)]
            match maker.__name__:
                case "_to_base":
                    assert int(answer, numbers[1]) == numbers[0]
                case "_long_multiplication":
                    assert int(answer) == numbers[0] * numbers[1]
                case "_long_division":
                    q, r = re.findall(r"\d+", answer)
                    assert divmod(numbers[0], numbers[1]) == (int(q), int(r))
                case "_loop_trace":
                    code = question.split("\n", 1)[1].replace("print(x)", "")
                    scope: dict[str, int] = {}
                    exec(code, {"range": range}, scope)
                    assert scope["x"] == int(answer)
                case "_sorting_trace":
                    values = ast.literal_eval(re.search(r"\[.*?\]", question)[0])
                    assert answer.startswith(str(sorted(values)))
                case "_fractions":
                    a, b, c, d = numbers
                    assert Fraction(answer) == Fraction(a, b) + Fraction(c, d)
                case "_heads_and_legs":
                    hens, rabbits = map(int, re.findall(r"\d+", answer))
                    assert (hens + rabbits, 2 * hens + 4 * rabbits) == tuple(numbers)
                case _:
                    continue
            checked += 1
    assert checked == 40 * 7


# --- code ---------------------------------------------------------------------------------------


def test_python_compiles() -> None:
    for seed in SEEDS:
        for document in islice(code_documents("python", random.Random(seed)), 16):
            ast.parse(document.text)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_c_compiles(tmp_path: Path) -> None:
    # Each part by itself: two parts of one file may define the same macro.
    pools = load_pools("pools_code.txt")
    for i, section in enumerate(load_sections("code_c.txt").values()):
        text = Filler(random.Random(i), pools).fill(section).replace("@use ", "")
        (tmp_path / f"{i}.c").write_text(text + "\n")
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    files = sorted(str(path) for path in tmp_path.glob("*.c"))
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", ["python", "javascript", "c", "rust"])
def test_brackets_are_balanced(language: str) -> None:
    pairs = {")": "(", "]": "[", "}": "{"}
    for document in islice(code_documents(language, random.Random(1)), 40):
        # Strings hold brackets of their own.
        text = re.sub(
            r'"(\\.|[^"\\\n])*"|\'(\\.|[^\'\\\n])\'|/\^?[^\n]*?\$?/\.test', "", document.text
        )
        for close, open_ in pairs.items():
            assert text.count(close) == text.count(open_), document.text


# --- conversations ------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["chat.english", "chat.spanish"])
def test_turns_alternate(topic: str) -> None:
    for document in first(topic, 60):
        roles = [m["role"] for m in document.messages if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles
    assert sum(len(document.messages) > 2 for document in first(topic, 60)) > 40


def test_lists_are_numbered_without_gaps() -> None:
    for topic in ("chat.english", "chat.spanish"):
        for document in first(topic, 80):
            for message in document.messages:
                numbers = [int(n) for n in re.findall(r"^(\d+)\. ", message["content"], re.M)]
                assert numbers == list(range(1, len(numbers) + 1)), message["content"]


def test_calls_fit_their_schemas() -> None:
    kinds = {"string": str, "integer": int, "boolean": bool, "array": list, "number": int | float}
    calls = 0
    for document in islice(tool_documents(random.Random(5)), 120):
        schemas = {t["function"]["name"]: t["function"]["parameters"] for t in document.tools}
        for message in document.messages:
            if message["role"] == "tool":
                json.loads(message["content"])
            for call in message.get("tool_calls", ()):
                schema = schemas[call["function"]["name"]]
                arguments = call["function"]["arguments"]
                assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
                for name, value in arguments.items():
                    declared = schema["properties"][name]
                    assert isinstance(value, kinds[declared["type"]]), (call, name)
                    assert value in declared.get("enum", [value])
                calls += 1
    assert calls > 120
    names = {
        t["function"]["name"] for d in islice(tool_documents(random.Random(5)), 60) for t in d.tools
    }
    assert len(names) == 23


def test_templates_complain_about_themselves() -> None:
    filler = Filler(random.Random(1), {"city": ["Rome"]})
    assert filler.fill("«n:2-2» «=n*3+1» «city» «city^» «a|a»") == "2 7 Rome Rome a"
    with pytest.raises(ValueError, match="only whole numbers"):
        filler.fill("«=__import__('os')»")
    with pytest.raises(ValueError, match="unbalanced"):
        filler.fill("« open")
    with pytest.raises(KeyError):
        filler.fill("«nothing»")
