"""Every verb on every kind of file: a result, or one sentence that says why not.

The table is the specification: RESULT, or words of the sentence. The verbs of a kind run in this
order in one process, which must live.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation import Isolation
from model_kinds import KINDS, write_kind
from verb_runs import VERBS, complaints, run_verbs, write_inputs

RESULT = ""
NO_RESULTS_FILE = "this is no results file"
NO_MODEL = "no model that computes text"
COMPUTING = ("imatrix", "corpus", "eval", "tasks", "bench")


def row(computing: str = RESULT, **cells: str) -> dict[str, str]:
    """A row of the table: what computes with the model, and the cells that differ."""
    common = dict.fromkeys(VERBS, RESULT) | dict.fromkeys(COMPUTING, computing)
    return {**common, "report": NO_RESULTS_FILE, **cells}


def no_model(what: str) -> dict[str, str]:
    """A row of a file that holds something else; it is inspected all the same."""
    refusal = f"this is {what}, no model to quantize"
    return row(f"holds {what}, {NO_MODEL}", plan=refusal, quantize=refusal)


LOGITS = "needs a model that gives the next token's logits, and this is "
NO_SHARD = "shard 2 of 3 is not there"

TABLE: dict[str, dict[str, str]] = {
    "model": row(),
    "header only": row("holds the header only", quantize="holds the header only"),
    "partial download": row("the file is truncated", quantize="the file is truncated"),
    "first shard": row(),
    "later shard": row(),
    "missing shard": row(
        NO_SHARD, inspect=NO_SHARD, plan=NO_SHARD, quantize=NO_SHARD, doctor=NO_SHARD
    ),
    "mmproj": row(f"holds an image or audio encoder (mmproj), {NO_MODEL}"),
    "LoRA adapter": no_model("a LoRA adapter"),
    "control vector": no_model("a control vector"),
    "importance matrix": no_model("an importance matrix"),
    "encoder": row(LOGITS + "an encoder;", corpus=RESULT),
    "encoder–decoder": row(LOGITS + "an encoder–decoder model;", corpus=RESULT),
    "embedder": row(LOGITS + "an embedding model;", corpus=RESULT),
    "no vocabulary": row("needs a vocabulary, and this file has none", bench=RESULT),
    "incomplete": row("tensor 'blk.0.ffn_down_exps.weight' not found", corpus=RESULT),
    "zero-filled": row(),
    "already quantized": row(),
    "MTP head alone": row("holds blocks of multi-token prediction only"),
    "unknown architecture": row("unknown model architecture: 'notyetknown'"),
}


def test_the_table_is_complete() -> None:
    assert list(TABLE) == list(KINDS)
    for cells in TABLE.values():
        assert sorted(cells) == sorted(VERBS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_or_a_sentence(
    isolation: Isolation, tmp_path: Path, inputs: Path, kind: str
) -> None:
    outcome = isolation.run(run_verbs, str(write_kind(kind, tmp_path)), str(inputs))
    assert outcome.error == (), outcome.message
    wrong = {
        verb: outcome.value[verb]
        for verb, expected in TABLE[kind].items()
        if not _is_as_expected(expected, *outcome.value[verb])
    }
    assert wrong == {}


def _is_as_expected(expected: str, code: int, stdout: str, stderr: str) -> bool:
    if complaints(stdout + stderr):
        return False
    if expected == RESULT:
        return code == 0
    return code == 1 and expected in " ".join(stderr.split())
