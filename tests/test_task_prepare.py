"""Which tokens decide: ours, and llama-perplexity's with its miscounted rows, by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

import apex_native
from apex_native.engine import Model, load_model
from apex_native.errors import DataError
from apex_native.evaluation.tasks import ChoiceItem, GapItem
from apex_native.evaluation.tasks.items import Item, single_correct
from apex_native.evaluation.tasks.prepare import Answer, prepare_items
from apex_native.evaluation.tasks.score import ScoredItem, score_items
from apex_native.evaluation.tasks.upstream import prepare_upstream


@dataclass
class Words:
    """A model's tokenizer that gives one token a letter, its code; no model behind it."""

    n_ctx_train: int = 40

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> np.ndarray:
        assert add_special
        assert not parse_special
        return np.array([ord(char) for char in text], dtype=np.int32)


def choice(context: str, *endings: str) -> ChoiceItem:
    return ChoiceItem(context, endings, single_correct(0, len(endings)), "task 1")


def gap(before: str, after: str, first: str, second: str) -> GapItem:
    return GapItem(before, after, (first, second), (True, False), "task 1")


def asked(answer: Answer) -> list[str]:
    """``context>token`` for every scored token."""
    return [
        "".join(map(chr, run.tokens[:i])) + ">" + chr(run.tokens[i])
        for run in answer.runs
        for i in range(run.begin, len(run.tokens))
    ]


def ours(item: Item) -> list[list[str]]:
    (prepared,) = prepare_items(Words(), [item])  # type: ignore[arg-type]
    assert all(len(asked(answer)) == answer.n_scored for answer in prepared.answers)
    return [asked(answer) for answer in prepared.answers]


def theirs(items: Sequence[Item]) -> list[list[list[str]]]:
    prepared = prepare_upstream(Words(), items)  # type: ignore[arg-type]
    return [[asked(answer) for answer in item.answers] for item in prepared]


def test_endings_are_scored_from_where_they_part() -> None:
    assert ours(choice("Q", "ab", "ac", "d")) == [
        ["Q >a", "Q a>b"],
        ["Q >a", "Q a>c"],
        ["Q >d"],
    ]


def test_upstream_agrees_where_nothing_is_wrong() -> None:
    item = choice("Q", "ab", "ac", "d", "efg")
    assert theirs([item, item]) == [ours(item), ours(item)]


def test_the_beginning_of_all_others_is_scored_by_its_last_token() -> None:
    item = choice("Q", "ab", "abc", "abd")
    assert ours(item) == [["Q a>b"], ["Q a>b", "Q ab>c"], ["Q a>b", "Q ab>d"]]
    # What llama-perplexity reads behind the end of the first is token 0.
    assert theirs([item]) == [[["Q ab>\0"], ["Q ab>c"], ["Q ab>d"]]]


def test_equal_endings_are_a_tie() -> None:
    item = choice("Q", "a", "a")
    assert ours(item) == [["Q >a"], ["Q >a"]]
    assert theirs([item]) == [[["Q a>\0"], ["Q a>\0"]]]


def test_long_sentences_are_scored_behind_the_choice() -> None:
    item = gap("x", "tail.", "A", "B")
    assert ours(item) == [
        ["xA>t", "xAt>a", "xAta>i", "xAtai>l"],
        ["xB>t", "xBt>a", "xBta>i", "xBtai>l"],
    ]
    assert theirs([item]) == [ours(item)]


def test_short_sentences_are_scored_with_the_choice() -> None:
    item = gap("x", "y.", "A", "B")
    assert ours(item) == [["x>A", "xA>y"], ["x>B", "xB>y"]]
    # The second one's first token is looked up after the whole first sentence.
    assert theirs([item]) == [[["x>A", "xA>y"], ["xAy.>B", "xB>y"]]]


def test_a_gap_at_the_end_is_decided_by_the_choice() -> None:
    assert ours(gap("x", "", "A", "B")) == [["x>A"], ["x>B"]]
    # Long enough to be scored behind the choice, but nothing is there.
    assert ours(gap("x", "", "Abcde", "Bbcde"))[0][0] == "x>A"


def test_without_a_shared_token_the_first_is_not_scored() -> None:
    assert ours(gap("", "tail.", "A", "B"))[0] == ["A>t", "At>a", "Ata>i", "Atai>l"]
    assert ours(gap("", "y.", "A", "B")) == [["A>y"], ["B>y"]]


def test_upstream_is_off_by_a_row_without_a_shared_token() -> None:
    first, second = gap("", "tail.", "A", "B"), gap("x", "tail.", "A", "B")
    # The row it counts for the shared token does not exist: each looks one row too far, in its own
    # task and in the one behind it in the batch of two; the next batch is right again.
    shifted_first, shifted_second, right, _ = theirs([first, second, second, second])
    assert shifted_first == [
        ["At>t", "Ata>a", "Atai>i", "Atail>l"],
        ["Bt>t", "Bta>a", "Btai>i", "Btail>l"],
    ]
    assert shifted_second[0] == ["xAt>t", "xAta>a", "xAtai>i", "xAtail>l"]
    assert right == ours(second)


def test_upstream_scores_nothing_where_nothing_is_left() -> None:
    (prepared,) = prepare_upstream(Words(), [gap("x", "", "A", "A")])  # type: ignore[arg-type]
    assert [answer.n_scored for answer in prepared.answers] == [0, 0]
    assert ours(gap("x", "", "A", "A")) == [["x>A"], ["x>A"]]


def test_upstreams_limits_are_said() -> None:
    with pytest.raises(DataError, match="task 1: 5 answers and 7 tokens do not fit"):
        theirs([choice("Q", *"abcde")])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (choice("Q" * 38, "ab", "c"), "with answer 1 it has 41 tokens, more than the 40 of the"),
        (gap("", "", "A", "B"), "with answer 1 it has 1 tokens, at least 2 are needed"),
    ],
)
def test_items_that_do_not_fit_are_refused(item: Item, message: str) -> None:
    with pytest.raises(DataError, match=f"task 1: {message}"):
        prepare_items(Words(), [item])  # type: ignore[arg-type]


# --- decisions -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with load_model(apex_native.demo_model(), n_threads=2) as loaded:
        yield loaded


def decide(model: Model, item: Item, *, upstream: bool = False) -> ScoredItem:
    prepare = prepare_upstream if upstream else prepare_items
    (scored,) = score_items(model, prepare(model, [item]))
    return scored


def test_a_tie_goes_to_the_first_ending_and_the_second_choice(model: Model) -> None:
    tie = decide(model, choice("Two and two make", "four", "four", "zq#9 @@ zq"))
    assert tie.scores[0] == tie.scores[1] > tie.scores[2]
    assert (tie.answer, tie.correct) == (0, True)
    assert decide(model, gap("It is ", " that came.", "Ann", "Ann")).answer == 1


def test_nothing_to_score_is_upstreams_second_answer(model: Model) -> None:
    item = GapItem("It was ", "", ("Ann", "Ann"), (False, True), "task 1")
    scored = decide(model, item, upstream=True)
    assert np.isnan(scored.scores).all()
    assert (scored.answer, scored.correct, scored.finite) == (1, True, True)


def test_scores_are_means_per_token(model: Model) -> None:
    item = choice("Question: 3 + 4 =", "7.", "7. Answer: 7")
    short, long = decide(model, item).scores
    tokens = [
        model.tokenize(f"{item.context} {ending}", add_special=True, parse_special=False)
        for ending in item.endings
    ]
    assert len(tokens[1]) > len(tokens[0])
    assert -25 < long < 0
    assert -25 < short < 0
