"""KLD of tiers with and without an importance matrix, on wiki text and on each domain.

    python bench/imatrix_tiers.py --tools build/reference/reference --calibration a.txt b.txt ...
        --evaluation wiki.txt a.txt ... [--chunks 96] [--bytes 40000] [--prior auto]

Calibrates the demo model on chunks taken in turn from each calibration text, quantizes every tier
and measures the KL divergence from the BF16 model over the end of each evaluation text with
upstream's llama-perplexity. Prints a table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import apex_native as apex
from apex_native.imatrix import expert_coverage, parse_prior, with_prior
from imatrix_prior import Divergence, calibration_chunks, write_evaluation

TIERS = ["quality", "i-quality", "compact", "i-compact", "mini"]


def write_tiers(matrix: apex.Imatrix, tiers: list[str], folder: Path) -> dict[str, Path]:
    files = {}
    with apex.open_gguf(apex.demo_model()) as source:
        for tier in tiers:
            used = matrix if tier.startswith("i-") or tier in ("mini", "nano", "micro") else None
            plan = apex.make_plan(source, tier=tier, imatrix=used)
            files[tier] = folder / f"{tier}.gguf"
            apex.quantize(source, plan, files[tier], imatrix=used)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama-perplexity")
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--evaluation", type=Path, nargs="+", required=True)
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--bytes", type=int, default=40_000, help="of each evaluation text")
    parser.add_argument("--prior", default="auto")
    parser.add_argument("--tiers", default=",".join(TIERS))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with apex.load_model(apex.demo_model(), n_threads=options.threads) as model:
        chunks = calibration_chunks(model, options.calibration, options.chunks)
        raw = apex.collect_imatrix(model, chunks)
    matrix = with_prior(raw, parse_prior(options.prior))
    never = expert_coverage(raw).never_hit
    print(f"{raw.chunk_count} chunks, prior {matrix.prior or 'none'}, never hit: {never or 'none'}")
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_tiers(matrix, options.tiers.split(","), folder)
        sizes = {tier: path.stat().st_size for tier, path in files.items()}
        for text in options.evaluation:
            write_evaluation([text], options.bytes, folder / "text.txt")
            divergence = Divergence(options.tools, folder, folder / "text.txt", options.threads)
            for tier, path in files.items():
                table.setdefault(tier, {})[text.stem] = divergence.of(path)
    stems = [text.stem for text in options.evaluation]
    print(f"{'tier':12} {'bytes':>12} " + " ".join(f"{stem:>20}" for stem in stems))
    for tier, row in table.items():
        cells = " ".join(f"{row[s][0]:11.5f} ± {row[s][1]:.5f}"[:20].rjust(20) for s in stems)
        print(f"{tier:12} {sizes[tier]:12,} {cells}")
    print(json.dumps({"bytes": sizes, "kld": table, "prior": matrix.prior}))


if __name__ == "__main__":
    main()
