"""The tour: seven files, none larger than the one before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apex_native.demo import demo_imatrix
from apex_native.gguf import open_gguf
from apex_native.imatrix import load_imatrix
from apex_native.reports import write_report
from apex_native.results import Results
from cli_tools import invoke


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, object]:
    result = invoke("demo", "--output-dir", folder, "--json")
    assert result.exit_code == 0, result.stderr
    loaded: dict[str, object] = json.loads(result.stdout)
    return loaded


def test_every_recipe_is_a_file_of_the_stated_size(
    document: dict[str, object], folder: Path
) -> None:
    rows = document["rows"]
    assert isinstance(rows, list)
    assert [row["recipe"] for row in rows] == [
        *("BF16", "Q8_0", "balanced", "quality", "Q4_K_M", "compact", "i-compact", "mini")
    ]
    # Bits per weight: what a file says of its importance matrix costs some bytes of header.
    sizes = [row["bpw"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        row["file"]: row["nbytes"] for row in rows[1:]
    }
    # A matrix weighs the errors, so that their plain sum is no measure of it.
    experts = [row["errors"]["experts"] for row in rows[1:] if row["recipe"] != "i-compact"]
    assert experts == sorted(experts)
    assert [row["uses_imatrix"] for row in rows] == [False] * 6 + [True] * 2
    assert rows[0]["kld_mean"] is None
    # The matrix may help compact more than a tier's size does: i-compact is out of the order.
    ordered = [row["kld_mean"] for row in rows[1:] if row["recipe"] != "i-compact"]
    assert ordered == sorted(ordered)
    for row in rows[1:]:
        # Within what 2-bit and larger types cost; a broken file has ln(4096) = 8.3.
        assert 0 < row["kld_mean"] < 0.5
        assert row["ppl"] == pytest.approx(rows[0]["ppl"], rel=0.3)


def test_the_evaluation_is_a_report(document: dict[str, object], tmp_path: Path) -> None:
    results = Results.from_json(json.dumps(document["results"]))
    assert results.data is not None
    assert results.data.n_chunks == 24
    written = write_report(results, tmp_path)
    assert "demo-APEX-Q3_K_M_MINI" in (written.folder / "report.md").read_text()


def test_existing_files_stay_without_force(document: dict[str, object], folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = invoke("demo", "--output-dir", folder)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_files_are_temporary_unless_kept(tmp_path: Path) -> None:
    result = invoke("demo", "--output-dir", tmp_path, "--no-keep")
    assert result.exit_code == 0
    assert "Q3_K_M_MINI" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_matrix_fits_the_demo_model() -> None:
    from apex_native.demo import demo_model

    matrix = load_imatrix(demo_imatrix())
    assert matrix.chunk_count == 40
    assert demo_imatrix().stat().st_size < 400_000
    with open_gguf(demo_model()) as model:
        shapes = {t.name: (t.n_expert_slices, t.n_per_row) for t in model.tensors}
    for name, entry in matrix.entries.items():
        assert entry.values.shape == shapes[name]
    experts = [name for name in shapes if "_exps" in name]
    assert len(experts) == 24
    assert set(experts) <= matrix.entries.keys()


@pytest.mark.slow
def test_a_search_at_the_size_of_q4_k_m_is_better(tmp_path: Path) -> None:
    result = invoke("demo", "--search", "--output-dir", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    (mix,) = (row for row in rows if row["recipe"] == "Q4_K_M")
    found = rows[rows.index(mix) + 1]
    assert found["file"] == f"demo-search-{mix['nbytes']}.gguf"
    assert (tmp_path / found["file"]).stat().st_size == found["nbytes"] <= mix["nbytes"]
    # Three standard errors of both: no seed of the text decides it.
    assert found["kld_mean"] + 3 * found["kld_se"] < mix["kld_mean"] - 3 * mix["kld_se"]
