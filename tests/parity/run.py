"""Prove that our files equal llama-quantize's, tensor by tensor: `make parity`.

    python tests/parity/run.py --tools build/reference/reference [--quick]

1. the port of the type selection, over every file type, option and model of compare_mix.py;
2. every mix and every tier (published and declared), with and without importance matrix, on the
   demo model: llama-quantize gets the file type, or one rule per tensor for a tier;
3. every target type for every tensor, with and without importance matrix, from BF16, F16 and F32,
   and from a quantized file.

Each file of ours is written with 1 and with 3 threads. Exit status 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import apex_native as apex  # noqa: E402
from apex_native.plan import Plan  # noqa: E402
from file_compare import differing_tensors  # noqa: E402

MIXES = [
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
    "Q2_K_S", "IQ4_XS", "IQ4_NL", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S",
    "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0",
    "MXFP4_MOE", "Q1_0", "Q2_0", "F16", "BF16", "F32",
]  # fmt: skip
TIERS = ["quality", "balanced", "compact", "mini", "nano", "micro"]


@dataclass(frozen=True)
class Case:
    """One file to write with both programs; arguments are llama-quantize's."""

    name: str
    plan: dict[str, Any]
    ftype: str
    with_imatrix: bool = False
    rule_per_tensor: bool = False
    source: str = "BF16"
    options: list[str] = field(default_factory=list)


def cases(quick: bool) -> Iterator[Case]:
    for source in ("F16", "F32", "Q8_0"):
        name = f"Q4_K_M from {source}"
        options = ["--allow-requantize"] if source == "Q8_0" else []
        yield Case(name, {"ftype": "Q4_K_M"}, "Q4_K_M", source=source, options=options)
    for with_imatrix in (False, True):
        for mix in MIXES:
            yield Case(mix, {"ftype": mix}, mix, with_imatrix)
            if not quick:
                pure = {"ftype": mix, "pure": True}
                yield Case(f"{mix} pure", pure, mix, with_imatrix, options=["--pure"])
        for tier in TIERS:
            for semantics in ("published", "declared"):
                plan = {"tier": tier, "semantics": semantics}
                base = "Q8_0"  # every tensor has a rule of its own, the mix decides nothing
                yield Case(f"{tier} {semantics}", plan, base, with_imatrix, rule_per_tensor=True)


class Parity:
    """Runs the cases over one model, keeping the sources they need."""

    def __init__(self, tools: Path, folder: Path) -> None:
        self.quantize_tool = tools / "llama-quantize"
        self.folder = folder
        self.sources = {"BF16": apex.demo_model()}
        self.imatrix = apex.load_imatrix(apex.demo_imatrix())

    def source(self, type_name: str) -> Path:
        """The demo model in another type, written by llama-quantize."""
        if type_name not in self.sources:
            path = self.folder / f"source-{type_name}.gguf"
            self._tool(self.sources["BF16"], path, type_name, [])
            self.sources[type_name] = path
        return self.sources[type_name]

    def run(self, case: Case) -> str:
        """'equal', 'refused by both', or what differs."""
        source = self.source(case.source)
        theirs, ours = self.folder / "theirs.gguf", self.folder / "ours.gguf"
        imatrix = self.imatrix if case.with_imatrix else None
        with apex.open_gguf(source) as model:
            plan = apex.make_plan(model, imatrix=imatrix, prior="none", **case.plan)
            arguments = [*case.options, *self._arguments(case, plan)]
            made = self._tool(source, theirs, case.ftype, arguments)
            if plan.blocking_findings or not made:
                return self._refusal(plan, made)
            for n_threads in (1, 3):
                apex.quantize(
                    model, plan, ours, imatrix=imatrix, n_threads=n_threads, force=True,
                    allow_requantize=True, max_memory=(64 << 20) * n_threads,
                )  # fmt: skip
                problems = differing_tensors(ours, theirs)
                if problems:
                    return (
                        f"DIFFERS with {n_threads} threads: {problems[0]} ({len(problems)} tensors)"
                    )
        return "equal"

    def _refusal(self, plan: Plan, made: bool) -> str:
        if not plan.blocking_findings:
            return "DIFFERS: llama-quantize refuses what we plan"
        return "DIFFERS: we refuse what llama-quantize makes" if made else "refused by both"

    def _arguments(self, case: Case, plan: Plan) -> list[str]:
        arguments = []
        if case.with_imatrix:
            arguments += ["--imatrix", str(self.imatrix.path)]
        if case.rule_per_tensor:
            rules = self.folder / "rules.txt"
            planned = (t for t in plan.tensors if t.type is not t.source_type)
            rules.write_text("".join(f"^{re.escape(t.name)}$={t.type}\n" for t in planned))
            arguments += ["--tensor-type-file", str(rules)]
        return arguments

    def _tool(self, source: Path, target: Path, ftype: str, arguments: list[str]) -> bool:
        command = [str(self.quantize_tool), *arguments, str(source), str(target), ftype, "2"]
        target.unlink(missing_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-quantize")
    parser.add_argument("--quick", action="store_true", help="leave out the pure variants")
    arguments = parser.parse_args()
    tool = arguments.tools / "llama-quantize"
    if not tool.exists():
        parser.error(f"{tool} is missing; build it with `make parity`")
    mixes = [sys.executable, str(TESTS / "parity" / "compare_mix.py"), str(tool)]
    failures = int(subprocess.run(mixes, check=False).returncode != 0)
    n_equal = n_refused = 0
    with tempfile.TemporaryDirectory() as folder:
        parity = Parity(arguments.tools, Path(folder))
        for case in cases(arguments.quick):
            start = time.perf_counter()
            verdict = parity.run(case)
            suffix = " with imatrix" if case.with_imatrix else ""
            print(
                f"{case.name + suffix:42} {verdict}  ({time.perf_counter() - start:.1f} s)",
                flush=True,
            )
            n_equal += verdict == "equal"
            n_refused += verdict == "refused by both"
            failures += verdict.startswith("DIFFERS")
    print(f"{n_equal} files equal, {n_refused} refused by both, {failures} failures")
    return 1 if failures or not n_equal else 0


if __name__ == "__main__":
    sys.exit(main())
