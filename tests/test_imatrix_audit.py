"""What is said of an importance matrix where the work is done: plan, run, manifest, exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

import apex_native as apex
from apex_native.imatrix import Imatrix, ImatrixEntry, Importance, save_imatrix
from apex_native.plan import FindingKind, Severity
from apex_native.types import GgmlType, GgufFacts, TensorInfo
from cli_tools import invoke, write_experts, write_imatrix

N_LAYERS = 2
UP = "blk.0.ffn_up_exps.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_experts(tmp_path / "model.gguf", n_layers=N_LAYERS, rows=2)


@pytest.fixture
def matrix(tmp_path: Path) -> Imatrix:
    return apex.load_imatrix(write_imatrix(tmp_path / "m.gguf", n_layers=N_LAYERS))


def changed(matrix: Imatrix, path: Path, entries: Mapping[str, ImatrixEntry]) -> Path:
    """The matrix with these entries instead of its own, as a file."""
    other = replace(matrix, entries=MappingProxyType(dict(entries)))
    return save_imatrix(other, path).path


def quantized(model: Path, imatrix: Path, output: Path, type: str = "Q4_K"):
    return invoke("quantize", model, "--type", type, "--imatrix", imatrix, "-o", output,
                  "--json")  # fmt: skip


def kinds(document: str) -> set[str]:
    return {finding["kind"] for finding in json.loads(document)["findings"]}


# --- names ----------------------------------------------------------------------------------------


def test_a_matrix_of_another_model_is_an_error(model: Path, matrix: Imatrix, tmp_path: Path):
    foreign = {f"other.{name}": entry for name, entry in matrix.entries.items()}
    done = quantized(model, changed(matrix, tmp_path / "f.gguf", foreign), tmp_path / "o.gguf")
    assert done.exit_code == 1
    assert "6 entries and none is of a tensor of this model" in done.stderr
    assert not (tmp_path / "o.gguf").exists()


def test_the_share_that_a_matrix_serves_is_said(model: Path, matrix: Imatrix, tmp_path: Path):
    part = {name: entry for name, entry in matrix.entries.items() if "_up_" not in name}
    done = quantized(model, changed(matrix, tmp_path / "p.gguf", part), tmp_path / "o.gguf")
    assert done.exit_code == 0
    assert "warning: the importance matrix serves 4 of the 6 tensors" in done.stderr
    assert "(66.7% of their weights), not blk.0.ffn_up_exps.weight" in done.stderr
    assert FindingKind.IMATRIX_PARTIAL in kinds(done.stdout)
    saved = (tmp_path / "o.gguf.manifest.json").read_text()
    assert FindingKind.IMATRIX_PARTIAL in kinds(saved)


def test_a_rule_that_matches_nothing_is_a_warning_of_the_run_and_in_the_manifest(
    model: Path, tmp_path: Path
):
    done = invoke("quantize", model, "--type", "Q4_K", "--tensor-type", "nowhere=q8_0",
                  "-o", tmp_path / "o.gguf")  # fmt: skip
    assert done.exit_code == 0
    assert "warning: rule nowhere=q8_0 matches no tensor" in done.stderr
    found = json.loads((tmp_path / "o.gguf.manifest.json").read_text())["findings"]
    rule = next(finding for finding in found if finding["kind"] == "rule-without-effect")
    assert rule["severity"] == "warning"
    strict = invoke("quantize", model, "--type", "Q4_K", "--tensor-type", "nowhere=q8_0",
                    "-o", tmp_path / "p.gguf", "--strict")  # fmt: skip
    assert strict.exit_code == 1
    assert "rule-without-effect: rule nowhere=q8_0 matches no tensor" in strict.stderr


def test_a_saved_plan_can_be_strict(model: Path, tmp_path: Path):
    plan = tmp_path / "plan.json"
    invoke("plan", model, "--type", "Q4_K", "--tensor-type", "nowhere=q8_0", "-o", plan)
    done = invoke("quantize", model, "--plan", plan, "-o", tmp_path / "o.gguf", "--strict")
    assert done.exit_code == 1
    assert "matches no tensor" in done.stderr


def facts(**shapes: tuple[int, ...]) -> GgufFacts:
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    tensors = tuple(
        TensorInfo(name, shape, GgmlType.BF16, 2 * int(np.prod(shape)), 0, 0)
        for name, shape in names.items()
    )
    return GgufFacts(MappingProxyType({}), tensors, MappingProxyType({}))


def of_input(seed: int, n_experts: int = 1, n: int = 8) -> ImatrixEntry:
    sums = np.random.default_rng(seed).uniform(1, 9, (n_experts, n)).astype(np.float32)
    return ImatrixEntry.from_sums(sums, np.full(n_experts, 100.0))


def imatrix_of(entries: Mapping[str, ImatrixEntry]) -> Imatrix:
    return Imatrix(MappingProxyType(dict(entries)), Path("m.gguf"), "0" * 64, 1, (), False, 512)


GATE, FUSED = "blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_up_exps.weight"
QKV, Q, K, V = (f"blk.0.attn_{part}.weight" for part in ("qkv", "q", "k", "v"))


def test_a_fused_tensor_takes_the_entry_of_its_parts_where_they_agree():
    one = of_input(1, n_experts=4)
    importance = Importance(
        imatrix_of({UP: one, GATE: one}), facts(**{FUSED.replace(".", "__"): (4, 6, 8)}), None
    )
    np.testing.assert_array_equal(importance.values(FUSED), one.values)
    assert importance.summary().same_input == {FUSED: GATE}


def test_parts_take_the_entry_of_the_fused_tensor():
    both = of_input(1, n_experts=4)
    names = {name.replace(".", "__"): (4, 3, 8) for name in (UP, GATE)}
    importance = Importance(imatrix_of({FUSED: both}), facts(**names), None)
    for name in (UP, GATE):
        np.testing.assert_array_equal(importance.values(name), both.values)
    one = of_input(2)
    names = {name.replace(".", "__"): (3, 8) for name in (Q, K, V)}
    importance = Importance(imatrix_of({QKV: one}), facts(**names), None)
    assert set(importance.summary().same_input.values()) == {QKV}


def test_parts_that_disagree_are_not_used_and_named():
    entries = {UP: of_input(1, n_experts=4), GATE: of_input(2, n_experts=4)}
    shapes = {FUSED.replace(".", "__"): (4, 6, 8)}
    summary = Importance(imatrix_of(entries), facts(**shapes), None).summary()
    assert summary.same_input == {}
    assert summary.unusable == {FUSED: (GATE, UP)}


def test_kv_b_says_nothing_of_k_b_and_v_b():
    names = [f"blk.0.attn_{part}.weight" for part in ("k_b", "v_b", "kv_b")]
    shapes = {name.replace(".", "__"): (2, 3, 8) for name in names[:2]}
    summary = Importance(imatrix_of({names[2]: of_input(1)}), facts(**shapes), None).summary()
    assert summary.same_input == {}
    assert set(summary.unusable) == set(names[:2])


def test_the_other_form_of_the_experts_serves_to_the_byte(tmp_path: Path, matrix: Imatrix):
    """The model is fused, the matrix is not: the same file as with a matrix of the fused names."""
    from cli_tools import moe_pairs
    from gguf_builder import bf16_tensor, write_gguf

    weights = np.random.default_rng(1).standard_normal((4, 4, 512), np.float32)
    model = write_gguf(tmp_path / "fused.gguf", [bf16_tensor(FUSED, weights)], moe_pairs(1))
    parts = {UP: matrix.entries[UP], GATE: matrix.entries[UP]}
    written = []
    for i, entries in enumerate((parts, {FUSED: matrix.entries[UP]})):
        path = changed(matrix, tmp_path / f"{i}.gguf", entries)
        done = quantized(model, path, tmp_path / f"o{i}.gguf", "IQ2_XXS")
        assert done.exit_code == 0, done.stderr
        with apex.open_gguf(tmp_path / f"o{i}.gguf") as file:
            written.append(bytes(file.tensor_bytes(FUSED)))
        assert (FindingKind.IMATRIX_SAME_INPUT in kinds(done.stdout)) == (i == 0)
    assert written[0] == written[1]


# --- what an entry does not tell ------------------------------------------------------------------


def with_expert(entry: ImatrixEntry, expert: int, total: float, count: float) -> ImatrixEntry:
    sums, counts = entry.sums.copy(), entry.counts.copy()
    sums[expert] *= np.float32(total)
    counts[expert] = count
    return ImatrixEntry.from_sums(sums, counts)


@pytest.mark.parametrize(("total", "count"), [(0, 100), (0, 0), (1, -3), (1, 0)])
def test_an_expert_without_information_is_said_and_not_written_as_zeros(
    total: float, count: float, model: Path, matrix: Imatrix, tmp_path: Path
):
    """No tokens, sums of zero though tokens were counted, counts that cannot be."""
    entries = {
        **matrix.entries,
        UP: with_expert(matrix.entries[UP], 2, total, count),
    }
    path = changed(matrix, tmp_path / "u.gguf", entries)
    planned = invoke("plan", model, "--type", "Q6_K", "--imatrix", path)
    expected = f"{UP}: calibration reached 3 of 4 experts, not expert 2: the prior gives them"
    assert f"warning  {expected}" in planned.stdout
    done = invoke("quantize", model, "--type", "Q6_K", "--imatrix", path, "-o",
                  tmp_path / "o.gguf", "--json")  # fmt: skip
    assert f"warning: {expected}" in done.stderr
    assert FindingKind.EXPERTS_UNSEEN in kinds(done.stdout)
    with apex.open_gguf(tmp_path / "o.gguf") as written, apex.open_gguf(model) as source:
        weights, stored = source.to_float32(UP)[2], written.to_float32(UP)[2]
    assert np.sqrt(np.square(stored - weights).mean() / np.square(weights).mean()) < 0.03


def test_experts_with_few_tokens_are_said(model: Path, matrix: Imatrix, tmp_path: Path):
    path = changed(matrix, tmp_path / "f.gguf", matrix.entries)  # 3 tokens each
    done = quantized(model, path, tmp_path / "o.gguf")
    assert f"warning: {UP.replace('up', 'gate')}: 4 of 4 experts saw few tokens" in done.stderr


def test_a_dense_entry_of_zeros_is_said(tmp_path: Path):
    name = "blk.0.attn_q.weight"
    silent = ImatrixEntry.from_sums(np.zeros((1, 8), np.float32), np.array([100.0]))
    summary = Importance(imatrix_of({name: silent}), facts(**{name.replace(".", "__"): (2, 8)}))
    assert summary.summary().doubts[name].unseen == (0,)


def silent_columns(matrix: Imatrix) -> dict[str, ImatrixEntry]:
    sums = matrix.entries[UP].sums.copy()
    sums[:, 128:256] = 0
    entry = ImatrixEntry.from_sums(sums, np.full(4, 100.0))
    return {**matrix.entries, UP: entry}


@pytest.mark.parametrize("type", ["Q3_K", "Q6_K", "Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS"])
def test_silent_columns_are_kept_by_the_default_prior_and_named_without(
    type: str, model: Path, matrix: Imatrix, tmp_path: Path
):
    """ggml's quantizers of these types write weights of importance 0 as zeros."""
    path = changed(matrix, tmp_path / "s.gguf", silent_columns(matrix))
    arguments = ("quantize", model, "--type", "Q8_0", "--tensor-type", f"ffn={type}",
                 "--imatrix", path, "--json")  # fmt: skip
    kept = invoke(*arguments, "-o", tmp_path / "kept.gguf")
    assert FindingKind.COLUMNS_RAISED in kinds(kept.stdout)
    plain = invoke(*arguments, "-o", tmp_path / "plain.gguf", "--prior", "none")
    assert f"{UP}: 128 of 512 columns have importance 0: {type} may write" in plain.stderr
    assert {FindingKind.COLUMNS_SILENT, FindingKind.ERROR_OUT_OF_PROPORTION} <= kinds(plain.stdout)
    strict = invoke(*arguments, "-o", tmp_path / "strict.gguf", "--prior", "none", "--strict")
    assert strict.exit_code == 1
    share = {}
    for name in ("kept", "plain"):
        with apex.open_gguf(tmp_path / f"{name}.gguf") as written:
            share[name] = float((written.to_float32(UP)[..., 128:256] == 0).mean())
    assert share["plain"] == 1
    assert share["kept"] < 0.5


def test_warnings_come_before_notes() -> None:
    for kind in (FindingKind.IMATRIX_MATCHES_NOTHING, FindingKind.IMATRIX_NEEDED):
        assert kind.severity is Severity.BLOCKING
    for kind in (FindingKind.EXPERTS_UNSEEN, FindingKind.COLUMNS_SILENT):
        assert kind.severity is Severity.WARNING
