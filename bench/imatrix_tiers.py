"""KLD of tiers with and without an importance matrix, on wiki text and on each domain.

    python bench/imatrix_tiers.py --calibration a.txt b.txt ... --evaluation wiki.txt a.txt ...
        [--chunks 96] [--bytes 60000] [--prior auto]

Calibrates the demo model on chunks taken in turn from each calibration text, quantizes every tier
and measures the KL divergence from the BF16 model over the end of each evaluation text. Prints a
table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import apex_native as apex
from apex_native.imatrix import expert_coverage
from divergence import Divergence, calibration_chunks, divergences, text_end

TIERS = ["quality", "i-quality", "compact", "i-compact", "mini"]


def write_tiers(matrix: apex.Imatrix, prior: str, tiers: list[str], folder: Path) -> list[Path]:
    files = []
    with apex.open_gguf(apex.demo_model()) as source:
        for tier in tiers:
            used = matrix if tier.startswith("i-") or tier in ("mini", "nano", "micro") else None
            plan = apex.make_plan(source, tier=tier, imatrix=used, prior=prior)
            files.append(folder / f"{tier}.gguf")
            apex.quantize(source, plan, files[-1], imatrix=used)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--evaluation", type=Path, nargs="+", required=True)
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--bytes", type=int, default=60_000, help="of each evaluation text")
    parser.add_argument("--prior", default="auto")
    parser.add_argument("--tiers", default=",".join(TIERS))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tiers = options.tiers.split(",")
    with apex.load_model(apex.demo_model(), n_threads=options.threads) as model:
        chunks = calibration_chunks(model, options.calibration, options.chunks)
        raw = apex.collect_imatrix(model, chunks)
    never = expert_coverage(raw).never_hit
    print(f"{raw.chunk_count} chunks, prior {options.prior}, never hit: {never or 'none'}")
    table: dict[str, list[Divergence]] = {}
    with tempfile.TemporaryDirectory() as name:
        files = write_tiers(raw, options.prior, tiers, Path(name))
        sizes = [path.stat().st_size for path in files]
        for text in options.evaluation:
            found = divergences(files, text_end(text, options.bytes), options.threads)
            table[text.stem] = found
    print(f"{'tier':12} {'bytes':>12} " + " ".join(f"{stem:>20}" for stem in table))
    for i, tier in enumerate(tiers):
        cells = " ".join(f"{rows[i].kld:11.5f} ± {rows[i].error:.4f}".rjust(20)
                         for rows in table.values())  # fmt: skip
        print(f"{tier:12} {sizes[i]:12,} {cells}")
    document = {stem: [asdict(row) for row in rows] for stem, rows in table.items()}
    print(json.dumps({"tiers": tiers, "bytes": sizes, "prior": options.prior, "kld": document}))


if __name__ == "__main__":
    main()
