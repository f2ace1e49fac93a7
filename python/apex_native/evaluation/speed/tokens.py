"""Tokens per second of a loaded model, by the procedure of llama-bench.

Input: a model and what to measure. Output: a `SpeedResult` with every repetition. The loop that is
timed runs in `csrc/bench/speed.cpp`, without Python and with the GIL released.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from apex_native._native import core, forward_log
from apex_native.engine import FlashAttention, Model
from apex_native.evaluation.speed.samples import median_of, spread_of
from apex_native.interrupt import run_interruptible
from apex_native.types import GgmlType

__all__ = ["SpeedProgress", "SpeedResult", "SpeedSettings", "measure_speed", "speed_grid"]


@dataclass(frozen=True, slots=True)
class SpeedSettings:
    """One test: read n_prompt tokens at once, then generate n_gen one at a time.

    Both come after n_depth tokens that are not timed. Batch sizes are in tokens; type_k and type_v
    are those of the KV cache; flash_attn is how attention is computed, None as the model was
    loaded. beyond_context allows tests longer than the context that the model
    was made for: the speed there is real, a text would not be. Other defaults are llama-bench's,
    which always allows it.
    """

    n_threads: int
    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: GgmlType = GgmlType.F16
    type_v: GgmlType = GgmlType.F16
    flash_attn: FlashAttention | None = None
    repetitions: int = 5
    warm_up: bool = True
    beyond_context: bool = False

    def native(self) -> Any:
        """What the extension takes. ValueError for a number out of range."""
        return core.SpeedOptions(
            n_prompt=_count("n_prompt", self.n_prompt),
            n_gen=_count("n_gen", self.n_gen),
            n_depth=_count("n_depth", self.n_depth),
            n_batch=_count("n_batch", self.n_batch, least=1),
            n_ubatch=_count("n_ubatch", self.n_ubatch, least=1),
            type_k=self.type_k.id,
            type_v=self.type_v.id,
            n_threads=_count("n_threads", self.n_threads, least=1),
            repetitions=_count("repetitions", self.repetitions, least=1),
            warm_up=self.warm_up,
            beyond_context=self.beyond_context,
        )

    @property
    def test(self) -> str:
        """As llama-bench names it: pp512, tg128, pp512+tg128, tg128 @ d4096."""
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def n_tokens(self) -> int:
        """Tokens that are timed in each repetition."""
        return self.n_prompt + self.n_gen


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """The repetitions of a test in the order they were run, in nanoseconds.

    is_finite: the last logits were numbers; those of broken weights come as fast as others.
    """

    settings: SpeedSettings
    samples_ns: tuple[int, ...]
    is_finite: bool = True

    @property
    def samples(self) -> tuple[float, ...]:
        """Tokens per second of each repetition: timed tokens over its time."""
        return tuple(1e9 * self.settings.n_tokens / ns for ns in self.samples_ns)

    @property
    def median(self) -> float:
        """Tokens per second, the median of `samples`."""
        return median_of(self.samples)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median of `samples`."""
        return spread_of(self.samples)


@dataclass(frozen=True, slots=True)
class SpeedProgress:
    """How far one test is, in tokens computed: warm-up, depth and all repetitions."""

    test: str
    tokens_done: int
    n_tokens: int
    elapsed_s: float

    @property
    def eta_s(self) -> float | None:
        """Seconds this test will go on at its speed so far; None before the first tokens."""
        if self.tokens_done == 0:
            return None
        return self.elapsed_s * (self.n_tokens - self.tokens_done) / self.tokens_done


@dataclass
class _Watch:
    """Reads a running test's counters for a progress callback."""

    test: str
    callback: Callable[[SpeedProgress], None]
    start: float = field(default_factory=time.monotonic)

    def show(self, done: int, total: int) -> None:
        self.callback(SpeedProgress(self.test, done, total, time.monotonic() - self.start))


def measure_speed(
    model: Model,
    settings: SpeedSettings,
    *,
    progress: Callable[[SpeedProgress], None] | None = None,
) -> SpeedResult:
    """Run one test; Ctrl-C is heard between the operations of a graph.

    As llama-bench: a context as large as the test, a run to warm up, and for each repetition an
    emptied memory, random tokens (seeded: the same in every call), batches of n_batch with logits
    for the last token, one token a decode in generation. Raises ValueError for settings that make
    no test, exceed the model's context or name a type that no KV cache has, ModelError with
    llama.cpp's reason where it cannot make the context.
    """
    stop = core.StopFlag()
    native = run_interruptible(
        lambda: core.SpeedTest(
            model.native, settings.native(), flash_attn=settings.flash_attn, stop=stop
        ),
        stop.set,
    )
    watch = _Watch(settings.test, progress) if progress is not None else None
    tick = None if watch is None else lambda: watch.show(native.tokens_done, native.n_tokens)
    samples = run_interruptible(native.run, stop.set, tick)
    forward_log()
    return SpeedResult(settings, tuple(samples), native.is_finite)


def _count(name: str, value: int, *, least: int = 0) -> int:
    if not least <= value < 2**31:
        raise ValueError(f"{name}: expected {least} to {2**31 - 1}, found {value}")
    return value


def speed_grid(
    *,
    prompts: Sequence[int] = (512,),
    gens: Sequence[int] = (128,),
    pairs: Sequence[tuple[int, int]] = (),
    depths: Sequence[int] = (0,),
    n_batch: Sequence[int] = (2048,),
    n_ubatch: Sequence[int] = (512,),
    type_k: Sequence[GgmlType] = (GgmlType.F16,),
    type_v: Sequence[GgmlType] = (GgmlType.F16,),
    flash_attn: Sequence[FlashAttention | None] = (None,),
    n_threads: Sequence[int],
    repetitions: int = 5,
    warm_up: bool = True,
    beyond_context: bool = False,
) -> tuple[SpeedSettings, ...]:
    """All combinations, in llama-bench's order; a length of 0 leaves that test out.

    prompts, gens: lengths of tests that only read or only generate; pairs: (read, generate) of
    tests that do both.
    """

    def lengths() -> Iterator[tuple[int, int]]:
        yield from ((n, 0) for n in prompts)
        yield from ((0, n) for n in gens)
        yield from pairs

    rows = itertools.product(
        n_batch, n_ubatch, type_k, type_v, flash_attn, n_threads, depths, lengths()
    )
    return tuple(
        SpeedSettings(
            n_threads=threads,
            n_prompt=prompt,
            n_gen=gen,
            n_depth=depth,
            n_batch=batch,
            n_ubatch=ubatch,
            type_k=k,
            type_v=v,
            flash_attn=flash,
            repetitions=repetitions,
            warm_up=warm_up,
            beyond_context=beyond_context,
        )
        for batch, ubatch, k, v, flash, threads, depth, (prompt, gen) in rows
        if (prompt, gen) != (0, 0)
    )
