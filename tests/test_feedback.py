"""Error feedback: the cost it claims, the bytes it writes, and what it leaves to ggml."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native._native import core
from apex_native.imatrix import HessianFile, load_imatrix
from apex_native.types import GgmlType
from cli_tools import environment, invoke, n_finished, run
from cpp_programs import build_program
from gguf_builder import f32_tensor, write_gguf
from stopped_runs import TENSORS_NOTED, run_stopped
from test_cuda import needs_gpu
from tolerances import FEEDBACK_COST_RTOL

SCALAR = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q5_0", "Q8_0")
GRID = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
N = 512
N_ROWS = 21  # no multiple of any number of lanes
WEAK = core.FeedbackOptions(damping=0.01)

Floats = npt.NDArray[np.float64]


def correlated_moment(n: int = N, seed: int = 1, n_tokens: int = 4 * N) -> Floats:
    """X^T X / tokens of inputs that a few directions dominate, as activations are."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n // 8, n)) * np.exp(rng.standard_normal((n // 8, 1)))
    inputs = rng.standard_normal((n_tokens, n // 8)) @ mixing + rng.standard_normal((n_tokens, n))
    return inputs.T @ inputs / n_tokens


def some_weights(n_rows: int = N_ROWS, n: int = N) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((n_rows, n)) * 0.05 * np.exp(rng.standard_normal((n_rows, 1)))
    weights[3] = 0
    weights[-1, ::7] *= 20
    return weights.astype(np.float32)


def errors(weights: Any, stored: Any, type: GgmlType, moment: Any) -> Floats:
    """Output errors of rows, worked out slowly from what ggml reads in the bytes."""
    restored = core.dequantize_rows(stored, type.id, weights.shape[1])
    difference = weights.astype(np.float64) - restored
    return np.einsum("ri,ij,rj->r", difference, np.asarray(moment, np.float64), difference)


@pytest.mark.parametrize("name", SCALAR + GRID)
def test_the_cost_is_that_of_the_bytes(name: str) -> None:
    type, weights = GgmlType.parse(name), some_weights()
    stored, costs, damped = core.feedback_rows(weights, type.id, correlated_moment(), options=WEAK)
    expected = errors(weights, stored, type, damped)
    scale = np.einsum("ri,ij,rj->r", weights, damped.astype(np.float64), weights)
    assert (np.abs(costs - expected) <= FEEDBACK_COST_RTOL * scale + 1e-12).all()
    np.testing.assert_allclose(
        damped, correlated_moment() + 0.01 * np.trace(correlated_moment()) / N * np.eye(N),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("name", SCALAR + GRID)
def test_outputs_err_less_than_with_ggmls_bytes(name: str) -> None:
    type, weights, moment = GgmlType.parse(name), some_weights(), correlated_moment()
    importance = np.ascontiguousarray(np.diag(moment), np.float32)
    plain = core.quantize_rows(weights, type.id, importance)
    stored, _, _ = core.feedback_rows(weights, type.id, moment, options=WEAK)
    ours = errors(weights, stored, type, moment)
    ggmls = errors(weights, plain, type, moment)
    assert ours.sum() < 0.8 * ggmls.sum()


@pytest.mark.parametrize("name", ["Q4_K", "Q3_K", "IQ4_XS", "Q8_0", "IQ1_S", "IQ2_S", "IQ3_XXS"])
def test_more_rounds_end_lower(name: str) -> None:
    type, weights, moment = GgmlType.parse(name), some_weights(), correlated_moment()
    which = "max_grid_rounds" if name in GRID else "max_rounds"

    def after(rounds: int, columns: int = N) -> Floats:
        options = core.FeedbackOptions(damping=0.01, max_round_columns=columns, **{which: rounds})
        stored, _, damped = core.feedback_rows(weights, type.id, moment, options=options)
        return errors(weights, stored, type, damped)

    once, thrice = after(1), after(3)
    assert (after(3, N - 1) == once).all()
    assert (thrice <= once * (1 + 1e-9)).all()
    assert thrice.sum() < 0.995 * once.sum()


@pytest.mark.parametrize("name", ["Q3_K", "IQ4_XS", "IQ2_S"])
def test_without_correlations_little_is_left_to_gain(name: str) -> None:
    # What is found beyond ggml's scales is a search's, not an input's.
    type, weights = GgmlType.parse(name), some_weights()
    plain = core.quantize_rows(weights, type.id, np.ones(N, np.float32))
    stored, _, _ = core.feedback_rows(weights, type.id, np.eye(N), options=WEAK)
    ratio = errors(weights, stored, type, np.eye(N)).sum()
    ratio /= errors(weights, plain, type, np.eye(N)).sum()
    assert 0.75 < ratio < 1.05


DIGESTS = """
import hashlib, json, sys
import test_feedback as t
from apex_native._native import core
from apex_native.types import GgmlType
digests = {}
for name in t.SCALAR + t.GRID:
    stored, costs, _ = core.feedback_rows(
        t.some_weights(11, 256), GgmlType.parse(name).id, t.correlated_moment(256), options=t.WEAK)
    digests[name] = hashlib.sha256(stored.tobytes() + costs.tobytes()).hexdigest()
print(json.dumps(digests))
"""


def digests(isa: str) -> dict[str, str]:
    run = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env=environment(APEX_ISA=isa, PYTHONPATH=str(Path(__file__).parent)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(run.stdout)
    return found


def test_every_instruction_set_writes_the_same_bytes() -> None:
    assert digests("portable") == digests("avx2") == digests("avx512")


# --- a tensor -----------------------------------------------------------------------------------


def packed(moment: Floats) -> Floats:
    return moment[np.tril_indices(len(moment))]


def quantize_tensor(
    tmp_path: Path,
    output: int,
    weights: npt.NDArray[np.float32],
    halves: tuple[list[Floats], list[Floats]],
    counts: list[int],
    *,
    name: str = "Q4_K",
    n_threads: int = 2,
    on_gpu: bool = False,
) -> tuple[bytes, dict[str, Any]]:
    """Bytes and errors of experts whose halves of the calibration had these mean moments."""
    width = weights.shape[-1]
    devices = core.FeedbackDevices([0], n_places=n_threads, n_per_row=width) if on_gpu else None
    type = GgmlType.parse(name)
    source = apex.GgufFile(
        write_gguf(tmp_path / "model.gguf", [f32_tensor("blk.0.ffn_up_exps.weight", weights)])
    )
    part = np.array([packed(m) * n for m, n in zip(halves[1], counts, strict=True)], np.float32)
    rest = np.array([packed(m) * n for m, n in zip(halves[0], counts, strict=True)], np.float32)
    both = np.array(counts, np.int64)
    feedback = core.feedback(
        source.native.stored_tensor(0), type.id, total=np.ascontiguousarray(part + rest),
        part=part, counts=2 * both, part_counts=both, devices=devices, n_threads=n_threads,
    )  # fmt: skip
    task = core.QuantizeTask(
        source.native.stored_tensor(0), type.id, output_fd=output, output_offset=0,
        converter=feedback,
    )  # fmt: skip
    job = core.QuantizeJob([task], n_threads=n_threads, max_memory=1 << 30)
    try:
        while not job.finished:
            job.wait(1000)
        found: dict[str, Any] = job.output_errors(0)
    finally:
        job.close()
        source.close()
    size = weights.size // type.block_size * type.block_bytes
    return Path(f"/proc/self/fd/{output}").read_bytes()[:size], found


def experts(n_experts: int = 3, n_rows: int = 40) -> npt.NDArray[np.float32]:
    return np.stack([some_weights(n_rows, 256) for _ in range(n_experts)])


def test_halves_that_agree_use_feedback(tmp_path: Path, output: int) -> None:
    moments = [correlated_moment(256, seed) for seed in (1, 2, 3)]
    _, found = quantize_tensor(tmp_path, output, experts(), (moments, moments), [500] * 3)
    assert found["n_slices"] == 3
    assert found["n_kept"] == 0
    assert found["error"] < 0.8 * found["ggml_error"]
    assert found["held_out_error"] < found["held_out_ggml_error"]


@pytest.mark.parametrize("name", ["Q4_K", "IQ1_M"])
def test_contradicting_halves_keep_ggmls_bytes(tmp_path: Path, output: int, name: str) -> None:
    # Each half is a few directions that the other never sees: nothing it teaches carries over.
    def few(seed: int) -> Floats:
        inputs = np.random.default_rng(seed).standard_normal((12, 256))
        return np.asarray(inputs.T @ inputs / 12)

    weights = experts()
    halves = ([few(seed) for seed in (1, 2, 3)], [few(seed) for seed in (11, 12, 13)])
    stored, found = quantize_tensor(tmp_path, output, weights, halves, [100] * 3, name=name)
    plain = core.quantize_rows(weights.reshape(-1, 256), GgmlType.parse(name).id)
    assert stored == plain.tobytes() or found["n_kept"] < 3
    assert found["held_out_error"] <= found["held_out_ggml_error"]


def test_an_expert_without_tokens_keeps_ggmls_bytes(tmp_path: Path, output: int) -> None:
    weights = experts()
    moments = [correlated_moment(256, seed) for seed in (1, 2, 3)]
    stored, found = quantize_tensor(tmp_path, output, weights, (moments, moments), [500, 0, 500])
    assert found["n_kept"] == 1
    plain = core.quantize_rows(weights[1], GgmlType.Q4_K.id).tobytes()
    assert stored[len(plain) : 2 * len(plain)] == plain


@pytest.mark.parametrize("name", ["Q3_K", "IQ3_XXS", "IQ1_M"])
def test_threads_change_no_byte(tmp_path: Path, output: int, name: str) -> None:
    weights = experts(2, 1100)[:, :, :256]
    moments = [correlated_moment(256, seed) for seed in (1, 2)]
    found = []
    for n_threads in (1, 3):
        stored, sums = quantize_tensor(
            tmp_path, output, weights[:, :60] if name in GRID else weights,
            (moments, moments), [500, 300], name=name, n_threads=n_threads,
        )  # fmt: skip
        found.append((hashlib.sha256(stored).hexdigest(), sums))
    assert found[0] == found[1]


# --- on a GPU -----------------------------------------------------------------------------------

ON_GPU = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS", "IQ4_NL"]


def run_twin(name: str, *arguments: str) -> list[str]:
    run = subprocess.run([build_program(name), *arguments], capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize(
    ("columns", "rows", "n_types"),
    [(256, 70, 10), (288, 5, 4), (768, 17, 10)],
    ids=["two tiles of rows", "a short panel", "three panels"],
)
def test_the_gpus_search_writes_the_cpus_bytes(columns: int, rows: int, n_types: int) -> None:
    """Q4_0 and Q5_0 too: they have the search, but no GPU quantizer."""
    lines = run_twin("twin_vs_feedback", "--columns", str(columns), "--rows", str(rows))
    assert len(lines) == n_types
    for line in lines:
        assert line.endswith(" differ 0"), line
        changed = int(line.split("changed ")[1].split()[0])
        assert changed > rows, line


def test_the_gpus_bases_have_the_cpus_bits() -> None:
    lines = run_twin("twin_vs_basis")
    assert len(lines) == 4
    assert all(line.endswith(" differ 0") for line in lines)


def test_which_rows_are_a_gpus() -> None:
    has_cuda = bool(core.build_info()["cuda"])
    assert core.device_has_feedback(GgmlType.Q4_K.id, 2048) == has_cuda
    assert not core.device_has_feedback(GgmlType.IQ3_S.id, 2048)
    assert not core.device_has_feedback(GgmlType.Q4_K.id, 1 << 15)


@needs_gpu
@pytest.mark.parametrize(
    ("name", "columns", "counts"),
    [(name, 256, [500, 0, 40]) for name in ON_GPU]
    + [("Q3_K", 512, [500, 0, 40]), ("Q4_K", 1280, [500, 0, 40]), ("IQ4_XS", 2304, [40, 0, 30])],
)
def test_a_gpu_fits_the_cpus_bytes(
    tmp_path: Path, output: int, name: str, columns: int, counts: list[int]
) -> None:
    """Experts of which one has no tokens and one too few to judge by."""
    weights = np.stack([some_weights(37, columns) for _ in range(3)])
    weights[0, 3] = 0
    halves = [[correlated_moment(columns, seed, 300) for seed in seeds]
              for seeds in ((1, 2, 3), (4, 5, 6))]  # fmt: skip
    cpu, gpu = (
        quantize_tensor(
            tmp_path, output, weights, (halves[0], halves[1]), counts, name=name, on_gpu=on_gpu
        )
        for on_gpu in (False, True)
    )
    assert cpu[0] == gpu[0]
    assert cpu[1] == gpu[1]


def test_moments_of_another_model_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", [f32_tensor("a.weight", some_weights(4, 256))])
    with apex.open_gguf(path) as source:
        tensor, counts = source.native.stored_tensor(0), np.array([4], np.int64)

        def feedback(name: str, moment: npt.NDArray[np.float32]) -> None:
            core.feedback(
                tensor, GgmlType.parse(name).id, total=moment, part=moment, counts=counts,
                part_counts=counts,
            )  # fmt: skip

        with pytest.raises(ValueError, match="expected 32896 elements, found 10"):
            feedback("Q4_K", np.ones((1, 10), np.float32))
        with pytest.raises(ValueError, match="no error feedback into f16"):
            feedback("F16", np.ones((1, 32896), np.float32))


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hessian")
    result = invoke(
        "imatrix", apex.demo_model(), "-f", write_text(folder), "--chunks", "8",
        "-o", folder / "imatrix.gguf", "--hessian", folder / "hessian.gguf",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def write_text(folder: Path) -> Path:
    from apex_native.demo_text import demo_text

    path = folder / "text.txt"
    path.write_text(demo_text(24000, seed=3))
    return path


def killed_then_resumed(output: Path, *job: str | Path) -> None:
    """Kill -9 at a border of layers, go on from there."""
    killed = run_stopped(
        TENSORS_NOTED, "quantize", *job, "-o", output, how=signal.SIGKILL, sync_every_s=0.0
    )
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    done = n_finished(output)
    resumed = run("quantize", *job, "-o", output, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["resumed_tensors"] == done > 0


@pytest.mark.slow
def test_a_file_and_layer_by_layer_write_the_same_model(calibrated: Path) -> None:
    first = invoke(
        "quantize", apex.demo_model(), "--type", "Q3_K_S", "--imatrix",
        calibrated / "imatrix.gguf", "--hessian", calibrated / "hessian.gguf",
        "-o", calibrated / "file.gguf",
    )  # fmt: skip
    assert first.exit_code == 0, first.output
    assert "of ggml's" in first.output
    killed_then_resumed(
        calibrated / "layers.gguf", apex.demo_model(), "--type", "Q3_K_S", "--calibration",
        calibrated / "text.txt", "--calibration-chunks", "8", "--max-memory", "40M", "--hessian",
    )  # fmt: skip
    one, other = (apex.open_gguf(calibrated / name) for name in ("file.gguf", "layers.gguf"))
    with one, other:
        assert one.metadata["apex.hessian"] == "error-feedback-6"
        assert one.metadata["apex.hessian.tokens"] == 8 * 512
        with HessianFile(calibrated / "hessian.gguf") as file:
            assert one.metadata["apex.hessian.digest"] == file.hessian.digest
        for tensor in one.tensors:
            assert (one.tensor_bytes(tensor.name) == other.tensor_bytes(tensor.name)).all()
    manifest = json.loads((calibrated / "file.gguf.manifest.json").read_text())
    roles = {row["role"]: row for row in manifest["hessian"]["roles"]}
    assert all(row["ratio_to_ggml"] <= 1.0 for row in roles.values())
    assert roles["routed_down"]["ratio_to_ggml"] < 0.9 if "routed_down" in roles else roles


def test_hessian_needs_a_text_or_a_file(tmp_path: Path) -> None:
    result = invoke("quantize", apex.demo_model(), "--tier", "mini", "--hessian")
    assert result.exit_code == 2
    assert "add --calibration" in result.output
    result = invoke(
        "quantize", apex.demo_model(), "--tier", "mini", "--hessian", tmp_path / "none.gguf",
        "-o", tmp_path / "out.gguf",
    )  # fmt: skip
    assert result.exit_code != 0
    assert "cannot read second moments" in result.output


def test_an_importance_matrix_is_no_hessian(tmp_path: Path, calibrated: Path) -> None:
    result = invoke(
        "quantize", apex.demo_model(), "--tier", "mini", "--imatrix", calibrated / "imatrix.gguf",
        "--hessian", calibrated / "imatrix.gguf", "-o", tmp_path / "out.gguf",
    )  # fmt: skip
    assert result.exit_code != 0
    assert "not a file of second moments" in result.output
    assert load_imatrix(calibrated / "imatrix.gguf").chunk_count == 8
