"""Second moments of inputs as the quantized model has them, against those of the original's.

    python bench/second_moment_order.py wiki=wiki.test.raw code=code.txt --types Q3_K --tiers mini

Layer by layer: what lies before a layer is quantized already when its moments are collected, so
that it is fitted to inputs it will really meet. Costs a collection a layer. Both files have the
same importance matrix and equal size; prints Markdown as second_moment.py does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import apex_native as apex
from apex_native.imatrix import Hessian, HessianFile, Imatrix
from apex_native.plan.names import layer_number
from second_moment import (
    Made,
    Pair,
    calibration,
    collect,
    parsed,
    planned,
    show_divergence,
)


@dataclass(frozen=True)
class ByLayer:
    """Moments of each layer from a file of its own; None is what lies outside the layers."""

    files: dict[int | None, Hessian]

    @property
    def digest(self) -> str:
        return self.files[None].digest

    @property
    def n_tokens(self) -> int:
        return self.files[None].n_tokens

    def windows(self, weights: Collection[str]) -> Iterator[tuple[tuple[str, ...], Hessian]]:
        for layer, hessian in self.files.items():
            names = tuple(name for name in weights if layer_number(name) == layer)
            if names:
                yield names, hessian


@dataclass(frozen=True)
class Work:
    args: argparse.Namespace
    folder: Path
    source: apex.GgufFile
    imatrix: Imatrix
    text: tuple[str, bool]

    def partial(self, plan: apex.Plan, n_layers: int, moments: ByLayer) -> Path:
        """The model whose first layers are quantized; the rest is the original's."""
        types = {
            t.name: t.type if _is_before(t.name, n_layers) else t.source_type for t in plan.tensors
        }
        path = self.folder / "partial.gguf"
        some = apex.make_plan(self.source, types=types, reason="partial", imatrix=self.imatrix)
        apex.quantize(
            self.source, some, path, imatrix=self.imatrix, hessian=moments,
            n_threads=self.args.threads, force=True,
        )  # fmt: skip
        return path

    def moments(self, model: Path, path: Path) -> None:
        with apex.load_model(model, n_threads=self.args.threads) as loaded:
            apex.collect_imatrix(
                loaded, self.text[0], parse_special=self.text[1],
                hessian=path, force=True,
            )  # fmt: skip

    def in_order(self, plan: apex.Plan, first: Hessian, output: Path) -> None:
        """Quantize with moments of quantized inputs."""
        layers = sorted({n for t in plan.tensors if (n := layer_number(t.name)) is not None})
        with ExitStack() as stack:
            moments = ByLayer({None: first, layers[0]: first})
            for layer in [*layers[1:], None]:
                n_before = len(layers) if layer is None else layer
                path = self.folder / f"moments-{layer}.gguf"
                self.moments(self.partial(plan, n_before, moments), path)
                found = stack.enter_context(HessianFile(path)).hessian
                moments = ByLayer({**moments.files, layer: found})
            apex.quantize(
                self.source, plan, output, imatrix=self.imatrix, hessian=moments,
                n_threads=self.args.threads, force=True,
            )  # fmt: skip


def _is_before(name: str, n_layers: int) -> bool:
    layer = layer_number(name)
    return layer is not None and layer < n_layers


def main() -> None:
    args = parsed(__doc__ or "")
    with tempfile.TemporaryDirectory() as temporary:
        run(args, args.folder or Path(temporary))


def run(args: argparse.Namespace, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    imatrix, path, _ = collect(args, folder)
    with apex.load_model(args.model, n_threads=args.threads) as model:
        text = calibration(args, model)
    with HessianFile(path) as file, apex.open_gguf(args.model) as source:
        work = Work(args, folder, source, imatrix, text)
        found = []
        for name in [*args.types, *args.tiers]:
            plan = planned(args, source, name, imatrix)
            original, ordered = (folder / f"{name}.{way}.gguf" for way in ("original", "ordered"))
            apex.quantize(
                source, plan, original, imatrix=imatrix, hessian=file.hessian,
                n_threads=args.threads, force=True,
            )  # fmt: skip
            work.in_order(plan, file.hessian, ordered)
            found.append(Pair(name, original, ordered, Made(0.0, 0.0, 1.0, 0, 0)))
    print("ggml: moments of the original's inputs; feedback: of the quantized model's.\n")
    show_divergence(args, found)


if __name__ == "__main__":
    main()
