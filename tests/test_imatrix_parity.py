"""Against upstream's own programs, built from the pinned source: llama-imatrix, llama-quantize."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import apex_native as apex
from apex_native.demo_text import demo_text
from apex_native.gguf import open_gguf
from apex_native.imatrix import Imatrix, read_text, tensor_statistics
from apex_native.imatrix.statistics import layer_statistics
from calibration_models import write_expert_model, write_recurrent_model
from file_compare import differing_tensors
from tolerances import UPSTREAM_STATISTICS_RTOL, UPSTREAM_SUMS_RTOL
from upstream_programs import run_upstream

CTX, CHUNKS = 64, 6
"""Small chunks; upstream's batch of 2048 tokens then holds all of them."""


LINGER = """
#include <unistd.h>
__attribute__((destructor)) static void linger(void) { sleep(1); }
"""
"""Loaded into llama-imatrix --show-statistics, whose log thread would die with the process before
it has written a line."""


@pytest.fixture(scope="module")
def linger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linger")
    (folder / "linger.c").write_text(LINGER)
    command = ["cc", "-shared", "-fPIC", "-o", "linger.so", "linger.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "linger.so"


def run(tool: Path, *args: str | Path, **env: str) -> str:
    done = run_upstream(tool, *args, check=False, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(demo_text(CTX * (CHUNKS + 2) * 5, seed=21) + "\n")
    return path


@pytest.fixture(scope="module", params=["demo", "experts", "recurrent"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "demo":
        return apex.demo_model()
    if request.param == "experts":
        return write_expert_model(folder / "experts.gguf")
    return write_recurrent_model(folder / "recurrent.gguf")


@pytest.fixture(scope="module")
def theirs(
    reference_tools: Path, model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("theirs") / "theirs.gguf"
    run(reference_tools / "llama-imatrix", "-m", model, "-f", text, "-o", output, "-c", CTX,
        "--chunks", CHUNKS, "-t", 2, "--output-format", "gguf", "--no-ppl")  # fmt: skip
    return output


@pytest.fixture(scope="module")
def ours(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imatrix]:
    output = tmp_path_factory.mktemp("ours") / "ours.gguf"
    with apex.load_model(model, n_threads=2) as loaded:
        yield apex.collect_imatrix(
            loaded,
            read_text([text]),
            ctx=CTX,
            batch=2048,
            max_chunks=CHUNKS,
            scope="upstream",
            dataset=str(text),
            output=output,
        )


def test_same_entries_counts_and_sums(theirs: Path, ours: Imatrix) -> None:
    expected = apex.load_imatrix(theirs)
    assert ours.entries.keys() == expected.entries.keys()
    assert (ours.chunk_count, ours.chunk_size) == (expected.chunk_count, expected.chunk_size)
    assert ours.datasets == expected.datasets
    for name, entry in ours.entries.items():
        np.testing.assert_array_equal(entry.counts, expected.entries[name].counts, err_msg=name)
        np.testing.assert_allclose(
            entry.sums, expected.entries[name].sums, rtol=UPSTREAM_SUMS_RTOL, err_msg=name
        )


def test_the_files_have_the_same_table(theirs: Path, ours: Imatrix) -> None:
    """Names, order, shapes and types; the keys too, but for our own."""
    with open_gguf(theirs) as expected, open_gguf(ours.path) as written:
        rows = [[(t.name, t.shape, t.type) for t in f.tensors] for f in (expected, written)]
        assert rows[0] == rows[1]
        keys = [k for k in written.facts.kv_sizes if not k.startswith("apex.")]
        assert keys == list(expected.facts.kv_sizes)
        for key in keys:
            assert written.encoded_pair(key) == expected.encoded_pair(key)


def test_statistics_are_upstreams(
    reference_tools: Path, linger: Path, model: Path, ours: Imatrix
) -> None:
    output = run(reference_tools / "llama-imatrix", "-m", model, "--show-statistics",
                 "--in-file", ours.path, LD_PRELOAD=str(linger))  # fmt: skip
    number = r"\s+(-?[\d.]+)%?"
    row = re.compile(r"^\S*\s*\S*\s*(\d+|-)\t(\S+)\s" + number * 11 + r"\s*$", re.MULTILINE)
    printed = [(m[1], m[2], [float(x) for x in m.groups()[2:]]) for m in row.finditer(output)]
    rows = tensor_statistics(ours)
    assert len(printed) == len(rows)
    expected = {(layer, tensor): values for layer, tensor, values in printed}
    for found in rows:
        values = expected[str(found.layer) if found.layer >= 0 else "-", found.tensor]
        own = [
            found.total, found.min, found.max, found.mean, found.std, found.active * 100, found.n,
            found.entropy, found.entropy_norm * 100, found.zd * 100, found.cos_sim,
        ]  # fmt: skip
        # Half of the last digit printed, and upstream's sums in float.
        digits = [2, 4, 4, 2, 2, 2, 0, 4, 2, 2, 4]
        for one, other, places in zip(own, values, digits, strict=True):
            limit = 0.51 * 10**-places + UPSTREAM_STATISTICS_RTOL * abs(one)
            assert abs(one - other) <= limit, (found, values)
    layer_row = re.compile(r"\s(\d+)\t" + number * 3 + r"\s*$", re.MULTILINE)
    tail = output[output.index("weighted average") :]
    layers = {int(m[1]): [float(x) for x in m.groups()[1:]] for m in layer_row.finditer(tail)}
    assert sorted(layers) == [row.layer for row in layer_statistics(rows)]
    for layer in layer_statistics(rows):
        total, zd, cos_sim = layers[layer.layer]
        assert layer.total == pytest.approx(total, rel=UPSTREAM_STATISTICS_RTOL, abs=0.006)
        assert layer.zd * 100 == pytest.approx(zd, rel=UPSTREAM_STATISTICS_RTOL, abs=1e-4)
        assert layer.cos_sim == pytest.approx(cos_sim, rel=UPSTREAM_STATISTICS_RTOL, abs=1e-4)


def test_merging_is_upstreams(
    reference_tools: Path, model: Path, theirs: Path, ours: Imatrix, tmp_path: Path
) -> None:
    run(reference_tools / "llama-imatrix", "-m", model, "--in-file", theirs, "--in-file",
        ours.path, "-c", CTX, "-o", tmp_path / "merged.gguf",
        "--output-format", "gguf")  # fmt: skip
    expected = apex.load_imatrix(tmp_path / "merged.gguf")
    merged = apex.merge_imatrices([apex.load_imatrix(theirs), ours])
    assert merged.chunk_count == 2 * CHUNKS
    assert merged.entries.keys() == expected.entries.keys()
    for name, entry in merged.entries.items():
        np.testing.assert_array_equal(entry.counts, expected.entries[name].counts)
        np.testing.assert_allclose(entry.sums, expected.entries[name].sums, rtol=2**-22)


def test_the_legacy_format_is_upstreams(
    reference_tools: Path, model: Path, ours: Imatrix, tmp_path: Path
) -> None:
    run(reference_tools / "llama-imatrix", "-m", model, "--in-file", ours.path, "-c", CTX,
        "-o", tmp_path / "theirs.dat", "--output-format", "dat")  # fmt: skip
    apex.save_imatrix(ours, tmp_path / "ours.dat", format="dat")
    written, expected = (apex.load_imatrix(tmp_path / f"{n}.dat") for n in ("ours", "theirs"))
    assert written.entries.keys() == expected.entries.keys()
    assert written.datasets == expected.datasets
    for name, entry in written.entries.items():
        np.testing.assert_array_equal(entry.counts, expected.entries[name].counts)
        np.testing.assert_array_equal(entry.values, expected.entries[name].values, err_msg=name)


@pytest.mark.parametrize("format", ["gguf", "dat"])
def test_llama_quantize_takes_everything(
    reference_tools: Path, text: Path, tmp_path: Path, format: str
) -> None:
    """Entries upstream never makes included; its bytes are ours without a prior."""
    with apex.load_model(apex.demo_model(), n_threads=2) as loaded:
        collected = apex.collect_imatrix(loaded, read_text([text]), ctx=CTX, max_chunks=CHUNKS)
    assert "output.weight" in collected.entries
    matrix = apex.save_imatrix(collected, tmp_path / f"imatrix.{format}", format=format)
    output = run(reference_tools / "llama-quantize", "--imatrix", matrix.path, apex.demo_model(),
                 tmp_path / "theirs.gguf", "IQ3_S", 2)  # fmt: skip
    assert f"have {len(matrix.entries)} importance matrix entries" in output
    read = apex.load_imatrix(matrix.path)
    with apex.open_gguf(apex.demo_model()) as source:
        plan = apex.make_plan(source, ftype="IQ3_S", imatrix=read, prior="none")
        apex.quantize(source, plan, tmp_path / "ours.gguf", imatrix=read)
    assert differing_tensors(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []
