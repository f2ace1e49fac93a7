"""Every verb at the size of a real model, beside llama.cpp's programs where they do the same.

    python bench/real_size.py --tools DIR [--layers 40] [--folder /dev/shm/real] [--gpu-layers N]
        [--threads N] [--only plain,imatrix,evaluate,job,gpus] [--repeat 1] [--spill FOLDER]
        [--json PATH]

The model is wide_model.py's: Qwen3.5-35B-A3B by widths, F16, random weights. tools: a folder with
llama-imatrix and llama-bench of a build of the same source.

Whole processes are timed. What loading takes is timed too, by processes that load the same files
and end; "beyond loading" is a process' time less that, and of evaluations less what runs of 8 and
of all chunks, in the same mode, say that a process takes for no chunk. plain: prompt rates by
llama-bench, 2,048 tokens at once. llama-imatrix beyond loading: the difference of two runs. host:
the peak of a process' own memory, sampled, without pages of files. job: what a publisher does, one
process after the other; the four files take 70 GiB beside the model's 65, half of which --spill may
take. gpus: reference and three candidates side by side on all GPUs, beside the reference alone on
one GPU and beside all four on one. Prints a table, and a line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from apex_native.demo_text import demo_text
from apex_native.engine import load_model
from apex_native.machine import cpu_name
from apex_native.quantization import list_gpus
from wide_model import WideModel, write_wide_model

CTX = 512
TIERS = ("i-quality", "i-balanced", "i-compact", "mini")
TWO = ("i-quality", "mini")
MODES: dict[str, tuple[str, ...]] = {
    "lockstep alone": ("--noise-chunks", "0", "--no-router"),
    "lockstep with noise floor and routers": (),
    "two passes": ("--two-pass",),
}
SAME_WORK = "lockstep with noise floor and routers"
FEW_CHUNKS = 8
JOB_IMATRIX_CHUNKS = 98
"""50,176 tokens."""

JOB_EVAL_CHUNKS = 100
TOGETHER = 2048
"""llama.cpp's tokens at once, in llama-bench and llama-imatrix."""


@dataclass(frozen=True)
class Run:
    """A finished process."""

    seconds: float
    host_gib: float
    stdout: str


@dataclass(frozen=True)
class Row:
    """One line of the table; ratio is ours to the one named in `beside`."""

    what: str
    value: float
    unit: str
    spread: float | None = None
    beside: str = ""
    ratio: float | None = None
    host_gib: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", type=Path)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--type", choices=("F16", "BF16"), default="F16")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/real"))
    parser.add_argument("--spill", type=Path, help="for two of the four quantized files")
    parser.add_argument("--gpu-layers", default="-1")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="plain,imatrix,evaluate,job")
    parser.add_argument("--imatrix-chunks", type=int, default=JOB_IMATRIX_CHUNKS)
    parser.add_argument("--eval-chunks", type=int, default=40)
    parser.add_argument("--tool-chunks", type=int, default=8, help="of llama-imatrix")
    parser.add_argument("--load", type=Path, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append the figures to this file")
    args = parser.parse_args()
    if args.load:
        models = [load_model(path, n_gpu_layers=int(args.gpu_layers)) for path in args.load]
        return 0 if models else 1
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    for step in args.only.split(","):
        try:
            getattr(bench, step)()
        except ProcessError as error:
            bench.failed = True
            print(f"{step}: {error}", flush=True)
    figures = {"machine": bench.machine(), "layers": args.layers, "type": args.type,
               "gpu_layers": args.gpu_layers, "threads": args.threads,
               "rows": [asdict(row) for row in bench.rows]}  # fmt: skip
    print(json.dumps(figures))
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
    return 1 if bench.failed else 0


class ProcessError(Exception):
    pass


class Bench:
    """The model, what was made of it, and the rows so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.rows: list[Row] = []
        self.failed = False
        self.on_gpu = args.gpu_layers != "0"
        self.model = args.folder / f"real-{args.layers}-{args.type.lower()}.gguf"
        if not self.model.exists():
            begin = time.perf_counter()
            widths = WideModel(n_layers=args.layers, type=args.type)
            write_wide_model(self.model, widths, tokenizer=Path(apex.demo_model()))
            print(f"{self.model}: {self.model.stat().st_size / 2**30:.1f} GiB, written in "
                  f"{time.perf_counter() - begin:.0f} s", flush=True)  # fmt: skip
        self.text = args.folder / "text.txt"
        self.text.write_text(demo_text(400_000, seed=3), encoding="utf-8")
        self.matrix = args.folder / "imatrix.gguf"
        self._plain: dict[Path, float] = {}
        self._loading: dict[tuple[Path, ...], float] = {}
        print("| what | | unit | spread | beside | ratio | host GiB |")
        print("|---|---|---|---|---|---|---|", flush=True)

    def machine(self) -> dict[str, str]:
        """What computed."""
        gpus = ""
        if self.on_gpu:
            command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            gpus = ", ".join(done.stdout.split("\n")[:-1])
        return {"cpu": cpu_name(), "gpus": gpus}

    def add(self, what: str, value: float, unit: str, **more: object) -> None:
        row = Row(what, value, unit, **more)  # type: ignore[arg-type]
        self.rows.append(row)
        value_text = f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
        cells = (what, value_text, unit, _optional(row.spread, "{:.0%}"), row.beside,
                 _optional(row.ratio, "{:.2f}"), _optional(row.host_gib, "{:.1f}"))  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)

    # --- prompts and loading --------------------------------------------------------------------

    def plain(self) -> None:
        for path in (self.model, *self.two_candidates()):
            self.plain_rate(path)

    def plain_rate(self, model: Path) -> float:
        """Tokens a second of the prompt alone, by llama-bench; nan without it."""
        if model not in self._plain and self.args.tools is not None:
            done = self.tool("llama-bench", "-m", model, "-p", TOGETHER, "-n", "0", "-b", TOGETHER,
                             "-ub", TOGETHER, "-r", "3", "-o", "json")  # fmt: skip
            self._plain[model] = float(json.loads(done.stdout)[0]["avg_ts"])
            self.add(f"llama-bench pp{TOGETHER} of {model.name}", self._plain[model], "tokens/s")
        return self._plain.get(model, float("nan"))

    def loading(self, *models: Path) -> float:
        """Seconds of a process that loads them and ends."""
        if models not in self._loading:
            layers = self.args.gpu_layers
            run = _timed([sys.executable, __file__, "--load", *map(str, models), "--gpu-layers",
                          layers])  # fmt: skip
            self._loading[models] = run.seconds
            gib = sum(path.stat().st_size for path in models) / 2**30
            self.add(f"loading {len(models)} files, {gib:.1f} GiB", run.seconds, "s",
                     beside="GiB/s", ratio=gib / run.seconds, host_gib=run.host_gib)  # fmt: skip
        return self._loading[models]

    # --- importance matrix ----------------------------------------------------------------------

    def imatrix(self) -> None:
        tokens = self.args.imatrix_chunks * CTX
        runs = [self._collect(self.args.imatrix_chunks) for _ in range(self.args.repeat)]
        loading = self.loading(self.model)
        rates = [tokens / (run.seconds - loading) for run in runs]
        rate, plain = statistics.median(rates), self.plain_rate(self.model)
        self.add(f"importance matrix, {tokens:,} tokens beyond loading", rate, "tokens/s",
                 spread=_spread(rates), beside=f"plain prompt rate {plain:,.0f}",
                 ratio=rate / plain, host_gib=runs[0].host_gib)  # fmt: skip
        if self.args.tools is None:
            return
        n = self.args.tool_chunks
        short, long = self._collect_llama(n), self._collect_llama(3 * n)
        theirs = 2 * n * CTX / (long.seconds - short.seconds)
        self.add("the same", rate, "tokens/s", beside=f"llama-imatrix {theirs:,.0f}",
                 ratio=rate / theirs)  # fmt: skip

    def _collect(self, chunks: int) -> Run:
        return self.apex("imatrix", self.model, "-f", self.text, "--chunks", chunks, "-o",
                         self.matrix, "--force", *self.compute())  # fmt: skip

    def _collect_llama(self, chunks: int) -> Run:
        return self.tool("llama-imatrix", "-m", self.model, "-f", self.text, "-o",
                         self.args.folder / "theirs.gguf", "-c", CTX, "-b", TOGETHER, "-ub",
                         TOGETHER, "--no-ppl", "--chunks", chunks)  # fmt: skip

    # --- files ----------------------------------------------------------------------------------

    def candidate(self, tier: str) -> Path:
        spilled = self.args.spill is not None and tier not in TWO
        folder: Path = self.args.spill if spilled else self.args.folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{tier}.gguf"

    def two_candidates(self) -> list[Path]:
        """A large and a small one, made where they are not there."""
        for tier in TWO:
            if not self.candidate(tier).exists():
                if not self.matrix.exists():
                    self._collect(self.args.imatrix_chunks)
                self._quantize(tier)
        return [self.candidate(tier) for tier in TWO]

    def _quantize(self, tier: str) -> Run:
        device = ("--device", "cuda") if self.on_gpu else ("--threads", self.args.threads)
        return self.apex("quantize", self.model, "--tier", tier, "--imatrix", self.matrix, "-o",
                         self.candidate(tier), "--force", *device)  # fmt: skip

    # --- scores ---------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Beyond what starting and loading take, by runs of every mode with few chunks."""
        candidates = self.two_candidates()
        n = self.args.eval_chunks
        runs: dict[tuple[str, int], list[Run]] = {}
        for _ in range(self.args.repeat):
            for name, mode in MODES.items():
                for chunks in (FEW_CHUNKS, n):
                    run = self._evaluate(candidates, chunks, mode)
                    runs.setdefault((name, chunks), []).append(run)
        beyond: dict[str, list[float]] = {}
        for name in MODES:
            few, whole = ([run.seconds for run in runs[name, k]] for k in (FEW_CHUNKS, n))
            share = n / (n - FEW_CHUNKS)
            beyond[name] = [(b - a) * share for a, b in zip(few, whole, strict=True)]
            fixed = statistics.median(whole) - statistics.median(beyond[name])
            self.add(f"{name}: starting and loading, reference + 2", fixed, "s")
        tokens, models = n * CTX, (self.model, *candidates)
        others = {"sum of the plain prompt times": sum(tokens / self.plain_rate(m) for m in models)}
        others |= {name: statistics.median(beyond[name]) for name in ("lockstep alone", SAME_WORK)}
        for name in MODES:
            middle = statistics.median(beyond[name])
            for beside, other in others.items():
                self.add(f"{name}, reference + 2, {tokens:,} tokens beyond loading", middle, "s",
                         spread=_spread(beyond[name]), beside=f"{beside} {other:.1f} s",
                         ratio=middle / other, host_gib=runs[name, n][0].host_gib)  # fmt: skip

    def _evaluate(self, candidates: Sequence[Path], chunks: int, mode: Sequence[str]) -> Run:
        return self.apex("eval", "-r", self.model, *candidates, "-f", self.text, "--chunks", chunks,
                         "-o", self.args.folder / "eval.json", "--force", *mode,
                         *self.compute())  # fmt: skip

    # --- several GPUs ---------------------------------------------------------------------------

    def gpus(self) -> None:
        """Wall time of 100 chunks beyond loading: the difference of two runs."""
        candidates = self._made(("i-quality", "i-compact", "mini"))
        one, n_gpus = {"CUDA_VISIBLE_DEVICES": "0"}, len(list_gpus())
        alone = self._hundred_chunks("the reference alone, one GPU", (), one)
        for name, variables in ((f"{n_gpus} GPUs", {}), ("one GPU", one)):
            seconds = self._hundred_chunks(f"reference + 3, {name}", candidates, variables)
            self.add(f"reference + 3 on {name}, 51,200 tokens", seconds, "s",
                     beside=f"reference alone {alone:.1f} s", ratio=seconds / alone)  # fmt: skip
        names = (f"reference + 3, {n_gpus} GPUs", "reference + 3, one GPU")
        found = {name: _divergences(self.args.folder / f"{name}.json") for name in names}
        print(f"divergences: {found}", flush=True)

    def _hundred_chunks(
        self, name: str, candidates: Sequence[Path], variables: Mapping[str, str]
    ) -> float:
        if candidates:
            models: list[object] = ["-r", self.model, *candidates]
        else:
            models = [self.model]
        seconds = []
        for chunks in (8, 108):
            run = self.apex("eval", *models, "-f", self.text, "--chunks", chunks, "-o",
                            self.args.folder / f"{name}.json", "--force", *MODES["lockstep alone"],
                            *self.compute(), variables=variables)  # fmt: skip
            seconds.append(run.seconds)
        self.add(f"{name}: 8 chunks and loading", seconds[0], "s")
        return seconds[1] - seconds[0]

    def _made(self, tiers: Sequence[str]) -> list[Path]:
        for tier in tiers:
            if not self.candidate(tier).exists():
                if not self.matrix.exists():
                    self._collect(8)
                self._quantize(tier)
        return [self.candidate(tier) for tier in tiers]

    # --- all of it ------------------------------------------------------------------------------

    def job(self) -> None:
        files = [self.candidate(tier) for tier in TIERS]
        runs = {"importance matrix of 50,000 tokens": self._collect(JOB_IMATRIX_CHUNKS)}
        print(f"job: matrix after {next(iter(runs.values())).seconds:.0f} s", file=sys.stderr)
        for tier, path in zip(TIERS, files, strict=True):
            run = self._quantize(tier)
            runs[f"quantize {tier}, {path.stat().st_size / 2**30:.1f} GiB"] = run
            print(f"job: {tier} after {run.seconds:.0f} s", file=sys.stderr, flush=True)
        mode = self._mode(files)
        name = f"evaluate all four on {JOB_EVAL_CHUNKS} chunks{' in two passes' if mode else ''}"
        runs[name] = self._evaluate(files, JOB_EVAL_CHUNKS, mode)
        whole = sum(run.seconds for run in runs.values())
        for name, run in runs.items():
            self.add(f"job: {name}", run.seconds, "s", beside="share of the job",
                     ratio=run.seconds / whole, host_gib=run.host_gib)  # fmt: skip
        self.add("job: the whole", whole, "s")

    def _mode(self, candidates: Sequence[Path]) -> tuple[str, ...]:
        """Two passes where the GPUs do not hold all models at once, with a tenth for buffers."""
        if not self.on_gpu:
            return ()
        free = sum(device.free_bytes for device in list_gpus())
        needed = sum(path.stat().st_size for path in (self.model, *candidates))
        return ("--two-pass",) if 1.1 * needed > free else ()

    # --- processes ------------------------------------------------------------------------------

    def compute(self) -> tuple[object, ...]:
        return ("--gpu-layers", self.args.gpu_layers, "--threads", self.args.threads)

    def apex(self, *arguments: object, variables: Mapping[str, str] | None = None) -> Run:
        command = [sys.executable, "-m", "apex_native", *map(str, arguments), "--quiet"]
        return _timed(command, variables)

    def tool(self, name: str, *arguments: object) -> Run:
        layers = "99" if self.on_gpu else "0"
        return _timed([str(self.args.tools / name), "-t", str(self.args.threads), "-ngl", layers,
                       *map(str, arguments)])  # fmt: skip


def _divergences(path: Path) -> list[float]:
    candidates = json.loads(path.read_text(encoding="utf-8"))["candidates"]
    return [row["kld_mean"] for row in candidates]


def _timed(command: list[str], variables: Mapping[str, str] | None = None) -> Run:
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(variables or {})},
    ) as process:  # fmt: skip
        peak = [0.0]
        watcher = threading.Thread(target=_watch, args=(process, peak))
        watcher.start()
        stdout, stderr = process.communicate()
        watcher.join()
    seconds = time.perf_counter() - begin
    if process.returncode != 0:
        raise ProcessError(f"{' '.join(command)}\nexit code {process.returncode}\n{stderr[-2000:]}")
    return Run(seconds, peak[0], stdout)


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    """Keep the largest anonymous memory of a process, in GiB, while it runs."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            peak[0] = max(peak[0], int(fields["RssAnon"].split()[0]) / 2**20)
        except (OSError, KeyError):
            return
        time.sleep(0.05)


def _spread(samples: Sequence[float]) -> float | None:
    if len(samples) < 2:
        return None
    return (max(samples) - min(samples)) / statistics.median(samples)


def _optional(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)


if __name__ == "__main__":
    sys.exit(main())
