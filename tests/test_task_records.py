"""Tasks from JSONL, parquet and a hub's cache."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from apex_native.errors import DataError
from apex_native.evaluation.tasks import (
    ChoiceItem,
    GapItem,
    Item,
    TaskKind,
    TaskSpec,
    format_hellaswag,
    open_task,
)
from apex_native.evaluation.tasks.hub import fetch_from_hub
from apex_native.evaluation.tasks.records import parse_jsonl, parse_parquet
from task_files import hellaswag_items

CHOICE = TaskKind.MULTIPLE_CHOICE

RECORDS: dict[str, tuple[TaskKind, dict[str, Any]]] = {
    "mmlu": (CHOICE, {"question": "2 + 2 ", "choices": ["3", "4", "5", "6"], "answer": 1}),
    "mmlu letter": (CHOICE, {"question": "2 + 2", "choices": ["3", "4"], "answer": "B"}),
    "arc": (
        CHOICE,
        {
            "question": "2 + 2",
            "choices": {"text": ["3", "4", "5"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
    ),
    "truthfulqa": (
        CHOICE,
        {"question": "2 + 2", "mc1_targets": {"choices": ["3", "4"], "labels": [0, 1]}},
    ),
    "own": (CHOICE, {"question": "Word for word:", "answers": ["a", "b"], "labels": [0, 1]}),
    "winogrande": (
        TaskKind.WINOGRANDE,
        {"sentence": "So _ won.", "option1": "Ann", "option2": "Bob", "answer": "2"},
    ),
    "hellaswag": (
        TaskKind.HELLASWAG,
        {
            "activity_label": "Tea",
            "ctx_a": "[header] How to make tea [title] Boil water.",
            "ctx_b": "then",
            "ctx": "unused",
            "endings": ["pour [step] it.", "b", "c", "d"],
            "label": "0",
        },
    ),
}


def jsonl(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def expected(name: str) -> Item:
    if name == "own":
        return ChoiceItem("Word for word:", ("a", "b"), (False, True), "file, line 1")
    if name == "winogrande":
        return GapItem("So ", " won.", ("Ann", "Bob"), (False, True), "file, line 1")
    if name == "hellaswag":
        return ChoiceItem(
            "Tea:  How to make tea. Boil water. Then".replace("  ", " "),
            ("pour it.", "b", "c", "d"),
            (True, False, False, False),
            "file, line 1",
        )
    answers = {"mmlu": 4, "arc": 3}.get(name, 2)
    return ChoiceItem(
        "Question: 2 + 2\nAnswer:",
        ("3", "4", "5", "6")[:answers],
        (False, True, False, False)[:answers],
        "file, line 1",
    )


@pytest.mark.parametrize("name", RECORDS)
def test_known_records(name: str) -> None:
    kind, record = RECORDS[name]
    assert parse_jsonl(jsonl(record), "file", kind) == [expected(name)]


@pytest.mark.parametrize("name", RECORDS)
def test_parquet_holds_the_same(name: str) -> None:
    kind, record = RECORDS[name]
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([record, record]), out)
    first, second = parse_parquet(out.getvalue(), "file", kind)
    assert second.place == "file, row 2"
    read = parse_jsonl(jsonl(record), "file", kind)[0]
    assert first.correct == read.correct


def test_blank_lines_and_a_byte_order_mark_are_no_records() -> None:
    kind, record = RECORDS["own"]
    data = b"\xef\xbb\xbf" + jsonl(record) + b"\n \n" + jsonl(record)
    assert [item.place for item in parse_jsonl(data, "file", kind)] == [
        "file, line 1",
        "file, line 4",
    ]


def changed(name: str, **values: object) -> bytes:
    kind_record = RECORDS[name][1]
    return jsonl({**kind_record, **values})


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (CHOICE, b"", "has no tasks"),
        (CHOICE, b"{", "line 1: no readable JSON"),
        (CHOICE, b"[" * 100_000, "line 1: no readable JSON"),
        (CHOICE, b"[1]", "line 1: expected an object, found list"),
        (CHOICE, jsonl({"a": 1}), "is no multiple-choice task; expected the keys"),
        (TaskKind.WINOGRANDE, changed("own"), "is no winogrande task; expected the keys answer"),
        (CHOICE, changed("mmlu", question=" "), "question must be a text that is not empty"),
        (CHOICE, changed("mmlu", answer=4), "answer must be 0 to 3, found 4"),
        (CHOICE, changed("mmlu", answer=True), "answer must be 0 to 3, found True"),
        (CHOICE, changed("mmlu", answer="E"), "answer must be 0 to 3, found 4"),
        (CHOICE, changed("mmlu", choices=["1"]), "choices must be a list of 2 to 100, found 1"),
        (CHOICE, changed("mmlu", choices=["x"] * 101), "list of 2 to 100, found 101"),
        (CHOICE, changed("mmlu", choices=["1", ""]), r"choices\[1\] must be a text"),
        (CHOICE, changed("mmlu", choices="12"), "choices must be a list of 2 to 100, found str"),
        (CHOICE, changed("arc", answerKey="4"), "answerKey '4' must be one of choices.label"),
        (CHOICE, changed("arc", choices=["1", "2"]), "choices must be an object, found list"),
        (CHOICE, changed("truthfulqa", mc1_targets=[]), "mc1_targets must be an object"),
        (CHOICE, changed("own", labels=[0]), "labels must be 2 numbers, 0 or 1"),
        (CHOICE, changed("own", labels=[0, 0]), "labels call no answer correct"),
        (TaskKind.WINOGRANDE, changed("winogrande", answer=""), "the answer must be 1 or 2"),
        (TaskKind.WINOGRANDE, changed("winogrande", sentence="no"), "the sentence has no gap"),
        (TaskKind.HELLASWAG, changed("hellaswag", endings=["a", "b"]), "has four endings, found 2"),
        (TaskKind.HELLASWAG, changed("hellaswag", label=""), "label must be 0 to 3, found ''"),
    ],
)
def test_bad_records_name_the_place(kind: TaskKind, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        parse_jsonl(data, "file", kind)
    assert str(error.value).startswith("file")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all", b"PAR1" + bytes(80)])
def test_bad_parquet_is_one_sentence(data: bytes) -> None:
    with pytest.raises(DataError, match="file: no readable parquet file"):
        parse_parquet(data, "file", CHOICE)


# --- files ---------------------------------------------------------------------------------------


def test_open_task_by_end_of_the_name(tmp_path: Path) -> None:
    text = tmp_path / "val.txt"
    text.write_text(format_hellaswag(hellaswag_items(3)))
    opened = open_task(TaskSpec(TaskKind.HELLASWAG, str(text)))
    assert (opened.name, len(opened.items)) == ("hellaswag", 3)
    assert opened.sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    records = tmp_path / "arc-challenge.jsonl"
    records.write_bytes(jsonl(RECORDS["arc"][1]))
    assert open_task(TaskSpec(CHOICE, str(records))).name == "arc-challenge"
    assert open_task(TaskSpec(CHOICE, str(records), "arc")).name == "arc"


def test_a_missing_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_task(TaskSpec(CHOICE, str(tmp_path / "none")))
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is empty; expected a task file"):
        open_task(TaskSpec(CHOICE, str(tmp_path / "empty")))


def test_names_before_files(tmp_path: Path) -> None:
    assert TaskSpec.parse(CHOICE, "mmlu=a/b.bin") == TaskSpec(CHOICE, "a/b.bin", "mmlu")
    assert TaskSpec.parse(CHOICE, "a/b=c.bin") == TaskSpec(CHOICE, "a/b=c.bin")
    odd = tmp_path / "a=b.bin"
    odd.touch()
    assert TaskSpec.parse(CHOICE, str(odd)) == TaskSpec(CHOICE, str(odd))


# --- the hub -------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's client lays it out: one data set, one snapshot, no network."""
    blob = jsonl(RECORDS["arc"][1])
    root = tmp_path / "hub" / "datasets--some-one--arc_set"
    name = hashlib.sha256(blob).hexdigest()
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / name).write_bytes(blob)
    snapshot = root / "snapshots" / COMMIT / "ARC-Challenge"
    snapshot.mkdir(parents=True)
    (snapshot / "test.jsonl").symlink_to(f"../../../blobs/{name}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


OPEN_FROM_HUB = """
import sys
from apex_native.errors import DataError
from apex_native.evaluation.tasks import TaskKind, TaskSpec, open_task
try:
    opened = open_task(TaskSpec(TaskKind.MULTIPLE_CHOICE, sys.argv[1], "arc"))
    print(opened.name, len(opened.items), opened.items[0].endings)
except DataError as error:
    print("DataError", error)
"""


def open_from_hub(address: str, cache: Path) -> str:
    # The client reads its variables when it is imported: in a process of its own.
    run = subprocess.run(
        [sys.executable, "-c", OPEN_FROM_HUB, address],
        env={
            "PYTHONPATH": ":".join(sys.path),
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "1",
            "HOME": str(cache),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def test_a_file_in_the_hubs_cache(hub_cache: Path) -> None:
    address = f"hf://datasets/some-one/arc_set@{COMMIT}/ARC-Challenge/test.jsonl"
    assert open_from_hub(address, hub_cache) == "arc 1 ('3', '4', '5')"


def test_a_file_that_is_not_there_and_cannot_be_had(hub_cache: Path) -> None:
    address = f"hf://datasets/some-one/arc_set@{COMMIT}/ARC-Easy/test.jsonl"
    said = open_from_hub(address, hub_cache)
    assert said == (
        f"DataError '{address}' cannot be downloaded: it is not in the cache; check the network, "
        "or unset HF_HUB_OFFLINE"
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://some-one/arc", "is no address; write hf://datasets/OWNER/NAME@COMMIT/"),
        ("hf://datasets/a/b/c.jsonl", "revision must be a commit hash of 40 digits, found none"),
        ("hf://datasets/a/b@main/c.jsonl", "40 digits, found main"),
        (f"hf://datasets/a/b@{COMMIT[:12]}/c.jsonl", "40 digits, found 0123456789ab"),
    ],
)
def test_addresses_must_be_pinned(address: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fetch_from_hub(address)
