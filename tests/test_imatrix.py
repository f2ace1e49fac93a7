"""Importance matrices: both formats, normalised as llama-quantize does, and files that are not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

import apex_native as apex
from quantize_models import imatrix_arrays, write_imatrix, write_model


def legacy_bytes(
    entries: dict[str, tuple[int, np.ndarray]], trailer: tuple[int, str] | None = (7, "text.txt")
) -> bytes:
    """i32 n; per entry i32 length, name, i32 calls, i32 n, float values; i32 chunks, dataset."""
    parts = [struct.pack("<i", len(entries))]
    for name, (n_calls, values) in entries.items():
        encoded = name.encode()
        parts.append(struct.pack("<i", len(encoded)) + encoded)
        parts.append(struct.pack("<ii", n_calls, values.size) + values.astype("<f4").tobytes())
    if trailer is not None:
        chunks, dataset = trailer
        parts.append(struct.pack("<ii", chunks, len(dataset)) + dataset.encode())
    return b"".join(parts)


def test_gguf_values_are_sums_over_counts_and_one_for_unseen(tmp_path: Path) -> None:
    imatrix = apex.load_imatrix(write_imatrix(tmp_path / "imatrix.gguf"))
    for name, (sums, counts) in imatrix_arrays().items():
        entry = imatrix.entries[name]
        expected = np.ones_like(sums)
        np.divide(sums, counts, out=expected, where=counts > 0)
        assert entry.values.dtype == np.float32
        np.testing.assert_array_equal(entry.values, expected)
        np.testing.assert_array_equal(entry.counts, counts[:, 0])
    assert imatrix.chunk_count == 12
    assert imatrix.datasets == ("templates",)
    assert not imatrix.is_legacy
    unseen = imatrix.entries["blk.0.ffn_up_exps.weight"]
    assert unseen.counts[-1] == 0
    assert (unseen.values[-1] == 1).all()


def test_legacy_values_are_divided_by_the_calls(tmp_path: Path) -> None:
    values = np.array([3.0, 6.0, 1.5, 0.1], np.float32)
    path = tmp_path / "imatrix.dat"
    path.write_bytes(legacy_bytes({"blk.0.attn_q.weight": (3, values)}))
    imatrix = apex.load_imatrix(path)
    found = imatrix.entries["blk.0.attn_q.weight"].values
    np.testing.assert_array_equal(found, (values / np.float32(3)).reshape(1, -1))
    assert (imatrix.chunk_count, imatrix.datasets, imatrix.is_legacy) == (7, ("text.txt",), True)


def test_legacy_without_trailer_or_calls(tmp_path: Path) -> None:
    values = np.array([3.0, 6.0], np.float32)
    path = tmp_path / "imatrix.dat"
    path.write_bytes(legacy_bytes({"x": (0, values)}, trailer=None))
    imatrix = apex.load_imatrix(path)
    np.testing.assert_array_equal(imatrix.entries["x"].values, values.reshape(1, -1))
    assert imatrix.chunk_count == 0


def test_both_formats_give_the_same_file(tmp_path: Path) -> None:
    """Power-of-two counts, so that dividing twice rounds no differently from dividing once."""
    model = write_model(tmp_path / "model.gguf")
    entries = {}
    writer = GGUFWriter(tmp_path / "new.gguf", "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["t"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in imatrix_arrays().items():
        full = np.full_like(counts, 1024)
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", full)
        entries[name] = (4, (sums / full * np.float32(4)).ravel())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "old.dat").write_bytes(legacy_bytes(entries))
    outputs = []
    for file in ("new.gguf", "old.dat"):
        imatrix = apex.load_imatrix(tmp_path / file)
        with apex.open_gguf(model) as source:
            plan = apex.make_plan(source, ftype="Q4_K_S", imatrix=imatrix, prior="none")
            output = tmp_path / f"{file}.out.gguf"
            apex.quantize(source, plan, output, imatrix=imatrix)
        with apex.open_gguf(output) as written:
            outputs.append(
                {t.name: written.tensor_bytes(t.name).tobytes() for t in written.tensors}
            )
    assert outputs[0] == outputs[1]


def test_the_matrix_changes_the_bytes(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf")
    imatrix = apex.load_imatrix(write_imatrix(tmp_path / "imatrix.gguf"))
    name = "blk.0.ffn_up_exps.weight"
    found = []
    for matrix in (None, imatrix):
        with apex.open_gguf(model) as source:
            plan = apex.make_plan(source, ftype="Q4_K_S", imatrix=matrix)
            apex.quantize(source, plan, tmp_path / "o.gguf", imatrix=matrix, force=True)
        with apex.open_gguf(tmp_path / "o.gguf") as written:
            found.append(written.tensor_bytes(name).tobytes())
            hash_written = written.metadata.get("apex.imatrix_sha256")
            assert hash_written == (matrix.sha256 if matrix else None)
    assert found[0] != found[1]


def test_another_matrix_than_the_plans_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf")
    imatrix = apex.load_imatrix(write_imatrix(tmp_path / "imatrix.gguf"))
    with apex.open_gguf(model) as source:
        plan = apex.make_plan(source, ftype="Q4_K_S", imatrix=imatrix)
        with pytest.raises(apex.ImatrixError, match="another importance matrix"):
            apex.quantize(source, plan, tmp_path / "o.gguf")


def _with_value(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        values = np.array([1.0, value, 1.0], np.float32)
        path.write_bytes(legacy_bytes({"blk.0.attn_q.weight": (1, values)}))

    return write


def _gguf(**changes: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        writer = GGUFWriter(path, "imatrix")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", ["t"])
        if changes.get("chunk_count") != "missing":
            count = changes.get("chunk_count", 1)
            add = writer.add_string if isinstance(count, str) else writer.add_uint32
            add("imatrix.chunk_count", count)  # type: ignore[operator]
        writer.add_uint32("imatrix.chunk_size", 512)
        sums = np.ones((2, 4), np.float32)
        writer.add_tensor("a.weight.in_sum2", sums)
        counts = changes.get("counts", np.ones((2, 1), np.float32))
        if isinstance(counts, np.ndarray):
            writer.add_tensor("a.weight.counts", counts)
        if changes.get("stranger"):
            writer.add_tensor("b.weight", sums)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "negative": (_with_value(-1.0), "'blk.0.attn_q.weight', expert 0, column 1 holds -1"),
    "nan": (_with_value(float("nan")), "column 1 holds nan"),
    "infinite": (_with_value(float("inf")), "column 1 holds inf"),
    "empty": (lambda p: p.write_bytes(b""), "neither a GGUF nor a whole legacy"),
    "text": (lambda p: p.write_bytes(b"hello, this is no matrix"), "neither a GGUF nor a legacy"),
    "no entries": (lambda p: p.write_bytes(struct.pack("<i", 0)), "it would hold 0 entries"),
    "cut name": (lambda p: p.write_bytes(struct.pack("<ii", 1, 500) + b"abc"), "a tensor name"),
    "negative length": (lambda p: p.write_bytes(struct.pack("<ii", 1, -5)), "a tensor name"),
    "no values": (
        lambda p: p.write_bytes(struct.pack("<ii", 1, 1) + b"x" + struct.pack("<ii", 1, 0)),
        "announces 0 values",
    ),
    "cut values": (
        lambda p: p.write_bytes(struct.pack("<ii", 1, 1) + b"x" + struct.pack("<ii", 1, 9)),
        "the values of 'x'",
    ),
    "missing key": (_gguf(chunk_count="missing"), "expected the key imatrix.chunk_count"),
    "wrong key type": (_gguf(chunk_count="many"), "imatrix.chunk_count must be an integer"),
    "no counts": (_gguf(counts=None), "has sums but no counts"),
    "odd counts": (_gguf(counts=np.ones((3, 1), np.float32)), "8 sums for 3 counts"),
    "counts in F16": (_gguf(counts=np.ones((2, 1), np.float16)), "must be F32"),
    "nan counts": (_gguf(counts=np.full((2, 1), np.nan, np.float32)), "counts that are not finite"),
    "stranger": (_gguf(stranger=True), "unexpected tensor 'b.weight'"),
    "model": (lambda p: write_model(p), "not an importance matrix"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_with_the_place(tmp_path: Path, case: str) -> None:
    write, expected = BAD_FILES[case]
    path = tmp_path / "imatrix.bad"
    write(path)
    with pytest.raises(apex.ImatrixError) as caught:
        apex.load_imatrix(path)
    assert expected in str(caught.value)
    assert path.name in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(apex.ImatrixError, match="cannot read importance matrix"):
        apex.load_imatrix(tmp_path / "nowhere.gguf")
