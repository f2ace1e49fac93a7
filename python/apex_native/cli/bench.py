"""``apex-native bench``: tokens per second of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from apex_native.cli import bench_kernels
from apex_native.cli.bench_options import (
    choice_list,
    number_list,
    pair_list,
    settings_errors,
    type_list,
)
from apex_native.cli.bench_progress import Show, bench_progress
from apex_native.cli.cache_option import warn_of_slow_caches
from apex_native.cli.compute_options import DeviceChoices
from apex_native.cli.model_file import loadable_models
from apex_native.cli.options import RUN, ForceOption, JsonOption, QuietOption, examples, spread
from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.evaluation.speed import ModelSpeed, ModelSpeedProgress, SpeedSettings

__all__ = ["register"]

TESTS = "Tests (lists: all combinations are run)"


def _list_option(*names: str, default: str, help: str) -> Any:
    return typer.Option(
        *names, metavar="LIST", show_default=default, help=help, rich_help_panel=TESTS
    )


@dataclass(frozen=True)
class TestChoices:
    """What to measure; names and defaults are llama-bench's."""

    prompt: Annotated[
        list[str] | None,
        _list_option("--n-prompt", "-p", default="512", help="Tokens read at once; 0: no test."),
    ] = None
    gen: Annotated[
        list[str] | None,
        _list_option("--n-gen", "-n", default="128", help="Tokens generated; 0: no test."),
    ] = None
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "-pg",
            metavar="P,N",
            rich_help_panel=TESTS,
            help="A test that reads P and then generates N; repeatable.",
        ),
    ] = None
    depth: Annotated[
        list[str] | None,
        _list_option("--n-depth", "-d", default="0", help="Tokens before the test, not timed."),
    ] = None
    batch: Annotated[
        list[str] | None,
        _list_option("--batch-size", "-b", default="2048", help="Tokens of one decode."),
    ] = None
    ubatch: Annotated[
        list[str] | None,
        _list_option("--ubatch-size", "-ub", default="512", help="Tokens computed at once."),
    ] = None
    type_k: Annotated[
        list[str] | None,
        _list_option("--type-k", "-ctk", default="f16", help="Types of the cache's keys."),
    ] = None
    type_v: Annotated[
        list[str] | None,
        _list_option("--type-v", "-ctv", default="f16", help="Types of the cache's values."),
    ] = None
    flash_attn: Annotated[
        list[str] | None,
        _list_option("--flash-attn", "-fa", default="auto", help="Flash attention: auto, on, off."),
    ] = None
    threads: Annotated[
        list[str] | None,
        _list_option("--threads", "-t", default="all", help="Numbers of threads."),
    ] = None

    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, metavar="N", help="Of each test.")
    ] = 5
    no_warmup: Annotated[
        bool, typer.Option("--no-warmup", help="Do not run each test once before.")
    ] = False
    beyond_context: Annotated[
        bool,
        typer.Option("--beyond-context", help="Allow tests longer than the context of the model."),
    ] = False

    def settings(self) -> tuple[SpeedSettings, ...]:
        """Every combination; usage errors for what cannot be."""
        from apex_native.engine import FlashAttention
        from apex_native.evaluation.speed import speed_grid
        from apex_native.machine import usable_threads
        from apex_native.types import GgmlType

        grid = speed_grid(
            prompts=number_list("-p", self.prompt, least=0) or (512,),
            gens=number_list("-n", self.gen, least=0) or (128,),
            pairs=pair_list("-pg", self.pairs),
            depths=number_list("-d", self.depth, least=0) or (0,),
            n_batch=number_list("-b", self.batch, least=1) or (2048,),
            n_ubatch=number_list("-ub", self.ubatch, least=1) or (512,),
            type_k=type_list("--type-k", self.type_k) or (GgmlType.F16,),
            type_v=type_list("--type-v", self.type_v) or (GgmlType.F16,),
            flash_attn=choice_list("--flash-attn", self.flash_attn, get_args(FlashAttention))
            or ("auto",),
            n_threads=number_list("--threads", self.threads, least=1) or (usable_threads(),),
            repetitions=self.repetitions,
            warm_up=not self.no_warmup,
            beyond_context=self.beyond_context,
        )
        if not grid:
            raise typer.BadParameter("there is nothing to measure; give -p, -n or -pg a length")
        return grid


@dataclass(frozen=True)
class OutputChoices:
    """Where results go besides the table."""

    jsonl: Annotated[
        Path | None,
        typer.Option(
            "--jsonl",
            metavar="PATH",
            help="Append a line for each test: machine, build, model, settings, all samples.",
        ),
    ] = None
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="PATH",
            help="Write a results file that `report` joins with evaluations of these models.",
        ),
    ] = None
    force: ForceOption = False


def register(app: typer.Typer) -> None:
    """Add the verb and its sibling for kernels."""
    app.command(
        "bench",
        short_help="Measure tokens per second.",
        epilog=examples(
            "apex-native bench model.gguf",
            "apex-native bench bf16.gguf quality.gguf mini.gguf -p 512,8192 -n 128",
            "apex-native bench model.gguf -t 8,16 --type-k f16,q8_0 --type-v f16 -d 0,4096",
            "apex-native bench kernels --help",
        ),
    )(spread(bench))
    bench_kernels.register(app)


def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="GGUF files; or: kernels.")
    ],
    tests: TestChoices,
    devices: DeviceChoices,
    outputs: OutputChoices,
    no_repack: Annotated[
        bool,
        typer.Option(
            "--no-repack", rich_help_panel=RUN, help="Leave weights as the file has them."
        ),
    ] = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast models read and generate, by the procedure of llama-bench.

    `apex-native bench kernels` measures the types instead of models.
    """
    from apex_native import api
    from apex_native.engine import Placement
    from apex_native.evaluation.speed import speed_record

    out = Output(json_mode=json_mode, quiet=quiet)
    files = loadable_models(out, models)
    settings = tests.settings()
    n_threads = settings[0].n_threads
    placement = Placement(n_threads=n_threads, repack=not no_repack, **devices.settings())
    warn_of_slow_caches(out, [(s.type_k, s.type_v) for s in settings], on_gpu=placement.on_gpu)
    finished: dict[str, ModelSpeed] = {}

    def keep(speed: ModelSpeed) -> None:
        finished[speed.name] = speed

    try:
        with bench_progress(out) as show, settings_errors():
            api.bench(
                files,
                settings,
                placement=placement,
                jsonl=outputs.jsonl,
                results=outputs.results,
                force=outputs.force,
                progress=_progress(show),
                finished=keep,
            )
    finally:
        if finished:
            _show(out, list(finished.values()))
    records = [speed_record(speed, r) for speed in finished.values() for r in speed.results]
    out.document({"tests": records})
    if outputs.results is not None:
        out.text(f"wrote {outputs.results}")


def _show(out: Output, finished: Sequence[ModelSpeed]) -> None:
    out.table(_table(finished))
    for speed in finished:
        if not all(result.is_finite for result in speed.results):
            out.warning(
                f"{speed.name}: computes logits that are not finite; how fast is measured, what it "
                "says is worth nothing. `eval` says more"
            )


def _progress(show: Show | None) -> Callable[[ModelSpeedProgress], None] | None:
    if show is None:
        return None

    def progress(state: ModelSpeedProgress) -> None:
        label = f"{state.model} {state.test.test} ({state.number}/{state.n_tests})"
        show(label, state.test.tokens_done / max(state.test.n_tokens, 1), state.test.eta_s)

    return progress


def _table(finished: Sequence[ModelSpeed]) -> Table:
    columns = (
        Column("model", wraps=True),
        Column("GiB", right=True, drop=3),
        Column("test", wraps=True),
        Column("threads", right=True, drop=2),
        Column("batch", right=True, drop=5),
        Column("K, V", drop=4),
        Column("flash", drop=4),
        Column("tokens/s", right=True),
        Column("spread", right=True, drop=1),
    )
    return Table(columns, list(_rows(finished)))


def _rows(finished: Sequence[ModelSpeed]) -> Iterator[tuple[str, ...]]:
    for tested in finished:
        for result in tested.results:
            settings = result.settings
            yield (
                tested.name,
                f"{tested.model.source.nbytes / (1 << 30):.3f}",
                settings.test,
                str(settings.n_threads),
                f"{settings.n_batch}/{settings.n_ubatch}",
                f"{settings.type_k.name}, {settings.type_v.name}".lower(),
                settings.flash_attn or "auto",
                f"{result.median:,.2f}",
                f"{result.spread:.1%}",
            )
