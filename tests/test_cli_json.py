"""The machine-readable contracts: one document on stdout, its names and its sums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from apex_native.demo import demo_imatrix, demo_model
from apex_native.gguf import open_gguf
from cli_tools import invoke, write_experts, write_header
from gguf_builder import f32_tensor, write_gguf


def document(*args: str | Path) -> dict[str, Any]:
    """The one JSON document that a verb prints; json.loads refuses anything beside it."""
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.stderr
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_inspect_describes_every_tensor() -> None:
    found = document("inspect", demo_model())
    assert found["total_bytes"] == demo_model().stat().st_size
    assert found["architecture"] == "qwen35moe"
    assert found["n_layer"] == 8
    with open_gguf(demo_model()) as file:
        expected = [(t.name, t.type.name, t.nbytes, list(t.shape)) for t in file.tensors]
    rows = [(t["name"], t["type"], t["bytes"], t["shape"]) for t in found["tensors"]]
    assert rows == expected
    assert {"role", "layer"} <= found["tensors"][0].keys()
    assert sum(row["bytes"] for row in found["roles"]) == sum(row[2] for row in expected)
    assert found["statistics"] == []


def test_inspect_counts_a_header_with_its_data(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "model.gguf", n_layers=4, rows=64)
    whole = document("inspect", model)
    cut = tmp_path / "header.gguf"
    data = sum(t["bytes"] for t in whole["tensors"])
    cut.write_bytes(model.read_bytes()[:-data])
    header = document("inspect", cut)
    assert header["has_data"] is False
    assert header["total_bytes"] == whole["total_bytes"] == model.stat().st_size
    assert header["files"] == [{"path": str(cut), "bytes": cut.stat().st_size}]


def test_statistics_are_those_of_the_weights(tmp_path: Path) -> None:
    import numpy as np

    weights = np.random.default_rng(1).standard_normal((8, 256))
    weights[0, 0] = 50
    path = write_gguf(tmp_path / "m.gguf", [f32_tensor("blk.0.attn_q.weight", weights)])
    (row,) = document("inspect", path, "--stats")["statistics"]
    flat = weights.astype(np.float32).astype(np.float64).ravel()
    centred = flat - flat.mean()
    assert row["role"] == "attention"
    assert row["max_abs"] == pytest.approx(50)
    assert row["rms"] == pytest.approx(np.sqrt((flat**2).mean()))
    assert row["kurtosis"] == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2)
    assert row["outlier_share"] == pytest.approx(1 / flat.size)


def test_plan_predicts_what_quantize_writes(tmp_path: Path) -> None:
    output = tmp_path / "q.gguf"
    plan = document("plan", demo_model(), "--tier", "compact")
    manifest = document("quantize", demo_model(), "--tier", "compact", "-o", output)
    assert plan["total_bytes"] == manifest["total_bytes"] == output.stat().st_size
    keys = ("name", "role", "layer", "type", "bytes")
    planned = [[tensor[key] for key in keys] for tensor in plan["tensors"]]
    written = [[tensor[key] for key in keys] for tensor in manifest["tensors"]]
    assert planned == written
    assert json.loads((tmp_path / "q.gguf.manifest.json").read_text()) == manifest


def test_compare_is_the_other_plan() -> None:
    plan = document("plan", demo_model(), "--tier", "quality", "--compare", "Q8_0")
    other = document("plan", demo_model(), "--type", "Q8_0")
    assert plan["compare"][0]["with"] == "Q8_0"
    assert plan["compare"][0]["total_bytes"] == other["total_bytes"]
    types = {t["name"]: t["type"] for t in other["tensors"]}
    differ = sum(types[t["name"]] != t["type"] for t in plan["tensors"])
    assert plan["compare"][0]["tensors_that_differ"] == differ > 0


def test_semantics_and_edges_reach_the_plan() -> None:
    published = document("plan", demo_model(), "--tier", "compact")
    declared = document("plan", demo_model(), "--tier", "compact", "--semantics", "declared")
    assert (published["semantics"], declared["semantics"]) == ("published", "declared")
    assert declared["total_bytes"] < published["total_bytes"]
    edges = document("plan", demo_model(), "--tier", "quality", "--edges", "2")["edges"]
    assert edges == {"expert": 2, "near": 2, "attention": 1}
    edges = document("plan", demo_model(), "--tier", "quality", "--edges", "1,0,3")["edges"]
    assert edges == {"expert": 1, "near": 0, "attention": 3}


def test_overrides_reach_the_plan(tmp_path: Path) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_text("attn_q=q5_0\nffn_up_exps=q4_1\n")
    found = document(
        *("plan", demo_model(), "--type", "Q8_0", "--tensor-type", "attn_qkv=q6_k"),
        *("--tensor-type-file", rules, "--output-tensor-type", "q4_k"),
        *("--token-embedding-type", "Q3_K"),
    )
    types = {t["name"]: t["type"] for t in found["tensors"]}
    assert types["blk.0.attn_qkv.weight"] == "Q6_K"
    assert types["blk.3.attn_q.weight"] == "Q5_0"
    assert types["blk.0.ffn_up_exps.weight"] == "Q4_1"
    assert types["output.weight"] == "Q4_K"
    assert types["token_embd.weight"] == "Q3_K"
    assert types["blk.0.ffn_down_exps.weight"] == "Q8_0"


def test_leave_output_and_pure_reach_the_plan() -> None:
    found = document("plan", demo_model(), "--type", "Q4_K_M", "--leave-output-tensor", "--pure")
    types = {t["name"]: t["type"] for t in found["tensors"]}
    assert types.pop("output.weight") == "BF16"
    assert set(types.values()) == {"Q4_K", "F32"}


def test_like_takes_over_another_files_types(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    document("quantize", demo_model(), "--tier", "quality", "-o", first)
    made = document("quantize", demo_model(), "--like", first, "-o", second)
    with open_gguf(first) as file:
        assert {t.name: t.type.name for t in file.tensors} == {
            t["name"]: t["type"] for t in made["tensors"]
        }


def test_a_saved_plan_is_carried_out(tmp_path: Path) -> None:
    plan, direct, planned = (tmp_path / name for name in ("p.json", "direct.gguf", "planned.gguf"))
    shown = document(
        "plan", demo_model(), "--tier", "mini", "--imatrix", demo_imatrix(), "-o", plan
    )
    assert json.loads(plan.read_text()) == shown
    matrix = ("--imatrix", demo_imatrix())
    document("quantize", demo_model(), "--tier", "mini", *matrix, "-o", direct)
    document("quantize", demo_model(), "--plan", plan, *matrix, "-o", planned)
    assert direct.read_bytes() == planned.read_bytes()
    assert hashlib.sha256(demo_imatrix().read_bytes()).hexdigest() == shown["imatrix_sha256"]


def test_threads_and_memory_change_no_byte(tmp_path: Path) -> None:
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    document("quantize", demo_model(), "--type", "Q4_K_M", "-o", paths[0], "--threads", "1")
    document(
        *("quantize", demo_model(), "--type", "Q4_K_M", "-o", paths[1]),
        *("--threads", "3", "--max-memory", "8M"),
    )
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_dry_run_names_the_files_and_writes_none(tmp_path: Path) -> None:
    args = ("quantize", demo_model(), "--type", "Q8_0", "-o", tmp_path / "q.gguf")
    predicted = document(*args, "--split-max-size", "5MB", "--dry-run")
    assert list(tmp_path.iterdir()) == []
    written = document(*args, "--split-max-size", "5MB", "--no-manifest")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert {Path(f["path"]).name: f["bytes"] for f in predicted["files"]} == sizes
    assert written["files"] == sorted(sizes)


def test_a_header_can_be_planned(tmp_path: Path) -> None:
    header = write_header(tmp_path / "h.gguf", n_layers=4, rows=64)
    found = document("plan", header, "--type", "Q8_0")
    assert [t["type"] for t in found["tensors"]] == ["Q8_0"] * 12


def test_check_loads_the_result(tmp_path: Path) -> None:
    made = document(
        "quantize", demo_model(), "--type", "Q8_0", "-o", tmp_path / "q.gguf", "--check"
    )
    assert made["check"]["n_vocab"] == 4096
    assert 1 < made["check"]["mean_nll"] < 5


def test_doctor_is_well() -> None:
    found = document("doctor")
    assert found["passed"] is True
    names = [check["name"] for check in found["checks"]]
    assert names[0] == "native core"
    assert names[-1] == "demo model"
    assert all(check["passed"] for check in found["checks"])
    assert found["environment"]["build"]["cuda"] in (True, False)
