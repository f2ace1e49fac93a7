"""Priors on experts that calibration hardly saw, coverage, merging and writing: by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
)
from apex_native.imatrix.entries import Floats
from apex_native.imatrix.prior import prior_values

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


def values(imatrix: Imatrix, prior: Prior | None) -> dict[str, Floats]:
    return {name: prior_values(name, entry, prior) for name, entry in imatrix.entries.items()}


def test_the_layers_mean_is_weighed_against_each_experts_tokens() -> None:
    shrunk = values(matrix(), Prior(4.0, floor=0.0))
    layer_mean = np.array([11 / 5, 9 / 5])
    expected = [
        (np.array([8, 0]) + 4 * layer_mean) / 8,
        (np.array([3, 9]) + 4 * layer_mean) / 5,
        layer_mean,
    ]
    np.testing.assert_allclose(shrunk[UP], expected, rtol=1e-6)
    np.testing.assert_array_equal(shrunk[DENSE], [[1, 2]])


def test_a_prior_of_nothing_still_speaks_for_unseen_experts() -> None:
    found = values(matrix(), Prior(0.0, floor=0.0))[UP]
    np.testing.assert_allclose(found, [[2, 0], [3, 9], [11 / 5, 9 / 5]], rtol=1e-6)


def test_a_prior_from_all_experts_is_each_experts_own() -> None:
    few = {name: e for name, e in matrix().entries.items() if name != DOWN}
    full = Imatrix(MappingProxyType(few), Path("x"), "", 2, (), is_legacy=False, chunk_size=4)
    found = values(full, Prior(2.0, "all-experts"))[UP]
    expected = [[(8 + 2) / 6, 4 / 6], [(3 + 6) / 3, (9 + 8) / 3], [5, 6]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(apex.ImatrixError, match=f"'{DOWN}': the matrix holds no pass"):
        values(matrix(), Prior(2.0, "all-experts"))


def test_none_is_llama_quantizes_to_the_byte() -> None:
    """Means in float, 1 for an expert without tokens, 0 for sums of zero."""
    silent = {"blk.3.attn_k.weight": entry([[0, 0]], [5])}
    for name, found in values(matrix(**silent), None).items():
        raw = matrix(**silent).entries[name]
        expected = np.ones_like(raw.sums)
        for i, count in enumerate(raw.counts):
            if count:
                expected[i] = raw.sums[i] / np.float32(count)
        np.testing.assert_array_equal(found, expected)


def test_a_strong_prior_leaves_only_the_layer() -> None:
    found = values(matrix(), Prior(1e12))[UP]
    np.testing.assert_allclose(found, [[11 / 5, 9 / 5]] * 3, rtol=1e-6)


def test_a_weight_no_token_reached_counts_alike() -> None:
    unseen = matrix(**{UP: entry([[0, 0], [0, 0]], [0, 0])})
    np.testing.assert_array_equal(values(unseen, Prior(4.0))[UP], np.ones((2, 2)))


@pytest.mark.parametrize(
    ("sums", "counts"),
    [
        ([[8, 4], [0, 0]], [4, 3]),  # tokens were counted and nothing was summed
        ([[8, 4], [6, 2]], [4, -2]),
        ([[8, 4], [6, 2]], [4, 0]),
    ],
)
def test_a_slice_that_cannot_be_is_unseen_and_takes_the_prior(sums: Any, counts: Any) -> None:
    odd = matrix(**{UP: entry(sums, counts)})
    found = values(odd, Prior(4.0))[UP]
    np.testing.assert_allclose(found, [[2, 1], [2, 1]], rtol=1e-6)
    assert not odd.entries[UP].informative[1]


def test_a_dense_entry_of_zeros_counts_alike() -> None:
    silent = matrix(**{DENSE: entry([[0, 0]], [5])})
    np.testing.assert_array_equal(values(silent, Prior(4.0))[DENSE], [[1, 1]])


def test_silent_columns_are_raised_to_a_share_of_the_rows_mean() -> None:
    silent = matrix(**{DENSE: entry([[0, 20, 10]], [5])})
    found = values(silent, Prior(4.0, floor=0.25))[DENSE]
    np.testing.assert_allclose(found, [[0.5, 4, 2]], rtol=1e-6)
    plain = values(silent, Prior(4.0, floor=0.0))[DENSE]
    np.testing.assert_array_equal(plain, [[0, 4, 2]])


def test_experts_of_a_legacy_file_are_cut_apart_and_unseen_ones_filled() -> None:
    """All experts lie in a row there, an unseen one as the same value everywhere."""
    flat = ImatrixEntry.from_sums(
        np.array([[8, 4, 3, 3, 2, 6]], np.float32), np.array([2.0]), counts_tokens=False
    )
    cut = flat.cut(3)
    assert cut.informative.tolist() == [True, False, True]
    found = prior_values(UP, cut, Prior(1024.0, floor=0.0))
    np.testing.assert_allclose(found, [[4, 2], [2.5, 2.5], [1, 3]], rtol=1e-6)
    np.testing.assert_array_equal(prior_values(UP, cut, None).ravel(), flat.values.ravel())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("auto", DEFAULT_PRIOR),
        ("16", Prior(16.0)),
        ("layer:0.5", Prior(0.5)),
        ("16+floor:0", Prior(16.0, floor=0.0)),
        ("all-experts:8", Prior(8.0, "all-experts")),
    ],
)
def test_priors_are_spelled_like_this(text: str, expected: Prior | None) -> None:
    assert parse_prior(text) == expected
    if expected is not None:
        assert parse_prior(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "some",
        "-1",
        "nan",
        "inf",
        "layer:",
        "tokens:4",
        "all-experts",
        "4+floor:1",
        "4+floor:",
        "4+roof:0",
    ],
)
def test_priors_that_are_none(text: str) -> None:
    with pytest.raises(apex.ImatrixError, match="prior"):
        parse_prior(text)


def test_the_prior_is_recorded_and_part_of_the_plan(tmp_path: Path) -> None:
    from apex_native.plan import Plan

    read = apex.load_imatrix(apex.demo_imatrix())
    with apex.open_gguf(apex.demo_model()) as source:
        plan = apex.make_plan(source, tier="i-compact", imatrix=read, prior="4")
        prior = str(Prior(4.0))
        assert plan.imatrix_prior == prior
        assert Plan.from_json(plan.to_json()).imatrix_prior == prior
        manifest = apex.quantize(source, plan, tmp_path / "o.gguf", imatrix=read)
        other = apex.make_plan(source, tier="i-compact", imatrix=read, prior="none")
        apex.quantize(source, other, tmp_path / "p.gguf", imatrix=read)
    assert manifest.imatrix_prior == prior
    with apex.open_gguf(tmp_path / "o.gguf") as one, apex.open_gguf(tmp_path / "p.gguf") as two:
        assert one.metadata["apex.imatrix_prior"] == prior
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
