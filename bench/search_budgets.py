"""The search at several sizes against fixed recipes, on a text the search never saw.

    python bench/search_budgets.py MODEL --held-out wiki.test.raw --budgets 15556160,11959360 \\
        --imatrix imatrix.gguf -f prose.txt -f code.txt -o bench/results/search-demo.json

Runs `apex-native search` once for all sizes, from nothing, and takes its wall and CPU time; every
result and the fixed recipes the search found nearest are then scored on chunks of the held-out
text, in memory, chunk by chunk beside the source. Besides the KLDs a row has the difference of
ln PPL to the fixed recipe and to the source, and the ratio of the 99.9 % quantiles, with intervals;
and both without the positions behind a line end, a token that few models are trained on where it
is a carriage return.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import apex_native as apex
from apex_native.allocation import ProbeStore, SearchRequest
from apex_native.allocation.fixed import fixed_recipes
from apex_native.allocation.session import Measurement, ProbeSession, SessionSettings
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.texts import Part
from apex_native.allocation.verdict import kld_ratio, log_ppl_difference, standard_error
from apex_native.engine import Model, Placement
from apex_native.imatrix import HessianFile, Imatrix, Importance, load_imatrix
from apex_native.machine import cpu_name

CTX = 512
N_RESAMPLES = 2000


def main() -> None:
    arguments = parsed()
    with tempfile.TemporaryDirectory() as folder:
        found, cost = search(arguments, Path(folder))
        rows = compare(arguments, found)
    document = {
        "command": " ".join(["python", *(without_folder(word) for word in sys.argv)]),
        "cpu": cpu_name(),
        "held_out": {"file": Path(arguments.held_out).name, "chunks": arguments.chunks, "ctx": CTX},
        "cost": {**cost, **found["report"]["costs"]},
        "predictors": found["report"]["predictors"],
        "rows": rows,
        "geometric_mean_ratio": float(np.exp(np.mean([np.log(row["ratio"][0]) for row in rows]))),
    }
    show(document)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(document, indent=1) + "\n")


def without_folder(word: str) -> str:
    return Path(word).name if word.startswith("/") else word


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--budgets", required=True)
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("-f", "--text", action="append", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--held-out-bytes", type=int, default=300_000)
    parser.add_argument("--first-chunk", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--rivals", type=int, default=3, help="fixed recipes a size, by prediction")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--hessian", help="second moments; fixed recipes keep ggml's bytes")
    parser.add_argument("--keep", help="folder of measurements to go on from; costs mean nothing")
    parser.add_argument("--from-nothing", action="store_true", help="keep scores, search anew")
    parser.add_argument("-o", "--output")
    return parser.parse_args()


def search(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The command's document, and what it took."""
    command = [
        *(sys.executable, "-m", "apex_native", "search", arguments.model, "--json", "--quiet"),
        *("--budget", arguments.budgets, "--imatrix", arguments.imatrix, "-o", str(folder)),
        *("--threads", str(arguments.threads), "--seed", str(arguments.seed)),
        *("--effort", arguments.effort),
    ]
    for text in arguments.text:
        command += ["-f", text]
    if arguments.hessian:
        command += ["--hessian", arguments.hessian]
    if arguments.keep and not arguments.from_nothing:
        command += ["--store", arguments.keep]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = json.loads(run.stdout)
    for row in found["budgets"]:
        assert Path(row["file"]).stat().st_size == row["bytes"] <= row["budget"]
        with apex.open_gguf(row["file"]) as written:
            row["types"] = {tensor.name: tensor.type for tensor in written.tensors}
    return found, {
        "wall_s": time.monotonic() - begin,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "max_rss_mib": after.ru_maxrss / 1024,
    }


def compare(arguments: argparse.Namespace, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Results and rivals on the held-out text."""
    imatrix = load_imatrix(arguments.imatrix)
    with apex.open_gguf(arguments.model) as source:
        space = SearchSpace.of(
            source, Importance(imatrix, source.facts).summary(), SearchRequest((), ())
        )
        recipes = {recipe.name: recipe for recipe in fixed_recipes(space)}
        rivals = {
            row["budget"]: [b["name"] for b in row["baselines"][: arguments.rivals]]
            for row in found["budgets"]
        }
        names = sorted({name for some in rivals.values() for name in some})
        own = {tensor.name: tensor.type for tensor in source.tensors}
        candidates = [
            {n: t for n, t in row["types"].items() if t is not own[n]} for row in found["budgets"]
        ]
        candidates += [dict(recipes[name].types) for name in names]
        n = len(found["budgets"])
        ours = measured(arguments, source, imatrix, candidates[:n], arguments.hessian)
        theirs = dict(
            zip(names, measured(arguments, source, imatrix, candidates[n:], None), strict=True)
        )
    behind_line_end = line_ends(arguments)
    rows = []
    for row, mine in zip(found["budgets"], ours, strict=True):
        # Whatever was measured for any size and is not larger, as `quantize` would write it.
        fitting = {recipe["name"] for recipe in row["baselines"]}
        some = {name: theirs[name] for name in names if name in fitting}
        best = min(some, key=lambda name: some[name].mean)
        apart = without(mine, some[best], behind_line_end)
        rows.append({**as_row(row, mine, some), "without_line_ends": apart})
    return rows


def line_ends(arguments: argparse.Namespace) -> Any:
    """Which scored positions follow a line end: bool (n_chunks, n_positions)."""
    with apex.load_model(arguments.model, n_threads=1) as model:
        tokens = held_out(arguments, model).tokens[:, CTX // 2 : -1]
        ends = [
            token
            for token in np.unique(tokens)
            if {b"\r"[0], b"\n"[0]} & set(model.native.detokenize(np.array([token], np.int32)))
        ]
    return np.isin(tokens, ends)


def without(mine: Measurement, theirs: Measurement, left_out: Any) -> dict[str, Any]:
    a, b = (np.where(left_out, np.nan, m.positions) for m in (mine, theirs))
    return {
        "share_of_positions": float(left_out.mean()),
        "share_of_kld": [float(m.positions[left_out].sum() / m.positions.sum())
                         for m in (mine, theirs)],
        "kld": [float(np.nanmean(x)) for x in (a, b)],
        "kld_p999": [p999(x) for x in (a, b)],
        "kld_p999_ratio": p999_ratio(a, b),
    }  # fmt: skip


def measured(
    arguments: argparse.Namespace,
    source: apex.GgufFile,
    imatrix: Imatrix,
    candidates: list[dict[str, Any]],
    hessian: str | None,
) -> list[Measurement]:
    """On the held-out text, with every position; what was kept is not computed again."""
    settings = SessionSettings(CTX, Placement(n_threads=arguments.threads))
    with ExitStack() as stack:
        moments = None if hessian is None else stack.enter_context(HessianFile(hessian)).hessian
        store = stack.enter_context(ProbeStore(None))
        session = stack.enter_context(ProbeSession(source, imatrix, store, settings, moments))
        return kept_or_measured(arguments, session, candidates, held_out(arguments, session.model))


def kept_or_measured(
    arguments: argparse.Namespace,
    session: ProbeSession,
    candidates: list[dict[str, Any]],
    part: Part,
) -> list[Measurement]:
    if not arguments.keep:
        return session.measure(candidates, part, positions=True)
    paths = []
    for types in candidates:
        keys = sorted(probe.key for probe in (session.probe(types, c) for c in part.tokens))
        name = hashlib.sha256("".join(keys).encode()).hexdigest()
        paths.append(Path(arguments.keep) / f"{name}.pickle")
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    new = session.measure([candidates[i] for i in missing], part, positions=True)
    for i, found in zip(missing, new, strict=True):
        paths[i].write_bytes(pickle.dumps(found))
    return [pickle.loads(path.read_bytes()) for path in paths]


def held_out(arguments: argparse.Namespace, model: Model) -> Part:
    raw = Path(arguments.held_out).read_bytes()[: arguments.held_out_bytes]
    text = raw.decode("utf-8", "ignore")
    tokens = model.tokenize(text, add_special=True, parse_special=False)
    first, n = arguments.first_chunk, arguments.chunks
    chunks = tokens[first * CTX : (first + n) * CTX].reshape(n, CTX)
    return Part(np.ascontiguousarray(chunks, np.int32), (0,) * n)


def as_row(
    row: dict[str, Any], mine: Measurement, rivals: dict[str, Measurement]
) -> dict[str, Any]:
    best = min(rivals, key=lambda name: rivals[name].mean)
    ratio = kld_ratio(mine, rivals[best])
    ln_ppl = log_ppl_difference(mine, rivals[best])
    return {
        "budget": row["budget"],
        "bytes": row["bytes"],
        "written": row["written"],
        "kld_mean": mine.mean,
        "kld_se": standard_error(mine),
        "predicted": row["predicted"],
        "kld_own_verify_part": row["kld_mean"],
        "baseline": best,
        "baseline_kld": rivals[best].mean,
        "ratio": [ratio.value, ratio.low, ratio.high],
        "ln_ppl_difference": [ln_ppl.value, ln_ppl.low, ln_ppl.high],
        "ln_ppl_to_source": to_source(mine),
        "baseline_ln_ppl_to_source": to_source(rivals[best]),
        "kld_p999": [p999(m.positions) for m in (mine, rivals[best])],
        "kld_p999_ratio": p999_ratio(mine.positions, rivals[best].positions),
        "rivals": {name: measured.mean for name, measured in rivals.items()},
    }


def to_source(measured: Measurement) -> list[float]:
    """Ln PPL less the source's, with its 95 % interval."""
    source = replace(
        measured, scores=tuple(replace(s, nll=s.reference_nll) for s in measured.scores)
    )
    found = log_ppl_difference(measured, source)
    return [found.value, found.low, found.high]


def p999(positions: Any) -> float:
    return float(np.quantile(positions[~np.isnan(positions)], 0.999))


def p999_ratio(a: Any, b: Any) -> list[float]:
    """Of the 99.9 % quantiles over positions; chunks are drawn, the same for both."""
    drawn = np.random.default_rng(0).integers(0, len(a), (N_RESAMPLES, len(a)))
    ratios = [p999(a[chunks]) / p999(b[chunks]) for chunks in drawn]
    return [p999(a) / p999(b), *(float(x) for x in np.quantile(ratios, (0.025, 0.975)))]


def interval(found: list[float], form: str) -> str:
    value, low, high = (format(x, form) for x in found)
    return f"{value} [{low}, {high}]"


def show(document: dict[str, Any]) -> None:
    print("| budget | bytes | KLD | best fixed | its KLD | ratio [95 %] | ln PPL diff | p99.9 |")
    print("|---|---|---|---|---|---|---|---|")
    for row in document["rows"]:
        ours, theirs = row["kld_p999"]
        print(
            f"| {row['budget']:,} | {row['bytes']:,} | {row['kld_mean']:.5f} | {row['baseline']} "
            f"| {row['baseline_kld']:.5f} | {interval(row['ratio'], '.3f')} "
            f"| {interval(row['ln_ppl_difference'], '+.4f')} | {ours:.3f} / {theirs:.3f} |"
        )
    print("\n| budget | ln PPL to source | best fixed to source | p99.9 to best fixed |")
    print("|---|---|---|---|")
    for row in document["rows"]:
        print(
            f"| {row['budget']:,} | {interval(row['ln_ppl_to_source'], '+.4f')} "
            f"| {interval(row['baseline_ln_ppl_to_source'], '+.4f')} "
            f"| {interval(row['kld_p999_ratio'], '.3f')} |"
        )
    print("\n| budget | KLD behind line ends | KLD elsewhere | p99.9 elsewhere, ratio [95 %] |")
    print("|---|---|---|---|")
    for row in document["rows"]:
        apart = row["without_line_ends"]
        print(
            f"| {row['budget']:,} | {' / '.join(f'{x:.0%}' for x in apart['share_of_kld'])} "
            f"| {' / '.join(f'{x:.5f}' for x in apart['kld'])} "
            f"| {' / '.join(f'{x:.3f}' for x in apart['kld_p999'])}, "
            f"{interval(apart['kld_p999_ratio'], '.3f')} |"
        )
    cost = document["cost"]
    print(
        f"geometric mean {document['geometric_mean_ratio']:.3f}; {cost['wall_s']:.0f} s wall, "
        f"{cost['cpu_s']:.0f} s CPU, {cost['forward_s']:.0f} s of them in "
        f"{cost['forward_passes']} forward passes"
    )


if __name__ == "__main__":
    main()
