"""Text from files and folders, good ones and hostile ones."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from apex_native.corpus.blocks import block_count, block_lines
from apex_native.corpus.document import cut_conversation, cut_text
from apex_native.corpus.rows import RowError, row_documents
from apex_native.corpus.source_specs import RowFields
from apex_native.errors import CorpusError
from corpus_tools import built_from_files, prose


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def source(corpus: Any) -> dict[str, Any]:
    return corpus.manifest["domains"][0]["sources"][0]


# --- what is read -------------------------------------------------------------------------------


def test_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(prose(2000, seed=1))
    corpus = built_from_files(tmp_path, 800, 'paths = ["a.txt"]')
    (read,) = source(corpus)["inputs"]
    content = (tmp_path / "a.txt").read_bytes()
    assert read == {
        "name": "a.txt",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert abs(corpus.n_tokens - 800) < 60
    assert set(corpus.text.split()) <= set(content.decode().split())


def test_a_folder_by_suffix_without_hidden_files(tmp_path: Path) -> None:
    for i, name in enumerate(["a.py", "sub/b.py", "c.md", ".git/d.py", "sub/.e.py", "f.bin"]):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(prose(60, seed=i))
    corpus = built_from_files(
        tmp_path, 10_000, 'paths = ["src"]\nsuffixes = [".py"]', allow_short=True
    )
    assert [f["name"] for f in source(corpus)["inputs"]] == ["src/a.py", "src/sub/b.py"]
    assert "there is no more" in source(corpus)["exhausted"]
    corpus = built_from_files(tmp_path, 10_000, 'paths = ["src"]', allow_short=True)
    assert [f["name"][4:] for f in source(corpus)["inputs"]] == ["a.py", "c.md", "sub/b.py"]


def test_a_pattern(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"n{i}.md").write_text(prose(60, seed=i))
    corpus = built_from_files(tmp_path, 9999, 'paths = ["n[01].md", "n1.md"]', allow_short=True)
    assert [f["name"] for f in source(corpus)["inputs"]] == ["n0.md", "n1.md"]


def test_rows_with_text(tmp_path: Path) -> None:
    rows = [{"body": prose(80, seed=i), "id": i} for i in range(20)]
    write_rows(tmp_path / "r.jsonl", [*rows, {"id": 3}, ["x"], {"body": 7}, {"body": " "}])
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write("{broken\n\n")
    corpus = built_from_files(
        tmp_path, 99_999, 'paths = ["r.jsonl"]\nfield = "body"', allow_short=True
    )
    assert source(corpus)["documents"] == 20
    assert source(corpus)["skipped"] == {
        "field 'body' is empty": 1,
        "field 'body' is no text": 1,
        "no field 'body' (there are id)": 1,
        "the line is no JSON": 1,
        "the row is no object": 1,
    }


def test_conversations_are_rendered(tmp_path: Path) -> None:
    turns = [
        [
            {"role": "user", "content": prose(20, seed=i)},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}, {"type": "image"}]},
        ]
        for i in range(4)
    ]
    old = [{"from": "human", "value": prose(20, seed=9)}, {"from": "gpt", "value": "No."}]
    write_rows(tmp_path / "c.jsonl", [{"turns": t} for t in [*turns, old, json.dumps(old)]])
    corpus = built_from_files(
        tmp_path, 9999, 'paths = ["c.jsonl"]\nmessages = "turns"', allow_short=True
    )
    assert source(corpus)["documents"] == 5
    assert corpus.manifest["dropped_duplicates"] == 1
    assert corpus.text.count("<|im_start|>assistant\nYes.<|im_end|>\n") == 4
    assert "<|im_start|>assistant\nNo.<|im_end|>\n" in corpus.text


def test_parquet(tmp_path: Path) -> None:
    texts = [prose(60, seed=i) for i in range(30)]
    table = pa.table({"body": [*texts, None], "n": list(range(31))})
    parquet.write_table(table, tmp_path / "p.parquet", row_group_size=8)
    corpus = built_from_files(
        tmp_path, 99_999, 'paths = ["p.parquet"]\nfield = "body"', allow_short=True
    )
    assert source(corpus)["documents"] == 30
    assert source(corpus)["skipped"] == {"no field 'body' (there are body)": 1}
    assert all(text.strip("\n") in corpus.text for text in texts)


def test_parquet_with_conversations(tmp_path: Path) -> None:
    rows = [
        [{"role": "user", "content": prose(30, seed=i)}, {"role": "assistant", "content": "Fine."}]
        for i in range(5)
    ]
    parquet.write_table(pa.table({"messages": rows}), tmp_path / "p.parquet")
    corpus = built_from_files(
        tmp_path, 9999, 'paths = ["p.parquet"]\nmessages = "messages"', allow_short=True
    )
    assert corpus.text.count("<|im_start|>assistant\nFine.<|im_end|>\n") == 5


def test_a_text_comes_from_all_over_a_large_file(tmp_path: Path) -> None:
    # Numbered lines over several blocks; 16 blocks are drawn from in turn.
    lines = [f"line {i:06} " + prose(12, seed=i) for i in range(20_000)]
    (tmp_path / "big.txt").write_text("".join(lines))
    corpus = built_from_files(tmp_path, 20_000, 'paths = ["big.txt"]')
    numbers = [int(word) for word in corpus.text.split() if word.isdecimal()]
    assert min(numbers) < 4000
    assert max(numbers) > 16_000


# --- hostile files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.txt is empty; take it out"),
        (b"caf\xe9 noir " * 90, "a.txt is not UTF-8: byte 0xe9; convert it"),
        (b"text\0more " * 90, "a.txt holds a zero byte"),
    ],
)
def test_a_named_file_that_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        built_from_files(tmp_path, 100, 'paths = ["a.txt"]')


def test_a_folder_may_hold_other_things(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "good.txt").write_bytes(b"\xef\xbb\xbf" + prose(400, seed=1).encode())
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "binary.txt").write_bytes(bytes(256))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "windows.txt").write_bytes(prose(300, seed=2).replace("\n", "\r\n").encode())
    corpus = built_from_files(tmp_path, 9999, 'paths = ["d"]', allow_short=True)
    assert source(corpus)["skipped"] == {"not UTF-8 text": 2}
    assert "\r" not in corpus.text
    assert "\ufeff" not in corpus.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('paths = ["none.txt"]', "none.txt: no such file or folder; 'paths' begin at the recipe's"),
        ('paths = ["*.none"]', "no file there with the known suffixes"),
        ('paths = ["."]\nsuffixes = [".rs"]', r"no file there with \.rs; check"),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, keys: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusError, match=message):
        built_from_files(tmp_path, 100, keys)


def test_rows_without_the_field(tmp_path: Path) -> None:
    write_rows(tmp_path / "r.jsonl", [{"id": i, "body": "x"} for i in range(5)])
    with pytest.raises(CorpusError, match=r"5 were unusable, 5 of them: no field 'text' \(there"):
        built_from_files(tmp_path, 100, 'paths = ["r.jsonl"]')


def test_parquet_without_the_column(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "p.parquet")
    with pytest.raises(CorpusError, match="no column 'text', there are a, b; name one of them"):
        built_from_files(tmp_path, 100, 'paths = ["p.parquet"]')


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1", b"x" * 999])
def test_parquet_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(CorpusError, match=r"p\.parquet: cannot be read as parquet"):
        built_from_files(tmp_path, 100, 'paths = ["p.parquet"]')


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"m": "no list"}, "field 'm' is no list"),
        ({"m": "[" * 100_000}, "field 'm' is no list"),
        ({"m": [1]}, "is no list of objects"),
        ({"m": [{"content": "x"}]}, "a message has no role"),
        ({"m": [{"role": "user", "content": 3}]}, "content is no text"),
        ({"m": [{"role": "user", "content": "x"}]}, "no exchange within 100 characters"),
        ({"m": [{"role": "assistant", "tool_calls": [{}]}]}, "no function name"),
        (
            {"m": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "arguments are no JSON",
        ),
        (
            {"m": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": 3}]}]},
            "arguments are no object",
        ),
    ],
)
def test_a_row_that_is_no_conversation(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        list(row_documents(row, RowFields(messages="m"), 100))


def test_deep_json_is_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("[" * 200_000 + "\n" + json.dumps({"text": prose(99, 1)}))
    corpus = built_from_files(tmp_path, 90, 'paths = ["r.jsonl"]', allow_short=True)
    assert source(corpus)["skipped"] == {"the line is no JSON": 1}


# --- cutting ------------------------------------------------------------------------------------


def test_blocks_hold_every_line_once(tmp_path: Path) -> None:
    rng = random.Random(2)
    path = tmp_path / "lines"
    for ending in (b"\n", b""):
        lines = [
            bytes(rng.randrange(97, 123) for _ in range(rng.randrange(30))) for _ in range(200)
        ]
        content = b"\n".join(lines) + ending
        path.write_bytes(content)
        for size in (1, 2, 3, 7, 16, 64, 1000, 10_000):
            n_blocks = block_count(len(content), size)
            parts = [line for i in range(n_blocks) for line in block_lines(path, i, size)]
            assert b"".join(parts) == content, size


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apex_native.corpus.blocks.MAX_LINE_BYTES", 1001)
    path = tmp_path / "long"
    path.write_bytes("ü".encode() * 100_000 + b"\nend\n")
    parts = [line for i in range(block_count(200_006, 4096)) for line in block_lines(path, i, 4096)]
    assert parts == ["ü".encode() * 500, b"end\n"]


def test_cut_text_loses_nothing_but_blanks() -> None:
    text = "\n\n".join(prose(70, seed=i) for i in range(6)) + "x" * 500
    for size in (50, 120, 333, 5000):
        pieces = list(cut_text(text, size))
        assert max(map(len, pieces)) <= size
        assert "".join("".join(pieces).split()) == "".join(text.split())
    assert list(cut_text("\n\n \n", 10)) == []


def test_cut_conversation_ends_after_an_answer() -> None:
    turns = [
        {"role": role, "content": "x" * 10} for _ in range(3) for role in ("user", "assistant")
    ]
    assert len(cut_conversation(turns, 1000)) == 6
    assert len(cut_conversation(turns, 45)) == 4
    assert len(cut_conversation(turns, 39)) == 2
    assert cut_conversation(turns, 15) == ()
