"""What error feedback under second moments gives: KLD of files of equal size, and what it costs.

    python bench/second_moment.py wiki=wiki.test.raw code=code.txt --types Q4_K IQ4_XS --tiers mini

For each type (every tensor in it) and tier two files are made with an importance matrix and second
moments of the same built-in text: ggml's bytes, and those of error feedback. Each text is computed
once for all files, side by side. Texts are only read; those outside the calibration's domains say
what a user gets. Prints Markdown: mean KLD and its 99.9 % quantile of both, the paired 95 %
interval of the difference of means, and seconds of work. With --folder what was made stays there,
and another call goes on from it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from apex_native.corpus import build_corpus
from apex_native.evaluation import Text
from apex_native.imatrix import HessianFile, Imatrix, load_imatrix
from apex_native.results.model import Candidate
from divergence import CTX


@dataclass(frozen=True)
class Made:
    """Seconds of both ways; squared output error as a share of ggml's, the mean over tensors."""

    plain: float
    feedback: float
    output_error: float
    kept: int
    slices: int


@dataclass(frozen=True)
class Pair:
    """A recipe's file with ggml's bytes and the one with error feedback."""

    name: str
    plain: Path
    feedback: Path
    made: Made


def calibration(args: argparse.Namespace, model: apex.Model) -> tuple[str, bool]:
    """The text moments are collected on, and whether special tokens in it are parsed."""
    if args.calibration:
        return "\n".join(path.read_text(encoding="utf-8") for path in args.calibration), True
    corpus = build_corpus(args.recipe, model, tokens=args.tokens, seed=args.seed)
    return corpus.text, corpus.parse_special


def collect(args: argparse.Namespace, folder: Path) -> tuple[Imatrix, Path, tuple[float, float]]:
    """Importance matrix and moments of the built-in text, and how long each took to collect."""
    hessian, times = folder / "hessian.gguf", folder / "collection.json"
    if times.exists():
        seconds = json.loads(times.read_text())
        return load_imatrix(folder / "imatrix.gguf"), hessian, (seconds[0], seconds[1])
    seconds = []
    with apex.load_model(args.model, n_threads=args.threads) as model:
        text, parse_special = calibration(args, model)
        for target in (None, hessian):
            started = time.perf_counter()
            imatrix = apex.collect_imatrix(
                model, text, parse_special=parse_special,
                output=folder / "imatrix.gguf", hessian=target, force=True,
            )  # fmt: skip
            seconds.append(time.perf_counter() - started)
    times.write_text(json.dumps(seconds))
    return imatrix, hessian, (seconds[0], seconds[1])


def pairs(args: argparse.Namespace, folder: Path, imatrix: Imatrix, path: Path) -> Iterator[Pair]:
    """Quantize both ways what is not there yet."""
    with HessianFile(path) as file, apex.open_gguf(args.model) as source:
        for name in [*args.types, *args.tiers]:
            plain, feedback = folder / f"{name}.gguf", folder / f"{name}.feedback.gguf"
            known = folder / f"{name}.json"
            if not known.exists():
                plan = planned(args, source, name, imatrix)
                seconds = []
                for output, hessian in ((plain, None), (feedback, file.hessian)):
                    started = time.perf_counter()
                    manifest = apex.quantize(
                        source, plan, output, imatrix=imatrix, hessian=hessian,
                        n_threads=args.threads, force=True,
                    )  # fmt: skip
                    seconds.append(time.perf_counter() - started)
                known.write_text(json.dumps(asdict(made(manifest, seconds))))
            yield Pair(name, plain, feedback, Made(**json.loads(known.read_text())))


def made(manifest: apex.QuantizeManifest, seconds: list[float]) -> Made:
    """What is kept of two runs, the manifest being that of error feedback."""
    errors = [tensor.outputs for tensor in manifest.tensors if tensor.outputs]
    return Made(
        plain=seconds[0],
        feedback=seconds[1],
        output_error=sum(e.ratio for e in errors) / max(len(errors), 1),
        kept=sum(e.n_kept for e in errors),
        slices=sum(e.n_slices for e in errors),
    )


def planned(
    args: argparse.Namespace, source: apex.GgufFile, name: str, imatrix: Imatrix
) -> apex.Plan:
    """Of a tier, or of one type."""
    if name in args.tiers:
        return apex.make_plan(source, tier=name, imatrix=imatrix)
    return apex.make_plan(source, like=uniform(source, name, args.ends), imatrix=imatrix)


def uniform(source: apex.GgufFile, name: str, ends: str) -> dict[str, apex.GgmlType]:
    """Every matrix that llama-quantize quantizes in one type, embeddings and output in another."""
    kept = apex.make_plan(source, ftype="Q8_0", pure=True)
    type = apex.GgmlType.parse(name)
    types = {t.name: type if t.type.is_quantized else t.type for t in kept.tensors}
    for end in {"token_embd.weight", "output.weight"} & types.keys() if ends else ():
        types[end] = apex.GgmlType.parse(ends)
    return types


def evaluate(args: argparse.Namespace, found: list[Pair], name: str, path: Path) -> list[str]:
    """A row for each pair on one text."""
    results = apex.evaluate(
        args.model,
        [path for pair in found for path in (pair.plain, pair.feedback)],
        Text(name, path.read_text(encoding="utf-8")),
        ctx=CTX, chunks=args.chunks, noise_chunks=0, router=False, n_threads=args.threads,
    ).results  # fmt: skip
    rows = []
    for i, pair in enumerate(found):
        plain, feedback = results.candidates[2 * i], results.candidates[2 * i + 1]
        low, high = interval(results.comparisons, plain.name, feedback.name)
        rows.append(row(pair.name, name, plain, feedback, low, high))
    return rows


def interval(comparisons: object, plain: str, feedback: str) -> tuple[float, float]:
    """Of the difference feedback - plain in mean KLD."""
    for item in comparisons:  # type: ignore[attr-defined]
        if item.metric == "kld_mean" and {item.first, item.second} == {plain, feedback}:
            return (item.low, item.high) if item.first == feedback else (-item.high, -item.low)
    raise LookupError(f"{plain} and {feedback} were not compared")


def row(
    recipe: str, text: str, plain: Candidate, feedback: Candidate, low: float, high: float
) -> str:
    """A line of the table."""
    assert plain.kld_mean
    assert feedback.kld_mean
    assert plain.kld_p999
    assert feedback.kld_p999
    change = feedback.kld_mean / plain.kld_mean - 1
    tail = feedback.kld_p999 / plain.kld_p999 - 1
    return (
        f"| {recipe} | {text} | {plain.kld_mean:.4f} | {feedback.kld_mean:.4f} | {change:+.1%} | "
        f"{low / plain.kld_mean:+.1%} … {high / plain.kld_mean:+.1%} | {plain.kld_p999:.3f} | "
        f"{feedback.kld_p999:.3f} | {tail:+.1%} |"
    )


def show_costs(found: list[Pair], collecting: tuple[float, float]) -> None:
    """Seconds, output errors and what kept ggml's bytes, recipe by recipe."""
    print("\n| recipe | plain, s | feedback, s | with collection | output error of ggml's | kept |")
    print("|---|---|---|---|---|---|")
    for pair in found:
        made = pair.made
        whole = (collecting[1] + made.feedback) / (collecting[0] + made.plain)
        print(
            f"| {pair.name} | {made.plain:.1f} | {made.feedback:.1f} | {whole:.2f} x | "
            f"{made.output_error:.3f} | {made.kept} of {made.slices} |"
        )
    print(f"\ncollection: {collecting[0]:.1f} s, with second moments {collecting[1]:.1f} s")


def show_divergence(args: argparse.Namespace, found: list[Pair]) -> None:
    """Text after text."""
    print("\n| recipe | text | ggml | feedback | mean | 95 % | ggml 99.9 % | feedback | tail |")
    print("|---|---|---|---|---|---|---|---|---|")
    for text in args.texts:
        label, _, file = text.partition("=")
        print("\n".join(evaluate(args, found, label, Path(file))), flush=True)


def parsed(description: str) -> argparse.Namespace:
    """The arguments of this script and of second_moment_order.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("texts", nargs="*", metavar="NAME=FILE")
    parser.add_argument("--model", type=Path, default=apex.demo_model())
    parser.add_argument("--folder", type=Path, help="keep files there, and use those that are")
    parser.add_argument("--types", nargs="*", default=[])
    parser.add_argument("--tiers", nargs="*", default=[])
    parser.add_argument("--ends", default="", help="type of embeddings and output, for --types")
    parser.add_argument(
        "--calibration",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="text files in the place of the built-in text",
    )
    parser.add_argument("--recipe", default="diverse", help="of the built-in text")
    parser.add_argument("--tokens", type=int, default=140000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=100, help="of each text")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Make the files, compute the texts, print the tables."""
    args = parsed(__doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        imatrix, hessian, collecting = collect(args, folder)
        found = list(pairs(args, folder, imatrix, hessian))
        show_costs(found, collecting)
        show_divergence(args, found)


if __name__ == "__main__":
    main()
