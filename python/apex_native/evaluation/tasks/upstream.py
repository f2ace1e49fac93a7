"""llama-perplexity's scores with its bugs: what ``--compat upstream`` asks for.

llama-perplexity puts the logits of a batch into rows and finds them again by counting. Where it
miscounts, this finds the same wrong row: a row is known by the tokens before it, so the wrong
probability is that of a token after the wrong text, and can be asked of a model like any other.

The bugs of tools/perplexity/perplexity.cpp (llama.cpp 0c1e57098), each right in the default:

1. Winogrande, where the choice is scored too: the first token of the second sentence is looked up
   after the whole first sentence ("FIXME: this uses the wrong first logits").
2. Winogrande: a file's last line is dropped, choices keep their quotes, and a sentence without a
   token to score gives NaN, which counts as answer 2.
3. HellaSwag and multiple choice: an ending that is the beginning of all others has no token left,
   and memory behind its end is read, which holds token 0; HellaSwag looks for what endings share
   along the first one only. The first token's probability is a float, so one below 1e-45 is 0.
4. Where the answers' texts share no token at all (no BOS, and the gap or the difference is at the
   beginning), the row "after what they share" is counted but does not exist: this task and those
   behind it in the batch read the next row instead of their own.

The batches are those of its default, ``-np 4`` and 512 tokens of context for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apex_native.engine import Model, Tokens
from apex_native.errors import DataError
from apex_native.evaluation.tasks.items import ChoiceItem, GapItem, Item
from apex_native.evaluation.tasks.prepare import (
    Answer,
    PreparedItem,
    ScoredRun,
    gap_spans,
    tokenize_item,
)

__all__ = ["prepare_upstream"]

_N_PARALLEL = 4
_N_CTX = 512 * _N_PARALLEL
_BEHIND_THE_END = 0
"""What common_tokenize leaves behind the last token: its vector was made larger, of zeros."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A task, the rows it looks up for each answer with the token it wants there, and counts."""

    item: Item
    sequences: list[Tokens]
    prefix: int
    wanted: list[list[tuple[int, int]]]
    n_scored: list[int]

    @property
    def n_tokens(self) -> int:
        return self.prefix + sum(len(tokens) - self.prefix for tokens in self.sequences)


def prepare_upstream(model: Model, items: Sequence[Item]) -> list[PreparedItem]:
    """What llama-perplexity scores for each item, wrong rows included.

    Raises DataError for a task that does not fit its batch, and where it would read a row that
    was never written.
    """
    tasks = [
        _gap_task(model, item) if isinstance(item, GapItem) else _choice_task(model, item)
        for item in items
    ]
    rows: dict[int, Tokens] = {}
    prepared: list[PreparedItem] = []
    first = 0
    while first < len(tasks):
        end = _batch_end(tasks, first)
        batch = tasks[first:end]
        rows.update(enumerate(_written_rows(batch)))
        begin = 0
        for task in batch:
            prepared.append(_prepared(task, begin, rows))
            begin += 1 + sum(_n_tail_rows(task, tokens) for tokens in task.sequences)
        first = end
    return prepared


def _gap_task(model: Model, item: GapItem) -> _Task:
    sequences = tokenize_item(model, item)
    prefix = _prefix_of_first(sequences[0], sequences[1:])
    spans = gap_spans(model, item, sequences, prefix)
    wanted: list[list[tuple[int, int]]] = []
    n_scored: list[int] = []
    for i, (tokens, (begin, left_out)) in enumerate(zip(sequences, spans, strict=True)):
        row = begin - prefix + (len(sequences[0]) - prefix if i else 0)
        # With begin 0 the loop starts at -1, which is the largest unsigned number: it never runs.
        targets = range(begin, len(tokens) - left_out) if begin > 0 else ()
        wanted.append([(row + j, int(tokens[target])) for j, target in enumerate(targets)])
        n_scored.append(len(tokens) - begin - left_out)
    return _Task(item, sequences, prefix, wanted, n_scored)


def _choice_task(model: Model, item: ChoiceItem) -> _Task:
    sequences = tokenize_item(model, item)
    prefix = _prefix_of_first(sequences[0], sequences[1:])
    row = 1
    wanted: list[list[tuple[int, int]]] = []
    for tokens in sequences:
        first = int(tokens[prefix]) if prefix < len(tokens) else _BEHIND_THE_END
        answer = [(0, first)]
        for target in tokens[prefix + 1 :]:
            answer.append((row, int(target)))
            row += 1
        wanted.append(answer)
    return _Task(item, sequences, prefix, wanted, [len(answer) for answer in wanted])


def _prefix_of_first(first: Tokens, others: Sequence[Tokens]) -> int:
    """Tokens in common, found by going along the first sequence and reading past shorter ones."""
    for i, token in enumerate(first):
        for other in others:
            if token != (other[i] if i < len(other) else _BEHIND_THE_END):
                return i
    return len(first)


def _batch_end(tasks: Sequence[_Task], first: int) -> int:
    n_tokens = n_sequences = 0
    end = first
    while end < len(tasks):
        task = tasks[end]
        n_tokens += task.n_tokens
        n_sequences += len(task.sequences)
        if n_tokens > _N_CTX or n_sequences > _N_PARALLEL:
            break
        end += 1
    if end == first:
        task = tasks[first]
        raise DataError(
            f"{task.item.place}: {len(task.sequences)} answers and {task.n_tokens:,} tokens do not "
            f"fit llama-perplexity's default batch of {_N_PARALLEL} and {_N_CTX:,}; score without "
            "`compat=True`"
        )
    return end


def _n_tail_rows(task: _Task, tokens: Tokens) -> int:
    """Rows a sequence has behind the shared tokens; its last token is one for Winogrande only."""
    n_tail = max(0, len(tokens) - task.prefix)
    return n_tail if isinstance(task.item, GapItem) else max(0, n_tail - 1)


def _written_rows(batch: Sequence[_Task]) -> list[Tokens]:
    """The rows that exist after the batch, in order, each as the tokens before it."""
    rows: list[Tokens] = []
    last: Tokens | None = None  # the batch's last token, if it is no row yet
    for task in batch:
        if task.prefix > 0:
            rows.append(task.sequences[0][: task.prefix])
            last = None
        elif last is not None:
            rows.append(last)
        for tokens in task.sequences:
            n_rows = _n_tail_rows(task, tokens)
            rows += [tokens[: task.prefix + i + 1] for i in range(n_rows)]
            if len(tokens) > task.prefix:
                last = None if isinstance(task.item, GapItem) else tokens
    return rows


def _prepared(task: _Task, begin: int, rows: dict[int, Tokens]) -> PreparedItem:
    answers = []
    for wanted, n_scored in zip(task.wanted, task.n_scored, strict=True):
        runs = []
        for row, token in wanted:
            if begin + row not in rows:
                raise DataError(
                    f"{task.item.place}: llama-perplexity would read memory that was never "
                    "written; score without `compat=True`"
                )
            context = rows[begin + row]
            tokens = np.append(context, np.int32(token)).astype(np.int32)
            runs.append(ScoredRun(tokens, len(context)))
        answers.append(Answer(tuple(runs), n_scored, isinstance(task.item, ChoiceItem)))
    return PreparedItem(task.item, tuple(answers))
