"""Compare make_plan's types with llama-quantize's, tensor by tensor.

    python tests/parity/compare_mix.py PATH/TO/llama-quantize [MODEL.gguf ...] [--write-golden]

Runs ``llama-quantize --dry-run`` for every scenario of ``mix_scenarios`` and for every tier over
every model of ``mix_models`` (and over the GGUF models given, which needs the native module) and
prints each tensor for which the two disagree. Exit status 1 if there is one.

``--write-golden`` also writes what llama-quantize printed to tests/golden/mix_*.json, from which
tests/test_plan_mix.py checks the same without the tool. Do that after the pinned llama.cpp
changes, and read the difference.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from apex_native.errors import PlanError  # noqa: E402
from apex_native.plan import DecidedBy, make_plan, tier_names  # noqa: E402
from apex_native.types import Classification, GgmlType, GgufFacts, Role  # noqa: E402
from mix_models import MODELS  # noqa: E402
from mix_scenarios import IMATRIX, SCENARIOS, Scenario  # noqa: E402
from plan_tables import F32, STRING, U32, Table, write_gguf  # noqa: E402

Types = dict[str, str]

_LINE = re.compile(
    r"^\[ *\d+/ *\d+\] (?P<name>\S+) .*type = +(?P<source>\w+), size = .*?(?:\((?P<type>\w+)\))?$"
)


def upstream_types(tool: Path, model: Path, scenario: Scenario, imatrix: Path) -> Types | None:
    """The types llama-quantize prints, in its order; None if it refuses the request."""
    arguments = [*scenario.arguments]
    if scenario.with_imatrix:
        arguments += ["--imatrix", str(imatrix)]
    command = [str(tool), "--dry-run", *arguments, str(model), scenario.ftype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    types = {}
    for line in (done.stdout + done.stderr).splitlines():
        match = _LINE.match(line)
        if match:
            types[match["name"]] = (match["type"] or match["source"]).upper()
    return types


def planned_types(
    classification: Classification, facts: GgufFacts, scenario: Scenario
) -> Types | None:
    """make_plan's types; None if it refuses the request."""
    try:
        plan = make_plan(classification, **scenario.plan_arguments)
    except PlanError:
        return None
    return {tensor.name: tensor.type.name for tensor in plan.tensors}


def tier_scenarios(classification: Classification, facts: GgufFacts) -> Iterator[Scenario]:
    """Each tier as llama-quantize can do it: its base type, and an anchored rule for each tensor.

    Only the tensors the tier itself decides get a rule, so this checks what the base mix makes
    of the others, the tensors that "published" semantics leave to it among them.
    """
    for tier in tier_names():
        for semantics in ("published", "declared"):
            plan = make_plan(classification, tier=tier, semantics=semantics)
            decided = [t for t in plan.tensors if t.decided_by is DecidedBy.TIER]
            rules = [f"^{re.escape(t.name)}$={t.wanted.name}" for t in decided]
            arguments = [part for rule in rules for part in ("--tensor-type", rule)]
            options = {"ftype": None, "tier": tier, "semantics": semantics}
            yield Scenario(f"{tier} {semantics}", plan.ftype, tuple(arguments), options)


def write_imatrix(path: Path) -> None:
    """An importance matrix of ones with the entries the scenarios claim."""
    table = Table("", 0)
    table.typed_metadata.clear()
    table.set("general.type", STRING, "imatrix")
    table.set("imatrix.datasets", STRING, ("none",))
    table.set("imatrix.chunk_count", U32, 1)
    table.set("imatrix.chunk_size", U32, 1)
    data = b""
    for name, (n_per_row, n_slices) in IMATRIX.entries.items():
        table.add(f"{name}.in_sum2", (n_per_row, n_slices), Role.OTHER, GgmlType.F32)
        table.add(f"{name}.counts", (1, n_slices), Role.OTHER, GgmlType.F32)
        for count in (n_per_row * n_slices, n_slices):
            values = struct.pack(f"<{count}{F32}", *[1.0] * count)
            data += values + bytes(-len(values) % 32)
    write_gguf(table, path, data)


def differences(upstream: Types | None, planned: Types | None) -> Iterator[str]:
    """One line for each tensor (or refusal) on which the two disagree."""
    if upstream is None or planned is None:
        if (upstream is None) != (planned is None):
            who = "llama-quantize" if upstream is None else "make_plan"
            yield f"only {who} refuses"
        return
    for name in upstream.keys() | planned.keys():
        theirs, ours = upstream.get(name), planned.get(name)
        if theirs != ours:
            yield f"{name}: llama-quantize {theirs}, make_plan {ours}"


def golden_text(name: str, results: dict[str, Types | None]) -> str:
    """Golden results of a model: types as one letter for each tensor, in llama-quantize's order."""
    first = next(types for types in results.values() if types is not None)
    letters = dict(zip((t.name for t in GgmlType), ascii_letters, strict=False))
    patterns = {
        label: "".join(letters[types[tensor]] for tensor in first) if types is not None else None
        for label, types in results.items()
    }
    used = sorted({types[t] for types in results.values() if types is not None for t in types})
    scenarios: dict[str, list[str]] = {}
    for label, pattern in patterns.items():
        scenarios.setdefault(pattern or "", []).append(label)
    data = {
        "model": name,
        "letters": {letters[type]: type for type in used},
        "tensors": list(first),
        "scenarios": scenarios,
    }
    return json.dumps(data, indent=0) + "\n"


def given_models(paths: list[Path]) -> Iterator[tuple[str, Path, Classification, GgufFacts]]:
    """The GGUF files named on the command line."""
    if not paths:
        return
    from apex_native.classification import classify_tensors
    from apex_native.gguf import open_gguf

    for path in paths:
        with open_gguf(path) as model:
            yield path.name, path, classify_tensors(model.facts), model.facts


def small_models(folder: Path) -> Iterator[tuple[str, Path, Classification, GgufFacts]]:
    """The tables of mix_models, written to folder."""
    for name, build in MODELS.items():
        table = build()
        path = folder / f"{name}.gguf"
        write_gguf(table, path)
        yield name, path, table.classification, table.facts


def compare(
    tool: Path, model: str, path: Path, classification: Classification, facts: GgufFacts
) -> tuple[int, int, dict[str, Types | None]]:
    """All scenarios over one model: (compared, different, what llama-quantize gave)."""
    results: dict[str, Types | None] = {}
    n_different = 0
    with tempfile.TemporaryDirectory() as folder:
        imatrix = Path(folder) / "imatrix.gguf"
        write_imatrix(imatrix)
        for scenario in (*SCENARIOS, *tier_scenarios(classification, facts)):
            upstream = upstream_types(tool, path, scenario, imatrix)
            results[scenario.label] = upstream
            found = list(differences(upstream, planned_types(classification, facts, scenario)))
            n_different += bool(found)
            for line in found:
                print(f"{model} {scenario.label}: {line}")
    return len(results), n_different, results


def main() -> int:
    """Compare, report, and write golden results if asked; 1 if anything differs."""
    parser = argparse.ArgumentParser(description="Compare make_plan with llama-quantize.")
    parser.add_argument("tool", type=Path, help="llama-quantize of the pinned llama.cpp")
    parser.add_argument("models", type=Path, nargs="*", help="further GGUF models to compare over")
    parser.add_argument("--write-golden", action="store_true", help="write tests/golden/mix_*.json")
    options = parser.parse_args()
    n_compared = n_different = 0
    with tempfile.TemporaryDirectory() as folder:
        models = [*small_models(Path(folder)), *given_models(options.models)]
        for model, path, classification, facts in models:
            n, different, results = compare(options.tool, model, path, classification, facts)
            n_compared += n
            n_different += different
            print(f"{model}: {n} scenarios, {different} with differences", flush=True)
            if options.write_golden and model in MODELS:
                golden = TESTS / "golden" / f"mix_{model}.json"
                kept = {scenario.label: results[scenario.label] for scenario in SCENARIOS}
                golden.write_text(golden_text(model, kept), "utf-8")
    print(f"{n_compared} comparisons, {n_different} with differences")
    return 1 if n_different else 0


if __name__ == "__main__":
    raise SystemExit(main())
