"""Types of the KV cache: what they cost in KL divergence beside the weights, and in speed.

    python bench/kv_cache.py quality MODEL.gguf TEXT [--contexts 512,2048,4096]
        [--positions 6144] [--pairs q8_0/q8_0,...] [--tiers i-quality,mini] [--both q8_0/turbo3]
        [--unrotated] [--threads N] [--json PATH]
    python bench/kv_cache.py speed [--model OUT.gguf] [--experts 32] [--pairs ...]
        [--depths 0,8192,32768] [--repetitions 3] [--gpu-layers -1] [--json PATH]
    python bench/kv_cache.py attention [--device cuda] [--cells 8192,32768] [--queries 1,512]
        [--pairs ...] [--rounds 3] [--repetitions 30] [--json PATH]

quality: the reference is the model itself with an F16 cache; every context is one evaluation of all
pairs, of tiers of the model (quantized in memory, with the demo model's importance matrix) with an
F16 cache, and of these tiers with the pair --both, on the same positions. --unrotated repeats the
first context with llama.cpp's rotation switched off. Intervals are 1.96 standard errors. The demo
model was made for 4096 tokens, and no longer context is evaluated.

speed: wide_model.py's, Qwen3.5-35B-A3B by widths, all 40 layers of which 10 have a cache (2 heads
of 256), with fewer experts so that it is written and loaded in seconds: a token goes to 8 as in the
whole model. Prompt pp8192, and tg128 behind each depth; pairs take turns. Ratios are to q8_0/q8_0.

attention: that model's attention by itself, 10 layers of it in one computation, so that a busy host
does not count: the median over rounds in which pairs take turns.

Prints tables, and a line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from apex_native._native import core
from apex_native.demo import demo_imatrix
from apex_native.engine import Placement, has_gpu
from apex_native.evaluation import ModelUnderTest, PlannedModel, Text
from apex_native.evaluation.speed import SpeedSettings
from apex_native.imatrix import load_imatrix
from apex_native.machine import cpu_name
from apex_native.types import GgmlType
from wide_model import WideModel, write_wide_model

QUALITY_PAIRS = (
    "q8_0/q8_0,q8_0/q5_0,q8_0/q4_0,q8_0/turbo4,q8_0/turbo3,q8_0/turbo2,q4_0/q4_0,turbo4/turbo4,"
    "turbo3/q8_0,turbo3/turbo3"
)
SPEED_PAIRS = "f16/f16,q8_0/q8_0,q8_0/q4_0,q8_0/turbo4,q8_0/turbo3"
UNROTATED_PAIRS = ("q8_0/q4_0", "q8_0/turbo4", "q8_0/turbo3", "q8_0/turbo2")
Z95 = 1.96
LAYERS = 10
"""With a cache, of 40."""


@dataclass(frozen=True)
class Quality:
    """One candidate at one context; bits: of a cached value, mean of keys and values."""

    ctx: int
    name: str
    weights: str
    pair: str
    bits: float
    rotated: bool
    kld: float
    half_width: float
    same_top: float
    positions: int


@dataclass(frozen=True)
class Speed:
    """Tokens per second: median of the repetitions, and (slowest - fastest) / median."""

    test: str
    pair: str
    tokens_per_second: float
    spread: float
    ratio: float


def types_of(pair: str) -> tuple[GgmlType, GgmlType]:
    key, value = pair.split("/")
    return GgmlType.parse(key), GgmlType.parse(value)


def bits_of(pair: str) -> float:
    return sum(type.bpw for type in types_of(pair)) / 2


@dataclass(frozen=True)
class Attention:
    """Microseconds of one layer, median and (slowest - fastest) / median of the rounds' medians."""

    cells: int
    queries: int
    pair: str
    microseconds: float
    spread: float
    ratio: float


# --- quality --------------------------------------------------------------------------------------


def quality(args: argparse.Namespace) -> list[Quality]:
    rows: list[Quality] = []
    text = Path(args.text).read_text("utf-8", errors="ignore")
    pairs = [pair for pair in args.pairs.split(",") if pair]
    for ctx in map(int, args.contexts.split(",")):
        models = list(candidates(args, pairs))
        rows += evaluate(args, text, ctx, models, rotated=True) if models else []
    if args.unrotated:
        # For measurements only: csrc/model/cache_types.cpp refuses it otherwise.
        os.environ.update(LLAMA_ATTN_ROT_DISABLE="1", APEX_TURBO_UNROTATED="1")
        ctx = int(args.contexts.split(",")[0])
        models = [
            (p, "source", under_test(args.model, p, f"{p}, unrotated")) for p in UNROTATED_PAIRS
        ]
        rows += evaluate(args, text, ctx, models, rotated=False)
    return rows


def under_test(source: str | PlannedModel, pair: str, label: str) -> ModelUnderTest:
    type_k, type_v = types_of(pair)
    return ModelUnderTest(source, type_k=type_k, type_v=type_v, label=label)


def candidates(
    args: argparse.Namespace, pairs: list[str]
) -> Iterator[tuple[str, str, ModelUnderTest]]:
    """(pair, weights, model) of all that one evaluation holds."""
    for pair in pairs:
        yield pair, "source", under_test(args.model, pair, pair)
    for tier in filter(None, args.tiers.split(",")):
        imatrix = load_imatrix(demo_imatrix())
        plan = apex.make_plan(args.model, tier=tier, imatrix=imatrix)
        weights = PlannedModel(args.model, plan, imatrix=imatrix, n_threads=args.threads)
        yield "f16/f16", tier, under_test(weights, "f16/f16", tier)
        for pair in filter(None, args.both.split(",")):
            yield pair, tier, under_test(weights, pair, f"{tier}, {pair}")


def evaluate(
    args: argparse.Namespace,
    text: str,
    ctx: int,
    models: list[tuple[str, str, ModelUnderTest]],
    *,
    rotated: bool,
) -> list[Quality]:
    found = apex.evaluate(
        args.model,
        [model for _, _, model in models],
        Text("text", text),
        ctx=ctx,
        chunks=max(1, 2 * args.positions // ctx),
        noise_chunks=0,
        router=False,
        placement=Placement(n_threads=args.threads, n_gpu_layers=args.gpu_layers),
    ).results
    rows = []
    for (pair, weights, _), candidate in zip(models, found.candidates, strict=True):
        assert candidate.kld_mean is not None
        assert candidate.kld_se is not None
        assert candidate.same_top is not None
        rows.append(
            Quality(ctx, candidate.name, weights, pair, bits_of(pair), rotated, candidate.kld_mean,
                    Z95 * candidate.kld_se, candidate.same_top, len(found_positions(found, ctx)))
        )  # fmt: skip
        print(line_of(rows[-1]), flush=True)
    return rows


def found_positions(found: apex.results.Results, ctx: int) -> range:
    """Positions that were scored: the second half of each chunk, less its first token."""
    assert found.data is not None
    return range(found.data.n_chunks * (ctx - 1 - ctx // 2))


def line_of(row: Quality) -> str:
    return (
        f"| {row.ctx} | {row.weights} | {row.pair}{'' if row.rotated else ', unrotated'} "
        f"| {row.bits:.3f} | {row.kld:.5f} ± {row.half_width:.5f} | {100 * row.same_top:.2f} % |"
    )


# --- speed ----------------------------------------------------------------------------------------


def speed(args: argparse.Namespace) -> list[Speed]:
    path = Path(args.model)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = WideModel(n_layers=args.layers, n_experts=args.experts)
        write_wide_model(path, model, tokenizer=apex.demo_model())
    pairs = args.pairs.split(",")
    tests = [
        settings(args, pair, n_prompt, n_gen, depth)
        for n_prompt, n_gen, depth in shapes(args)
        for pair in pairs
    ]
    (measured,) = apex.bench([path], tests, placement=Placement(n_gpu_layers=args.gpu_layers))
    rows: list[Speed] = []
    for result in measured.results:
        used = result.settings
        pair = f"{used.type_k.name}/{used.type_v.name}".lower()
        rows.append(Speed(used.test, pair, result.median, result.spread, 0.0))
    base = {row.test: row.tokens_per_second for row in rows if row.pair == "q8_0/q8_0"}
    rows = [Speed(**{**asdict(r), "ratio": r.tokens_per_second / base[r.test]}) for r in rows]
    print("| test | K/V | tokens/s | spread | to q8_0/q8_0 |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.test} | {row.pair} | {row.tokens_per_second:.1f} | {100 * row.spread:.1f} % "
            f"| {row.ratio:.3f} |"
        )
    return rows


def shapes(args: argparse.Namespace) -> Iterator[tuple[int, int, int]]:
    yield args.prompt, 0, 0
    for depth in map(int, args.depths.split(",")):
        yield 0, 128, depth


def settings(
    args: argparse.Namespace, pair: str, n_prompt: int, n_gen: int, depth: int
) -> SpeedSettings:
    type_k, type_v = types_of(pair)
    return SpeedSettings(
        args.threads, n_prompt=n_prompt, n_gen=n_gen, n_depth=depth, n_ubatch=args.ubatch,
        type_k=type_k, type_v=type_v, repetitions=args.repetitions, beyond_context=True,
    )  # fmt: skip


# --- attention ------------------------------------------------------------------------------------


def attention(args: argparse.Namespace) -> list[Attention]:
    rows = []
    print("| cells | queries | K/V | µs a layer | spread | speed to q8_0/q8_0 |")
    print("|---|---|---|---|---|---|")
    for cells in map(int, args.cells.split(",")):
        for queries in map(int, args.queries.split(",")):
            rows += attention_rows(args, cells, queries)
    return rows


def attention_rows(args: argparse.Namespace, cells: int, queries: int) -> list[Attention]:
    """Of all pairs at one shape."""
    taken: dict[str, list[float]] = {pair: [] for pair in args.pairs.split(",")}
    for _ in range(args.rounds):
        for pair, medians in taken.items():
            type_k, type_v = types_of(pair)
            samples = core.time_cache_attention(
                args.device, type_k.id, type_v.id, head_size=256, n_heads=16, n_kv_heads=2,
                n_cells=cells, n_queries=queries, n_layers=LAYERS, repetitions=args.repetitions,
            )  # fmt: skip
            medians.append(statistics.median(samples) / LAYERS * 1e6)
    base = statistics.median(taken["q8_0/q8_0"])
    rows = []
    for pair, medians in taken.items():
        median = statistics.median(medians)
        spread = (max(medians) - min(medians)) / median
        rows.append(Attention(cells, queries, pair, median, spread, base / median))
        print(
            f"| {cells} | {queries} | {pair} | {median:.1f} | {100 * spread:.1f} % "
            f"| {base / median:.3f} |",
            flush=True,
        )
    return rows


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("quality")
    one.add_argument("model")
    one.add_argument("text")
    one.add_argument("--contexts", default="512,2048,4096")
    one.add_argument("--positions", type=int, default=6144, help="scored at each context, about")
    one.add_argument("--pairs", default=QUALITY_PAIRS)
    one.add_argument("--tiers", default="i-quality,i-balanced,i-compact,mini")
    one.add_argument("--both", default="q8_0/turbo3")
    one.add_argument("--unrotated", action="store_true")
    one.add_argument("--gpu-layers", type=int, default=0)
    two = steps.add_parser("speed")
    two.add_argument("--model", default="/dev/shm/kv-cache-35b.gguf")
    two.add_argument("--layers", type=int, default=40)
    two.add_argument("--experts", type=int, default=32)
    two.add_argument("--pairs", default=SPEED_PAIRS)
    two.add_argument("--prompt", type=int, default=8192)
    two.add_argument("--depths", default="0,8192,32768")
    two.add_argument("--ubatch", type=int, default=2048)
    two.add_argument("--repetitions", type=int, default=3)
    two.add_argument("--gpu-layers", type=int, default=-1)
    three = steps.add_parser("attention")
    three.add_argument("--device", default="cuda")
    three.add_argument("--cells", default="8192,32768")
    three.add_argument("--queries", default="1,512")
    three.add_argument("--pairs", default=SPEED_PAIRS)
    three.add_argument("--rounds", type=int, default=3)
    three.add_argument("--repetitions", type=int, default=30)
    for step in (one, two, three):
        step.add_argument("--threads", type=int, default=os.cpu_count() or 1)
        step.add_argument("--json", type=Path, help="append the figures to this file")
    return parser.parse_args()


STEPS: dict[str, Callable[[argparse.Namespace], Sequence[Quality | Speed | Attention]]] = {
    "quality": quality,
    "speed": speed,
    "attention": attention,
}


def main() -> None:
    args = parsed()
    rows: Sequence[Quality | Speed | Attention] = STEPS[args.step](args)
    figures = {
        "step": args.step,
        "commit": core.build_info()["llama_cpp_commit"],
        "cpu": cpu_name(),
        "gpu": has_gpu(),
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(figures))
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
