"""From a checkpoint to a quantized file: upstream's script and llama-quantize, and apex-native.

    python bench/convert_vs_llama.py --tools build/reference/reference [--tier quality]
        [--layers 6] [--threads N] [--repeat N] [--folder DIR] [--out convert_vs_llama.md]

Makes a checkpoint (see wide_checkpoint.py) and lets both make a 16-bit GGUF and a quantized one of
it, whole processes in turn, every tensor byte compared. Memory is the peak of what a process and
its children hold: all of it (resident), and what is not a page of a file (anonymous), which no
system can take back. Bytes written are what they gave to the file system. The folder needs about
three times the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import apex_native as apex
from wide_checkpoint import WideCheckpoint, write_wide_checkpoint

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))
from file_compare import differing_tensors  # noqa: E402

PRE_TOKENIZER = "qwen2"
SAMPLE_S = 0.05
TARGETS = {
    "quantized file": {"resident": 0.25, "written": 0.35, "seconds": 0.4},
    "16-bit file": {"seconds": 0.8},
}


@dataclass(frozen=True)
class Used:
    """What one or several processes took: seconds of wall time and of CPUs, the rest in bytes."""

    seconds: float
    cpu: float
    resident: int
    anonymous: int
    written: int

    def then(self, other: Used) -> Used:
        """One after the other."""
        return Used(
            self.seconds + other.seconds,
            self.cpu + other.cpu,
            max(self.resident, other.resident),
            max(self.anonymous, other.anonymous),
            self.written + other.written,
        )


def run(command: Sequence[str | Path], log: Path) -> Used:
    """Run a program to its end; SystemExit with its last words where it fails."""
    peaks = [0, 0]
    done = threading.Event()
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output)
        watch = threading.Thread(target=sample, args=(process.pid, done, peaks))
        watch.start()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    done.set()
    watch.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read_text()[-2000:]}")
    cpu = used.ru_utime + used.ru_stime
    # Not ru_maxrss: a child begins with the peak of this process, which maps whole files.
    return Used(seconds, cpu, peaks[0], peaks[1], used.ru_oublock * 512)


def sample(pid: int, done: threading.Event, peaks: list[int]) -> None:
    """Peaks of resident and of anonymous memory of a process and its children."""
    while not done.wait(SAMPLE_S):
        found = [memory(number) for number in family(pid)]
        peaks[0] = max(peaks[0], sum(resident for resident, _ in found))
        peaks[1] = max(peaks[1], sum(anonymous for _, anonymous in found))


def family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def memory(pid: int) -> tuple[int, int]:
    """Resident and anonymous bytes; nothing of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    sizes = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB", lines, re.MULTILINE))
    return 1024 * int(sizes.get("VmRSS", 0)), 1024 * int(sizes.get("RssAnon", 0))


class Bench:
    """The checkpoint, and what both sides run on it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.folder: Path = arguments.folder
        self.threads = str(arguments.threads)
        self.tier: str = arguments.tier
        self.quantizer: Path = arguments.tools / "llama-quantize"
        self.checkpoint = self.folder / "checkpoint"
        self.log = self.folder / "log.txt"
        self.theirs, self.ours = self.folder / "theirs", self.folder / "ours"
        for path in (self.theirs, self.ours):
            path.mkdir(parents=True, exist_ok=True)
        self.n_bytes = write_wide_checkpoint(
            self.checkpoint, WideCheckpoint(n_layers=arguments.layers)
        )
        fetch = TESTS.parent / "third_party" / "llama.cpp" / "fetch.py"
        self.upstream = subprocess.run(
            [sys.executable, fetch, "--part", "converter"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    def convert_theirs(self) -> Used:
        output = self.theirs / "16.gguf"
        output.unlink(missing_ok=True)
        jobs = self.folder / "jobs.json"
        jobs.write_text(json.dumps([[str(self.checkpoint), "--outfile", str(output)]]))
        script = TESTS / "upstream_convert.py"
        return run([sys.executable, script, self.upstream, PRE_TOKENIZER, jobs], self.log)

    def convert_ours(self) -> Used:
        return self._apex("convert", self.ours / "16.gguf", "--folder-metadata")

    def quantize_theirs(self) -> Used:
        """Of their 16-bit file; types are those of our plan."""
        output = self.theirs / "quantized.gguf"
        output.unlink(missing_ok=True)
        source = self.theirs / "16.gguf"
        rules = self.folder / "rules.txt"
        types = apex.make_plan(source, tier=self.tier).types
        rules.write_text("".join(f"^{re.escape(n)}$={type}\n" for n, type in types.items()))
        command = [self.quantizer, "--tensor-type-file", rules, source, output, "Q8_0"]
        return run([*command, self.threads], self.log)

    def quantize_ours(self) -> Used:
        output = self.ours / "quantized.gguf"
        return self._apex("quantize", output, "--tier", self.tier, "--no-manifest")

    def _apex(self, verb: str, output: Path, *options: str) -> Used:
        output.unlink(missing_ok=True)
        return run(
            [sys.executable, "-m", "apex_native", verb, self.checkpoint, "-o", output, "--quiet",
             "--pre-tokenizer", PRE_TOKENIZER, "--threads", self.threads, *options],
            self.log,
        )  # fmt: skip

    def measure(self) -> dict[str, tuple[Used, Used]]:
        """Both sides once; exits where a byte differs."""
        conversion = self.convert_theirs()
        quantized = self.quantize_ours()
        theirs = self.quantize_theirs()
        require_equal(self.ours / "quantized.gguf", self.theirs / "quantized.gguf")
        (self.theirs / "quantized.gguf").unlink()
        ours = self.convert_ours()
        same = subprocess.run(["cmp", self.ours / "16.gguf", self.theirs / "16.gguf"], check=False)
        if same.returncode:
            sys.exit("the 16-bit files differ")
        (self.ours / "16.gguf").unlink()
        return {
            "quantized file": (conversion.then(theirs), quantized),
            "16-bit file": (conversion, ours),
        }


def require_equal(ours: Path, theirs: Path) -> None:
    differing = differing_tensors(ours, theirs)
    if differing:
        sys.exit(f"{len(differing)} tensors differ, the first is {differing[0]}")


def median(samples: Sequence[Used]) -> Used:
    fields = ("seconds", "cpu", "resident", "anonymous", "written")
    return Used(*(statistics.median(getattr(s, field) for s in samples) for field in fields))


def table(results: dict[str, tuple[Used, Used]]) -> list[str]:
    lines = [
        "| what | figure | upstream | apex-native | ratio | target |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    units = {"seconds": ("wall time, s", 1.0), "cpu": ("CPU time, s", 1.0),
             "resident": ("peak resident, GB", 1e9),
             "anonymous": ("peak anonymous, GB", 1e9), "written": ("written, GB", 1e9)}  # fmt: skip
    for what, (theirs, ours) in results.items():
        for field, (title, unit) in units.items():
            a, b = getattr(theirs, field), getattr(ours, field)
            target = TARGETS[what].get(field)
            lines.append(
                f"| {what} | {title} | {a / unit:.2f} | {b / unit:.2f} | {b / a:.3f} | "
                f"{'–' if target is None else f'at most {target}'} |"
            )
    return lines


def processor() -> str:
    """The CPU's name, as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--tier", default="quality")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/convert_vs_llama"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    try:
        bench = Bench(arguments)
        runs = []
        for _ in range(arguments.repeat):
            runs.append(bench.measure())
            print("\n".join(table(runs[-1])), flush=True)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    results = {
        what: (median([r[what][0] for r in runs]), median([r[what][1] for r in runs]))
        for what in runs[0]
    }
    raw = [{what: [asdict(u) for u in pair] for what, pair in r.items()} for r in runs]
    machine = f"{arguments.threads} threads of {os.cpu_count()}, {processor()}"
    lines = [
        "# From a checkpoint: upstream and apex-native",
        "",
        f"`python bench/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`",
        "",
        f"{bench.n_bytes:,} bytes of weights, tier {arguments.tier}, {machine}.",
        f"Medians of {arguments.repeat}; every byte of the 16-bit file and of the tensors equal.",
        "",
        *table(results),
        "",
        f"<!-- {json.dumps(raw)} -->",
    ]
    print("\n".join(lines))
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
