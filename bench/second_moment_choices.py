"""What decides how well error feedback carries over to other text: regularization and effort.

    python bench/second_moment_choices.py FOLDER wiki=wiki.test.raw code=code.txt --types Q4_K

FOLDER is one that bench/second_moment.py was given. Sampled rows of tensors of all roles are
quantized under variants of the calibration's moments; the table gives the squared error of outputs
as a share of that of ggml's bytes, geometric mean and worst, on the calibration and on moments of
the middle of each text, which nothing was fitted to.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import apex_native as apex
from apex_native._native import core
from apex_native.imatrix import Hessian, HessianFile

N_ROWS = 32
LAYER_TOKENS = 512
WEIGHTS = (
    *("blk.1.ffn_gate_exps.weight", "blk.5.ffn_up_exps.weight", "blk.2.ffn_down_exps.weight"),
    *("blk.6.ffn_down_exps.weight", "blk.3.attn_q.weight", "blk.3.attn_output.weight"),
    *("blk.4.ffn_down_shexp.weight", "blk.2.ssm_out.weight", "blk.0.attn_qkv.weight"),
    "output.weight",
)
EXPERTS = (1, 6)

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows of one matrix, the calibration's moment blended with its layer's, those of texts."""

    weights: npt.NDArray[np.float32]
    own: Matrix
    blended: Matrix
    texts: dict[str, Matrix]


@dataclass(frozen=True)
class Variant:
    """What a moment becomes before it is used, and options of the search."""

    name: str
    regularized: Callable[[Rows], Matrix]
    options: dict[str, Any] = field(default_factory=dict)


def shrunk(moment: Matrix, share: float) -> Matrix:
    """Off-diagonal elements lose a share."""
    return (1 - share) * moment + share * np.diag(np.diag(moment))


def shrunk_but(moment: Matrix, share: float, kept: int) -> Matrix:
    """The same, but for the part along the first eigenvectors: the mean of inputs is the first."""
    values, vectors = np.linalg.eigh(moment)
    part = (vectors[:, -kept:] * values[-kept:]) @ vectors[:, -kept:].T
    return np.asarray(part + shrunk(moment - part, share))


def variants() -> list[Variant]:
    """The default first."""

    def default(rows: Rows) -> Matrix:
        return shrunk(rows.blended, 0.2)

    damped = {"damping": 0.3}
    return [
        Variant("default: damping 0.3, shrunk by 0.2", default, damped),
        Variant("bold: damping 0.01", lambda rows: rows.own, {"damping": 0.01}),
        Variant("shrunk by 0.1", lambda rows: shrunk(rows.blended, 0.1), damped),
        Variant("shrunk by 0.3", lambda rows: shrunk(rows.blended, 0.3), damped),
        Variant("mean kept, rest by 0.3", lambda rows: shrunk_but(rows.blended, 0.3, 1), damped),
        Variant("8 directions kept, by 0.4", lambda rows: shrunk_but(rows.blended, 0.4, 8), damped),
        Variant("scale radius 3", default, {**damped, "scale_radius": 3}),
        Variant("refine radius 2", default, {**damped, "refine_radius": 2}),
        Variant("12 passes", default, {**damped, "max_passes": 12, "max_grid_passes": 12}),
        Variant("1 round", default, {**damped, "max_rounds": 1}),
        Variant("12 rounds", default, {**damped, "max_rounds": 12}),
        Variant("1 pass", default, {**damped, "max_passes": 1, "max_grid_passes": 1}),
    ]


def collect(args: argparse.Namespace, name: str, path: Path) -> Path:
    """The moments of a text's middle."""
    target = Path(args.folder) / f"{name}.hessian.gguf"
    if not target.exists():
        text = path.read_text(encoding="utf-8")
        with apex.load_model(args.model, n_threads=args.threads) as model:
            apex.collect_imatrix(
                model, text[len(text) // 2 :], max_chunks=args.chunks, hessian=target, force=True
            )
    return target


def samples(source: apex.GgufFile, moments: Hessian, texts: dict[str, Hessian]) -> Iterator[Rows]:
    """Rows of every weight of the list."""
    for name in WEIGHTS:
        moment = moments.moment_of(name)
        assert moment is not None
        moment = moment.ungrouped()
        n_slices = len(moment.counts)
        weights = source.to_float32(name)
        weights = weights.reshape(-1, *weights.shape[-2:])
        for expert in EXPERTS if n_slices > 1 else (0,):
            own = moment.dense(expert)
            count = int(moment.counts[expert])
            tokens = LAYER_TOKENS if n_slices > 1 else 0
            layer = sum(moment.dense(i) * int(moment.counts[i]) for i in range(n_slices))
            mean = np.asarray(layer) / max(int(moment.counts.sum()), 1)
            seen = {"calibration": own}
            for text, hessian in texts.items():
                other = hessian.moment_of(name)
                assert other is not None
                seen[text] = other.ungrouped().dense(expert)
            matrix = weights[expert]
            yield Rows(
                np.ascontiguousarray(matrix[:: max(len(matrix) // N_ROWS, 1)][:N_ROWS]),
                own,
                (count * own + tokens * mean) / (count + tokens),
                seen,
            )


def error(rows: Rows, stored: Any, type: apex.GgmlType, moment: Matrix) -> float:
    """Squared error of outputs, from what ggml reads in the bytes."""
    difference = rows.weights - core.dequantize_rows(stored, type.id, rows.weights.shape[1])
    return float(np.einsum("ri,ij,rj->", difference.astype(np.float64), moment, difference))


def ratios(variant: Variant, found: list[Rows], type: apex.GgmlType) -> dict[str, list[float]]:
    """Of errors to ggml's, by text, for all rows."""
    result: dict[str, list[float]] = {}
    for rows in found:
        importance = np.ascontiguousarray(np.diag(rows.own), np.float32)
        plain = core.quantize_rows(rows.weights, type.id, importance)
        moment = np.ascontiguousarray(variant.regularized(rows))
        options = core.FeedbackOptions(**variant.options)
        stored, _, _ = core.feedback_rows(rows.weights, type.id, moment, options=options)
        for text, judge in rows.texts.items():
            ratio = error(rows, stored, type, judge) / error(rows, plain, type, judge)
            result.setdefault(text, []).append(ratio)
    return result


def main() -> None:
    """Print a table for each type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--model", type=Path, default=apex.demo_model())
    parser.add_argument("--types", nargs="*", default=["Q4_K"])
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    named = dict(text.split("=", 1) for text in args.texts)
    paths = {name: collect(args, name, Path(path)) for name, path in named.items()}
    with ExitStack() as stack:
        opened = {n: stack.enter_context(HessianFile(p)).hessian for n, p in paths.items()}
        moments = stack.enter_context(HessianFile(args.folder / "hessian.gguf")).hessian
        source = stack.enter_context(apex.open_gguf(args.model))
        found = list(samples(source, moments, opened))
    for name in args.types:
        print(f"\n| {name} | calibration | {' | '.join(named)} |")
        print("|---|---" + "|---" * len(named) + "|")
        for variant in variants():
            columns = ratios(variant, found, apex.GgmlType.parse(name)).values()
            means = (f"{np.exp(np.mean(np.log(c))):.3f} ({max(c):.2f})" for c in columns)
            print(f"| {variant.name} | {' | '.join(means)} |", flush=True)


if __name__ == "__main__":
    main()
