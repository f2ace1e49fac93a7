"""Priors on experts that calibration hardly saw, coverage, merging and writing: by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pytest

import apex_native as apex
from apex_native.errors import OutputError
from apex_native.imatrix import (
    DEFAULT_PRIOR,
    Imatrix,
    ImatrixEntry,
    Prior,
    expert_coverage,
    layer_statistics,
    parse_prior,
    save_heatmap,
    tensor_statistics,
    with_prior,
)

UP = "blk.3.ffn_up_exps.weight"
DOWN = "blk.3.ffn_down_exps.weight"
DENSE = "blk.3.attn_q.weight"


def entry(
    sums: npt.ArrayLike, counts: npt.ArrayLike, every: npt.ArrayLike | None = None
) -> ImatrixEntry:
    every_pair = None
    if every is not None:
        every_pair = (np.asarray(every, np.float32), np.full(len(np.asarray(counts)), 10.0))
    return ImatrixEntry.from_sums(
        np.asarray(sums, np.float32), np.asarray(counts, np.float64), every_pair
    )


def matrix(**changes: ImatrixEntry) -> Imatrix:
    entries = {
        UP: entry([[8, 0], [3, 9], [0, 0]], [4, 1, 0], [[10, 20], [30, 40], [50, 60]]),
        DOWN: entry([[4, 4, 4], [1, 2, 3], [0, 0, 0]], [4, 1, 0]),
        DENSE: entry([[5, 10]], [5]),
        **changes,
    }
    return Imatrix(
        MappingProxyType(entries), Path("made-up.gguf"), "", 2, ("words",), is_legacy=False,
        chunk_size=4, settings={"ctx": 4},
    )  # fmt: skip


# --- priors -------------------------------------------------------------------------------------


def test_the_layers_mean_is_weighed_against_each_experts_tokens() -> None:
    shrunk = with_prior(matrix(), Prior(4.0))
    layer_mean = np.array([11 / 5, 9 / 5])
    expected = [
        (np.array([8, 0]) + 4 * layer_mean) / 8,
        (np.array([3, 9]) + 4 * layer_mean) / 5,
        layer_mean,
    ]
    np.testing.assert_allclose(shrunk.entries[UP].values, expected, rtol=1e-6)
    np.testing.assert_array_equal(shrunk.entries[DENSE].values, [[1, 2]])
    np.testing.assert_array_equal(shrunk.entries[UP].sums, matrix().entries[UP].sums)
    assert shrunk.prior == "layer:4"
    assert shrunk.summary().prior == "layer:4"


def test_a_prior_of_nothing_still_speaks_for_unseen_experts() -> None:
    values = with_prior(matrix(), Prior(0.0)).entries[UP].values
    np.testing.assert_allclose(values, [[2, 0], [3, 9], [11 / 5, 9 / 5]], rtol=1e-6)


def test_a_prior_from_all_experts_is_each_experts_own() -> None:
    few = {name: e for name, e in matrix().entries.items() if name != DOWN}
    full = Imatrix(MappingProxyType(few), Path("x"), "", 2, (), is_legacy=False, chunk_size=4)
    values = with_prior(full, Prior(2.0, "all-experts")).entries[UP].values
    expected = [[(8 + 2) / 6, 4 / 6], [(3 + 6) / 3, (9 + 8) / 3], [5, 6]]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    with pytest.raises(apex.ImatrixError, match=f"'{DOWN}': the matrix holds no pass"):
        with_prior(matrix(), Prior(2.0, "all-experts"))


def test_none_is_llama_quantizes_to_the_byte() -> None:
    """Means in float, 1 for an expert without tokens; also after another prior was applied."""
    for source in (matrix(), with_prior(matrix(), Prior(7.0))):
        plain = with_prior(source, None)
        assert plain.prior is None
        for name, found in plain.entries.items():
            raw = matrix().entries[name]
            expected = np.ones_like(raw.sums)
            for i, count in enumerate(raw.counts):
                if count:
                    expected[i] = raw.sums[i] / np.float32(count)
            np.testing.assert_array_equal(found.values, expected)


def test_a_strong_prior_leaves_only_the_layer() -> None:
    values = with_prior(matrix(), Prior(1e12)).entries[UP].values
    np.testing.assert_allclose(values, [[11 / 5, 9 / 5]] * 3, rtol=1e-6)


def test_a_weight_no_token_reached_stays_as_it_is() -> None:
    values = with_prior(matrix(**{UP: entry([[0, 0], [0, 0]], [0, 0])}), Prior(4.0)).entries[UP]
    np.testing.assert_array_equal(values.values, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("auto", DEFAULT_PRIOR),
        ("16", Prior(16.0)),
        ("layer:0.5", Prior(0.5)),
        ("all-experts:8", Prior(8.0, "all-experts")),
    ],
)
def test_priors_are_spelled_like_this(text: str, expected: Prior | None) -> None:
    assert parse_prior(text) == expected
    if expected is not None:
        assert parse_prior(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "some", "-1", "nan", "inf", "layer:", "tokens:4", "all-experts"]
)
def test_priors_that_are_none(text: str) -> None:
    with pytest.raises(apex.ImatrixError, match="prior"):
        parse_prior(text)


def test_the_prior_is_recorded_and_part_of_the_plan(tmp_path: Path) -> None:
    from apex_native.plan import Plan

    read = apex.load_imatrix(apex.demo_imatrix())
    shrunk = with_prior(read, Prior(4.0))
    with apex.open_gguf(apex.demo_model()) as source:
        plan = apex.make_plan(source, tier="i-compact", imatrix=shrunk)
        assert plan.imatrix_prior == "layer:4"
        assert Plan.from_json(plan.to_json()).imatrix_prior == "layer:4"
        with pytest.raises(apex.ImatrixError, match="prior layer:4, it is none now"):
            apex.quantize(source, plan, tmp_path / "o.gguf", imatrix=read)
        manifest = apex.quantize(source, plan, tmp_path / "o.gguf", imatrix=shrunk)
        other = apex.make_plan(source, tier="i-compact", imatrix=read)
        apex.quantize(source, other, tmp_path / "p.gguf", imatrix=read)
    assert manifest.imatrix_prior == "layer:4"
    with apex.open_gguf(tmp_path / "o.gguf") as one, apex.open_gguf(tmp_path / "p.gguf") as two:
        assert one.metadata["apex.imatrix_prior"] == "layer:4"
        assert "apex.imatrix_prior" not in two.metadata
        assert (one.tensor_bytes(UP) != two.tensor_bytes(UP)).any()
        assert (one.tensor_bytes(DENSE) == two.tensor_bytes(DENSE)).all()


# --- coverage -----------------------------------------------------------------------------------


def test_coverage_counts_each_router_once() -> None:
    coverage = expert_coverage(matrix())
    (router,) = coverage.routers
    assert router.layer == 3
    assert router.weights == (DOWN, UP)
    assert router.never_hit == (2,)
    assert coverage.never_hit == ((3, 2),)
    assert coverage.least_tokens == 0
    np.testing.assert_allclose(router.shares, [0.8, 0.2, 0])
    # Mean absolute difference over twice the mean, by hand: pairs (4,1) (4,0) (1,0).
    assert router.gini == pytest.approx((3 + 4 + 1) / (3 * 5))
    assert coverage.least_hit() == ((3, 2, 0),)
    assert coverage.least_hit(0.5) == ((3, 2, 0), (3, 1, 1))
    document = json.loads(json.dumps(coverage.to_dict()))
    assert document["layers"][0]["tokens"] == [4, 1, 0]
    assert document["least_hit_1_percent"] == [{"layer": 3, "expert": 2, "tokens": 0}]


def test_even_experts_have_no_gini_and_a_lone_one_all() -> None:
    from apex_native.imatrix.coverage import gini

    assert gini(np.full(8, 3.0)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 9.0])) == pytest.approx(3 / 4)
    assert gini(np.zeros(4)) == 0


def test_the_heatmap_is_a_picture(tmp_path: Path) -> None:
    save_heatmap(expert_coverage(matrix()), tmp_path / "map.png")
    content = (tmp_path / "map.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000
    dense = matrix()
    only = Imatrix(
        MappingProxyType({DENSE: dense.entries[DENSE]}), Path("x"), "", 1, (), is_legacy=False
    )
    with pytest.raises(OutputError, match="no experts"):
        save_heatmap(expert_coverage(only), tmp_path / "none.png")
    with pytest.raises(OutputError, match="cannot write"):
        save_heatmap(expert_coverage(dense), tmp_path / "nowhere" / "map.png")


def test_statistics_by_hand() -> None:
    rows = {row.name: row for row in tensor_statistics(matrix())}
    up = rows[UP]  # of two experts: 2 0, 3 9
    assert (up.layer, up.tensor, up.n) == (3, "ffn_up_exps", 4)
    assert (up.total, up.min, up.max, up.mean) == (14, 0, 9, 3.5)
    assert up.std == pytest.approx(np.std([2, 0, 3, 9]))
    assert up.active == 0.75
    shares = np.array([2, 3, 9]) / 14
    assert up.entropy == pytest.approx(-(shares * np.log2(shares)).sum())
    assert up.entropy_norm == pytest.approx(up.entropy / 2)
    assert up.zd == 0.25
    (layer,) = layer_statistics(list(rows.values()))
    n = sum(row.n for row in rows.values())
    assert layer.total == pytest.approx(sum(r.n * r.total for r in rows.values()) / n)


# --- files --------------------------------------------------------------------------------------


def test_a_written_file_is_read_as_it_was(tmp_path: Path) -> None:
    saved = apex.save_imatrix(matrix(), tmp_path / "m.gguf")
    read = apex.load_imatrix(tmp_path / "m.gguf")
    assert read.sha256 == saved.sha256
    assert (read.chunk_count, read.chunk_size, read.datasets) == (2, 4, ("words",))
    assert read.settings == {"ctx": 4}
    assert list(read.entries) == sorted(matrix().entries)
    for name, found in read.entries.items():
        original = matrix().entries[name]
        np.testing.assert_array_equal(found.sums, original.sums)
        np.testing.assert_array_equal(found.counts, original.counts)
        np.testing.assert_array_equal(found.values, original.values)
    pair = read.entries[UP].all_experts
    assert pair is not None
    np.testing.assert_array_equal(pair[0], [[10, 20], [30, 40], [50, 60]])
    again = apex.save_imatrix(read, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()
    assert again.sha256 == saved.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.gguf", "m.gguf"]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    apex.save_imatrix(matrix(), tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    for size in range(4, len(content) - 32, 97):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises((apex.GgufError, apex.ImatrixError), match=r"cut\.gguf"):
            apex.load_imatrix(tmp_path / "cut.gguf")


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    long = matrix(**{"x" * 60 + ".weight": entry([[1, 2]], [1])})
    with pytest.raises(apex.ImatrixError, match="longer than the 63 bytes"):
        apex.save_imatrix(long, tmp_path / "long.gguf")
    apex.save_imatrix(long, tmp_path / "long.dat", format="dat")
    legacy = apex.load_imatrix(tmp_path / "long.dat")
    with pytest.raises(apex.ImatrixError, match="legacy"):
        apex.save_imatrix(legacy, tmp_path / "legacy.gguf")
    with pytest.raises(OutputError, match="cannot write"):
        apex.save_imatrix(matrix(), tmp_path / "nowhere" / "m.gguf")
    assert not list(tmp_path.glob("*.tmp"))


def test_merging_adds_and_refuses_other_models() -> None:
    merged = apex.merge_imatrices([matrix(), matrix()])
    np.testing.assert_array_equal(merged.entries[UP].sums, 2 * matrix().entries[UP].sums)
    np.testing.assert_array_equal(merged.entries[UP].counts, [8, 2, 0])
    np.testing.assert_array_equal(merged.entries[UP].values, matrix().entries[UP].values)
    assert merged.chunk_count == 2  # 8 visits of an expert in chunks of 4
    other = matrix(**{UP: entry([[1, 2, 3]] * 3, [1, 1, 1])})
    with pytest.raises(apex.ImatrixError, match=f"'{UP}' has 9 values and 3 counts"):
        apex.merge_imatrices([matrix(), other])
    with pytest.raises(apex.ImatrixError, match="nothing to merge"):
        apex.merge_imatrices([])


def test_a_count_for_the_whole_tensor_counts_for_each_expert() -> None:
    old = matrix(**{UP: entry([[1, 2, 3, 4, 5, 6]], [5])})
    merged = apex.merge_imatrices([matrix(), old])
    np.testing.assert_array_equal(merged.entries[UP].counts, [9, 6, 5])
    np.testing.assert_array_equal(merged.entries[UP].sums, [[9, 2], [6, 13], [5, 6]])
