"""Types of the KV cache: turbo2, turbo3 and turbo4 against arithmetic in double, attention over
them, who cannot have them, and that no file ever holds them.

Where there is a GPU and the build can use it, its rows and its attention too
(bench/kv_cache_gpu.sh).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
import cache_oracle as oracle
import tolerances
from apex_native._native import core
from apex_native.cli.cache_option import warn_of_slow_caches
from apex_native.cli.output import Output
from apex_native.demo_text import demo_text
from apex_native.memory import ContextSettings, context_memory
from apex_native.types import CACHE_TYPES, GgmlType
from cli_tools import invoke
from cpp_programs import build_program
from gguf_builder import quantized_tensor
from gguf_builder import write_gguf as write_model
from memory_models import MODELS
from plan_tables import write_gguf
from test_cuda import gpu_problem, llama_cpp_source
from tiny_models import write_tiny_model

ROOT = Path(__file__).parents[1]
TURBO = [GgmlType.TURBO2, GgmlType.TURBO3, GgmlType.TURBO4]
STOCK = [type for type in CACHE_TYPES if type not in TURBO]
Q8_0, F16, TURBO3, TURBO4 = GgmlType.Q8_0, GgmlType.F16, GgmlType.TURBO3, GgmlType.TURBO4

pytestmark = pytest.mark.skipif(
    not set(TURBO) <= {GgmlType.from_id(n) for n in core.cache_types()},
    reason="this build is without the turbo types (-DAPEX_TURBO=OFF)",
)
on_gpu = pytest.mark.skipif(
    not core.build_info()["cuda"] or gpu_problem() is not None,
    reason="needs a GPU and a build for it",
)
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


def gaussian(*shape: int, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def rotated_rows() -> npt.NDArray[np.float32]:
    """Blocks as a cache sees them: rotated channels of very different sizes, many scales."""
    rng = np.random.default_rng(3)
    channels = np.exp(rng.normal(0, 1, 256))
    scales = 10 ** rng.uniform(-3, 3, (512, 1))
    return oracle.rotate(rng.standard_normal((512, 256)) * channels * scales).astype(np.float32)


def stored_values(rows: npt.NDArray[np.float32], type: GgmlType) -> npt.NDArray[np.float32]:
    stored = core.write_cache_rows(rows, type.id)
    return core.read_cache_rows(stored, type.id, rows.shape[1])


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("type", TURBO, ids=str)
def test_rows_are_what_the_format_says(type: GgmlType, device: str) -> None:
    rows = rotated_rows()
    stored = core.write_cache_rows(rows, type.id, device)
    assert stored.shape == (512, type.row_bytes(256))
    scales, levels = oracle.encode(rows, type)
    found_scales, index = oracle.unpack(stored, type)
    found_levels = oracle.CODEBOOKS[type].signed[index]
    # On a boundary, or where two steps are as good, single precision may choose otherwise.
    same = (found_levels == levels).all(1)
    assert same.mean() > tolerances.TURBO_SAME_BLOCKS
    unit = np.spacing(scales.astype(np.float16)).astype(np.float64)
    assert np.abs((found_scales - scales) / unit)[same].max() <= 0.501
    error = np.linalg.norm(oracle.decode(stored, type) - rows.reshape(-1, 64), axis=1)
    best = np.linalg.norm(scales[:, None] * levels - rows.reshape(-1, 64), axis=1)
    assert np.all(error <= best * 1.01)


@pytest.mark.parametrize("type", TURBO, ids=str)
def test_values_are_scales_times_levels(type: GgmlType) -> None:
    rng = np.random.default_rng(2)
    stored = rng.integers(0, 256, (300, type.block_bytes), np.uint8)
    stored[:, :2] = rng.standard_normal(300).astype(np.float16).view(np.uint8).reshape(300, 2)
    assert np.array_equal(core.read_cache_rows(stored, type.id, 64), oracle.decode(stored, type))


@pytest.mark.parametrize("type", TURBO, ids=str)
def test_error_on_gaussian_values(type: GgmlType) -> None:
    rows = gaussian(2000, 64)
    error = ((stored_values(rows, type) - rows) ** 2).sum() / (rows**2).sum()
    mean, spread = tolerances.TURBO_ERROR[type.name]
    assert abs(error - mean) < tolerances.RMSE_SIGMAS * spread


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("type", TURBO, ids=str)
def test_blocks_that_are_no_numbers_or_nothing(type: GgmlType, device: str) -> None:
    rows = gaussian(6, 64)
    rows[0] = 0
    rows[1] = -1
    rows[2] *= 1e-7  # its scale has few bits or none
    rows[3] *= 1e7  # and the greatest there is
    rows[4, 5] = np.nan
    rows[5, 6] = -np.inf
    stored = core.write_cache_rows(rows, type.id, device)
    values = core.read_cache_rows(stored, type.id, 64)
    assert np.all(values[0] == 0)
    assert np.allclose(values[1], -1, rtol=tolerances.FP16_ROUNDING)
    assert np.abs(values[2]).max() < 1e-5
    assert np.all(np.isfinite(values[3]))
    assert np.abs(values[3]).max() < 1e7
    assert not np.isfinite(values[4]).any()
    assert not np.isfinite(values[5]).any()
    assert np.array_equal(values[3] < 0, rows[3] < 0)


def test_rotation_is_what_the_codebook_is_for() -> None:
    """Channels of a real cache differ; unrotated the worst of them decide a block's scale."""
    rng = np.random.default_rng(5)
    channels = np.exp(rng.normal(0, 1.5, 64))
    rows = (rng.standard_normal((500, 64)) * channels).astype(np.float32)
    turned = oracle.rotate(rows).astype(np.float32)
    plain, rotated = (
        float(((stored_values(r, TURBO3) - r) ** 2).sum() / (r**2).sum()) for r in (rows, turned)
    )
    assert rotated < 0.04
    assert plain > 2 * rotated


@pytest.mark.parametrize("isa", ["avx512", "portable"])
def test_blocks_and_products_are_the_twins_bits(isa: str) -> None:
    done = subprocess.run([build_program("twin_vs_turbo")], capture_output=True, text=True,
                          check=False, env={**os.environ, "APEX_ISA": isa})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" differ 0 ") == len(TURBO)


PORTABLE = """
import sys, numpy as np
from apex_native._native import core
rows, queries = np.load(sys.argv[1]), np.load(sys.argv[2])
for type in map(int, sys.argv[4:]):
    stored = core.write_cache_rows(rows, type)
    values = core.read_cache_rows(stored, type, 256)
    keys = np.ascontiguousarray(rows[None, :, None, :])
    attended = core.cache_attention(queries, keys, keys, type, type)
    np.savez(f"{sys.argv[3]}/{type}.npz", stored=stored, values=values, attended=attended)
"""


def test_every_instruction_set_computes_the_same(tmp_path: Path) -> None:
    rows, queries = gaussian(300, 256), gaussian(1, 2, 2, 256, seed=4)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "queries.npy", queries)
    ids = [str(type.id) for type in TURBO]
    command = [sys.executable, "-c", PORTABLE, tmp_path / "rows.npy", tmp_path / "queries.npy"]
    subprocess.run(
        [*command, tmp_path, *ids], check=True, env={**os.environ, "APEX_ISA": "portable"}
    )
    keys = np.ascontiguousarray(rows[None, :, None, :])
    for type in TURBO:
        found = np.load(tmp_path / f"{type.id}.npz")
        stored = core.write_cache_rows(rows, type.id)
        assert np.array_equal(found["stored"], stored)
        assert np.array_equal(found["values"], core.read_cache_rows(stored, type.id, 256))
        attended = core.cache_attention(queries, keys, keys, type.id, type.id)
        assert np.array_equal(found["attended"], attended)


@on_gpu
@pytest.mark.parametrize("type", TURBO, ids=str)
def test_a_gpu_writes_the_cpus_bytes(type: GgmlType) -> None:
    rows = rotated_rows()
    here, there = (core.write_cache_rows(rows, type.id, device) for device in ("cpu", "cuda"))
    assert np.array_equal(here, there)


# --- attention ------------------------------------------------------------------------------------

PAIRS = [(Q8_0, TURBO4), (Q8_0, TURBO3), (Q8_0, GgmlType.TURBO2), (F16, TURBO3), (TURBO4, TURBO4),
         (TURBO3, Q8_0), (Q8_0, GgmlType.Q4_0)]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_queries", [1, 2, 9])
@pytest.mark.parametrize("head_size", [64, 128, 192, 256])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def test_attention_is_that_over_the_decoded_values(
    pair: tuple[GgmlType, GgmlType], head_size: int, n_queries: int, device: str
) -> None:
    if device == "cuda" and head_size == 192:
        pytest.skip("ggml's GPU kernels have no heads of 192 keys and 192 values")
    n_sequences, n_cells = (2 if head_size == 64 else 1), 512
    queries = gaussian(n_sequences, n_queries, 4, head_size, seed=6)
    keys, values = (gaussian(n_sequences, n_cells, 2, head_size, seed=seed) for seed in (7, 8))
    found = core.cache_attention(queries, keys, values, pair[0].id, pair[1].id, device)
    stored = (
        stored_values(rows.reshape(-1, 2 * head_size), type).reshape(rows.shape)
        for rows, type in zip((keys, values), pair, strict=True)
    )
    expected = oracle.attention(queries, *stored)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < tolerances.CACHE_ATTENTION


def test_every_pair_of_types_computes(subtests: pytest.Subtests) -> None:
    text = demo_text(2_000, seed=1)
    with apex.load_model(apex.demo_model(), n_threads=2) as model:
        tokens = model.tokenize(text, add_special=True, parse_special=False)[:128]
        for type_k, type_v in [*((Q8_0, type) for type in CACHE_TYPES), (TURBO4, TURBO4)]:
            with subtests.test(f"{type_k}/{type_v}"):
                scorer = core.Scorer(
                    reference=model.native,
                    candidates=[
                        core.Candidate(model=model.native, type_k=type_k.id, type_v=type_v.id)
                    ],
                    tokens=np.ascontiguousarray(tokens, np.int32),
                    options=core.LaneOptions(
                        n_ctx=128, n_sequences=1, n_positions=128, n_threads=2
                    ),
                )
                scorer.run()
                kld = scorer.candidate_scores(0)["kld"]
                assert np.all(np.isfinite(kld))
                assert 0 < kld.mean() < 1


# --- who cannot have them -------------------------------------------------------------------------


def refusal(model: Path, type_k: GgmlType = Q8_0, type_v: GgmlType = TURBO3) -> str:
    with apex.open_gguf(model) as source, pytest.raises(apex.ModelError) as caught:
        context_memory(source, ContextSettings(512, type_k, type_v))
    return str(caught.value)


def test_heads_that_are_no_blocks(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny.gguf", "llama")
    text = refusal(tiny)
    assert "a cache of type turbo3 cannot be had: heads of layer 0 have" in text
    assert "expected a multiple of 64; use q8_0 or q4_0" in text
    assert "type turbo4" in refusal(tiny, TURBO4, Q8_0)


def test_compressed_values_have_no_rotation(tmp_path: Path) -> None:
    write_gguf(MODELS["deepseek2"]().table, tmp_path / "mla.gguf")
    assert "(MLA), which llama.cpp does not rotate; use q8_0" in refusal(tmp_path / "mla.gguf")


def test_without_rotation_there_is_no_turbo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")
    text = refusal(apex.demo_model())
    assert "LLAMA_ATTN_ROT_DISABLE is set; unset it, or use q8_0 or q4_0" in text
    with apex.open_gguf(apex.demo_model()) as source:
        assert context_memory(source, ContextSettings(512, Q8_0, GgmlType.Q4_0)).cache > 0


def test_bytes_of_a_turbo_cache() -> None:
    with apex.open_gguf(apex.demo_model()) as source:
        plain, turbo = (
            context_memory(source, ContextSettings(2048, *pair))
            for pair in ((F16, F16), (Q8_0, TURBO3))
        )
    # 2 layers of 2 heads of 64: (34 / 32 + 26 / 64) bytes a value instead of 2 + 2.
    assert plain.bytes_per_token == 2 * 128 * 4
    assert turbo.bytes_per_token == 2 * 128 * (34 / 32 + 26 / 64)


def test_inspect_shows_the_cache() -> None:
    asked = ("--ctx", "2048", "--type-k", "q8_0", "--type-v", "turbo3")
    found = json.loads(invoke("inspect", apex.demo_model(), *asked, "--json").stdout)["cache"]
    assert found["bytes_per_token"] == 2 * 128 * (34 / 32 + 26 / 64)
    assert found["bytes"] - found["state_bytes"] == 2048 * found["bytes_per_token"]
    assert sum(found["layers"].values()) == found["bytes"]
    text = invoke("inspect", apex.demo_model(), *asked).stdout
    assert "cache         q8_0/turbo3, 376 bytes a token" in text


def test_which_pairs_a_gpu_reads_as_they_are() -> None:
    pairs = {"direct": (Q8_0, TURBO3), "converted": (GgmlType.Q5_1, GgmlType.Q5_1),
             "host": (Q8_0, GgmlType.IQ4_NL)}  # fmt: skip
    for path, (type_k, type_v) in pairs.items():
        expected = path if core.build_info()["cuda"] else "direct"
        assert core.cuda_cache_path(type_k.id, type_v.id) == expected


def test_a_pair_that_a_gpu_converts_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {
        ("q8_0", "turbo3"): "direct",
        ("q5_1", "q5_1"): "converted",
        ("q8_0", "iq4_nl"): "host",
    }
    by_id = {tuple(GgmlType.parse(t).id for t in pair): path for pair, path in paths.items()}
    monkeypatch.setattr(core, "cuda_cache_path", lambda *ids: by_id[ids], raising=False)
    warn_of_slow_caches(Output(), [*paths, ("q5_1", GgmlType.Q5_1)], on_gpu=True)
    converted, on_host = capsys.readouterr().err.splitlines()
    assert converted.startswith("warning: cache q5_1-q5_1: this build has no kernel for one token")
    assert converted.endswith("add q5_1-q5_1 to -DGGML_CUDA_FA_QUANTS")
    assert on_host == (
        "warning: cache q8_0-iq4_nl: ggml has no GPU attention over it, so the CPU attends"
    )
    warn_of_slow_caches(Output(), paths, on_gpu=False)
    assert capsys.readouterr().err == ""


# --- nothing is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("type", TURBO, ids=str)
def test_no_model_file_holds_such_a_type(type: GgmlType, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tensor = quantized_tensor("blk.0.ffn_up.weight", type.id, (4, 64), bytes(4 * type.block_bytes))
    write_model(path, [tensor])
    with pytest.raises(apex.GgufError, match=f"has type number {type.id}"):
        apex.open_gguf(path)
    assert not type.is_target
    with apex.open_gguf(apex.demo_model()) as source, pytest.raises(ValueError, match=r"(?i)turbo"):
        apex.make_plan(source, types={"blk.0.ffn_down_exps.weight": type})
    with pytest.raises(ValueError, match=f"cannot be written as {type.name.lower()}"):
        core.quantize_rows(gaussian(1, 64), type.id, np.ones(64, np.float32))


def test_no_state_is_written_to_a_file() -> None:
    """llama.cpp's state files hold numbers of types; ours mean nothing elsewhere."""
    texts = [p.read_text() for p in (ROOT / "csrc").rglob("*") if p.suffix in {".cpp", ".h", ".cu"}]
    assert len(texts) > 100
    for function in ("llama_state_save_file", "llama_state_seq_save_file", "llama_state_load_file"):
        assert not any(function in text for text in texts)


def test_edits_that_do_not_fit_stop_the_build(tmp_path: Path) -> None:
    edits = ROOT / "third_party" / "llama.cpp" / "turbo_edits.py"
    source, copy = llama_cpp_source() / "ggml" / "src", tmp_path / "source" / "ggml" / "src"
    for file in ("ggml.c", "ggml-cpu/ggml-cpu.c", "ggml-cuda/ggml-cuda.cu", "ggml-cuda/set-rows.cu",
                 "ggml-cuda/convert.cu", "ggml-cuda/fattn.cu"):  # fmt: skip
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes((source / file).read_bytes())

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, edits, tmp_path / "source", tmp_path / "edited"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run().returncode == 0
    assert "GGML_TYPE_TURBO3" in (tmp_path / "edited" / "ggml.c").read_text()
    text = (copy / "ggml.c").read_text()
    (copy / "ggml.c").write_text(text.replace('#include "ggml-quants.h"\n', ""))
    failed = run()
    assert failed.returncode == 1
    assert "was expected once in ggml/src/ggml.c" in failed.stderr
    assert "found 0 times" in failed.stderr
    assert "-DAPEX_TURBO=OFF" in failed.stderr
