"""Verbs on valid models with something wrong: settings swapped, arrays cut, shapes turned.

``python tests/verb_fuzz.py --cases 10000`` prints a table; a case is one verb on one
mutated model. ``--first N`` begins with another case, so that machines share the work.
A worker process runs the cases and is replaced where it dies, so that a death is counted and the
case can be run again alone with ``--seed S --only N``. Nothing here aims at a fault: mutations are
drawn blindly, from a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf_builder as build
from apex_native.cli.errors import EXIT_INVALID
from apex_native.gguf import open_gguf
from gguf_builder import Tensor, ValueType
from model_kinds import write_kind
from verb_runs import VERBS, complaints, run_verb, write_inputs

__all__ = ["BASES", "Case", "Tally", "run_cases", "write_mutant"]

BASES = ("model", "encoder", "encoder–decoder", "embedder", "no vocabulary", "recurrent")
OUTCOMES = ("result", "sentence", "usage", "bad message", "died")
TIME_LIMIT_S = 120
_FORMATS = {v.value: f[1:] for v, f in build._FORMATS.items()}
_ODD_INTEGERS = (0, 1, 2, 3, 5, 7, 31, 64, 255, 512, 4097, 2**31 - 1, 2**31, 2**32 - 1)
_ODD_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))


@dataclass(frozen=True)
class Setting:
    """A key-value pair taken apart."""

    key: str
    type: int
    is_array: bool
    values: tuple[Any, ...]

    def encoded(self) -> bytes:
        content = b"".join(_encode(self.type, value) for value in self.values)
        if self.is_array:
            return build.raw_array(self.key, self.type, len(self.values), content)
        return build.raw_pair(self.key, self.type, content)


@dataclass
class Parts:
    """A model that can be written with changes."""

    settings: list[Setting]
    tensors: list[Tensor]


def _encode(type: int, value: Any) -> bytes:
    if type == ValueType.STRING:
        return build.string(value)
    code = _FORMATS[type]
    if code in "fd":
        return struct.pack("<" + code, value)
    size = 8 * struct.calcsize("<" + code)
    if code == "?":
        return struct.pack("<B", bool(value))
    return (int(value) % 2**size).to_bytes(size // 8, "little")


def read_parts(path: Path) -> Parts:
    """A model of few tokens, in pieces."""
    with open_gguf(path) as file:
        settings = []
        for key in file.facts.kv_sizes:
            encoded = file.encoded_pair(key)
            at = 8 + len(key.encode())
            type = int.from_bytes(encoded[at : at + 4], "little")
            is_array = type == ValueType.ARRAY
            if is_array:
                type = int.from_bytes(encoded[at + 4 : at + 8], "little")
            value = file.metadata[key]
            values = value if isinstance(value, tuple) else (value,)
            settings.append(Setting(key, type, is_array, values))
        tensors = [
            Tensor(t.name, t.shape, t.type.id, file.tensor_bytes(t.name).tobytes())
            for t in file.tensors
        ]
    return Parts(settings, tensors)


# --- mutations ----------------------------------------------------------------------------------


def _pick(rng: random.Random, parts: Parts, *, array: bool) -> int | None:
    found = [i for i, s in enumerate(parts.settings) if s.is_array is array]
    return rng.choice(found) if found else None


def swap_values(rng: random.Random, parts: Parts) -> None:
    """Two single values of one type change places."""
    first = _pick(rng, parts, array=False)
    if first is None:
        return
    a = parts.settings[first]
    same = [
        i
        for i, s in enumerate(parts.settings)
        if i != first and not s.is_array and s.type == a.type
    ]
    if same:
        second = rng.choice(same)
        b = parts.settings[second]
        parts.settings[first] = replace(a, values=b.values)
        parts.settings[second] = replace(b, values=a.values)


def odd_number(rng: random.Random, parts: Parts) -> None:
    """A number becomes one that such settings seldom have."""
    numbers = [
        i for i, s in enumerate(parts.settings) if not s.is_array and s.type != ValueType.STRING
    ]
    i = rng.choice(numbers)
    s = parts.settings[i]
    is_float = _FORMATS[s.type] in "fd"
    parts.settings[i] = replace(s, values=(rng.choice(_ODD_FLOATS if is_float else _ODD_INTEGERS),))


def drop_setting(rng: random.Random, parts: Parts) -> None:
    parts.settings.pop(rng.randrange(len(parts.settings)))


def change_type(rng: random.Random, parts: Parts) -> None:
    """A value is stored as another type."""
    i = _pick(rng, parts, array=False)
    if i is None or parts.settings[i].type == ValueType.STRING:
        return
    s = parts.settings[i]
    type = rng.choice([ValueType.U8, ValueType.I32, ValueType.U64, ValueType.F32, ValueType.STRING])
    value = s.values[0]
    if type == ValueType.STRING:
        value = str(value)
    elif type != ValueType.F32 and isinstance(value, float):
        value = 1
    parts.settings[i] = replace(s, type=int(type), values=(value,))


def cut_array(rng: random.Random, parts: Parts) -> None:
    """An array loses its end, or gains a copy of it."""
    i = _pick(rng, parts, array=True)
    if i is None:
        return
    s = parts.settings[i]
    n = rng.randrange(len(s.values) + 1) if s.values else 0
    values = s.values + s.values[n:] if rng.random() < 0.3 else s.values[:n]
    parts.settings[i] = replace(s, values=values)


def shuffle_array(rng: random.Random, parts: Parts) -> None:
    i = _pick(rng, parts, array=True)
    if i is not None:
        values = list(parts.settings[i].values)
        rng.shuffle(values)
        parts.settings[i] = replace(parts.settings[i], values=tuple(values))


def turn_shape(rng: random.Random, parts: Parts) -> None:
    """A tensor's dimensions in another order."""
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    shape = list(t.shape)
    rng.shuffle(shape)
    parts.tensors[i] = replace(t, shape=tuple(shape))


def fold_shape(rng: random.Random, parts: Parts) -> None:
    """A tensor with as many weights and other dimensions."""
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    if len(t.shape) > 1 and t.shape[0] % 2 == 0:
        parts.tensors[i] = replace(t, shape=(t.shape[0] // 2, *t.shape[1:-1], t.shape[-1] * 2))


def swap_names(rng: random.Random, parts: Parts) -> None:
    if len(parts.tensors) < 2:
        return
    a, b = rng.sample(range(len(parts.tensors)), 2)
    first, second = parts.tensors[a], parts.tensors[b]
    parts.tensors[a] = replace(first, name=second.name)
    parts.tensors[b] = replace(second, name=first.name)


def rename_tensor(rng: random.Random, parts: Parts) -> None:
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    name = rng.choice([t.name + "2", t.name.replace("blk.0", "blk.7"), t.name.split(".")[0]])
    if name not in {tensor.name for tensor in parts.tensors}:
        parts.tensors[i] = replace(t, name=name)


def drop_tensor(rng: random.Random, parts: Parts) -> None:
    if len(parts.tensors) > 1:
        parts.tensors.pop(rng.randrange(len(parts.tensors)))


def other_values(rng: random.Random, parts: Parts) -> None:
    """A tensor of zeros, of NaN or of random bits."""
    i = rng.randrange(len(parts.tensors))
    t = parts.tensors[i]
    n = len(t.data)
    data = rng.choice([bytes(n), b"\xff" * n, rng.randbytes(n)])
    parts.tensors[i] = replace(t, data=data)


def other_type(rng: random.Random, parts: Parts) -> None:
    """F32 weights called I32."""
    i = rng.randrange(len(parts.tensors))
    if parts.tensors[i].type == build.F32:
        parts.tensors[i] = replace(parts.tensors[i], type=build.I32)


MUTATIONS: tuple[Callable[[random.Random, Parts], None], ...] = (
    *(swap_values, odd_number, odd_number, odd_number, drop_setting, change_type, cut_array),
    shuffle_array,
    turn_shape,
    fold_shape,
    swap_names,
    rename_tensor,
    drop_tensor,
    other_values,
    other_type,
)


def write_mutant(path: Path, base: Parts, rng: random.Random) -> str:
    """Write base with one to three mutations; their names."""
    parts = Parts(list(base.settings), list(base.tensors))
    chosen = [rng.choice(MUTATIONS) for _ in range(rng.choice((1, 1, 2, 3)))]
    for mutation in chosen:
        mutation(rng, parts)
    build.write_gguf(path, parts.tensors, [s.encoded() for s in parts.settings])
    return ", ".join(mutation.__name__ for mutation in chosen)


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One verb on one mutated model; its number and the seed say all."""

    number: int
    base: str
    mutations: str
    verb: str
    outcome: str
    detail: str = ""


def _bases(folder: Path) -> dict[str, Parts]:
    from calibration_models import write_recurrent_model

    bases = {}
    for name in BASES:
        if name == "recurrent":
            path = write_recurrent_model(folder / "recurrent.gguf")
        else:
            path = write_kind(name, folder / f"base{BASES.index(name)}")
        bases[name] = read_parts(path)
    return bases


def run_cases(seed: int, first: int, count: int, report: Callable[[Case], None]) -> None:
    """Run cases first to first + count - 1; report is called before and after each."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_inputs(work)
        bases = _bases(work)
        path = work / "mutant.gguf"
        written = -1
        label = ("", "")
        for number in range(first, first + count):
            model, verb = number // len(VERBS), VERBS[number % len(VERBS)]
            if model != written:
                rng = random.Random(f"{seed} {model}")
                name = rng.choice(BASES)
                label = (name, write_mutant(path, bases[name], rng))
                written = model
            report(Case(number, *label, verb, "died"))
            report(Case(number, *label, verb, *_outcome(verb, path, work)))


def _outcome(verb: str, path: Path, work: Path) -> tuple[str, str]:
    signal.alarm(TIME_LIMIT_S)
    code, stdout, stderr = run_verb(verb, str(path), str(work))
    signal.alarm(0)
    bad = complaints(stdout + stderr)
    if bad or code not in (0, 1, 2, EXIT_INVALID):
        return "bad message", f"exit code {code}: {stderr.strip()[-400:]}"
    if code != 0 and not stderr.strip():
        return "bad message", "a failure without a word"
    return {0: "result", 1: "sentence", 2: "usage", EXIT_INVALID: "result"}[code], ""


class Tally:
    """What came of the cases, and those that went wrong."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.wrong: list[Case] = []

    def add(self, case: Case) -> None:
        self.counts[case.verb, case.outcome] += 1
        if case.outcome in ("bad message", "died"):
            self.wrong.append(case)

    def table(self) -> str:
        """Markdown: a row for each verb."""
        lines = ["| verb | " + " | ".join(OUTCOMES) + " |", "|---|" + "--:|" * len(OUTCOMES)]
        for verb in VERBS:
            cells = [f"{self.counts[verb, outcome]:,}" for outcome in OUTCOMES]
            lines.append(f"| {verb} | " + " | ".join(cells) + " |")
        total = [f"{sum(self.counts[v, o] for v in VERBS):,}" for o in OUTCOMES]
        return "\n".join([*lines, "| all | " + " | ".join(total) + " |"])


def fuzz(
    seed: int, first: int, count: int, progress: Callable[[Case], None] | None = None
) -> Tally:
    """Run the cases in workers, a new one after each death."""
    tally = Tally()
    end = first + count
    while first < end:
        last = None
        for case in _worker(seed, first, end - first):
            if case.outcome == "died" and (last is None or last.number != case.number):
                last = case
                continue
            tally.add(case)
            if progress is not None:
                progress(case)
            last = None
            first = case.number + 1
        if last is not None:
            tally.add(last)
            print(f"died: {last}", file=sys.stderr)
            first = last.number + 1
    return tally


def _worker(seed: int, first: int, count: int) -> Any:
    command = [sys.executable, __file__, "--worker", "--seed", str(seed)]
    command += ["--first", str(first), "--cases", str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Case(**json.loads(line))


def _work(seed: int, first: int, count: int) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(case: Case) -> None:
        out.write(json.dumps(case.__dict__) + "\n")
        out.flush()

    run_cases(seed, first, count, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.seed, options.first, options.cases)
        return

    def show(case: Case) -> None:
        if case.number % 500 == 499:
            print(f"{case.number + 1 - options.first:,} cases", file=sys.stderr)

    tally = fuzz(options.seed, options.first, options.cases, show)
    print(tally.table())
    for case in tally.wrong:
        print(f"\n{case.number}: {case.verb} on {case.base} ({case.mutations}): {case.outcome}")
        print(f"    {case.detail}")


if __name__ == "__main__":
    main()
