"""Findings that are published about tiers, each as a test on one model: claim, test, verdict.

    python bench/search_claims.py MODEL --imatrix M --narrow-imatrix P -f TEXT [-f TEXT...]
        [--budgets 15556160,11959360,7872832] [--chunks 64] [-o SECTION.md]

Every strategy of `apex-native strategies` at every size, all of the same bytes, on text that
nothing was made for. A test is a ratio of two KLDs on the same chunks with its paired 95 %
interval: below 1 at every size where it could be made, and below 1 with the whole interval at one
of them, is "holds", the reverse "contradicted". narrow: an importance matrix of one kind of text.
Prints a section of bench/results/search_claims.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import apex_native as apex
from apex_native.allocation import (
    DomainText,
    Effort,
    Ranking,
    SearchRequest,
    TextSizes,
    rank_strategies,
    uniform_types,
)
from apex_native.allocation.verdict import Ratio
from apex_native.engine import Placement
from apex_native.imatrix import load_imatrix, read_text

NARROW = "uniform-narrow-matrix"


@dataclass(frozen=True)
class Claim:
    """better should have the lower KLD; names of strategies."""

    says: str
    test: str
    better: str
    worse: str


CLAIMS = (
    Claim("Q6_K is the sweet spot for routed experts", "routed experts in Q6_K, the rest cheaper, "
          "against the same bits everywhere", "experts-Q6_K", "uniform"),
    Claim("Layer position matters more than uniform bits", "experts of 5 of 40 layers at each end "
          "a bit above, against uniform", "edges-5", "uniform"),
    Claim("", "two bits more at the first layer, falling", "front-heavy", "uniform"),
    Claim("", "two bits more at the last layer, rising", "back-heavy", "uniform"),
    Claim("Shared-expert precision is critical", "shared experts in Q8_0, against Q4_K",
          "shared-Q8_0", "shared-Q4_K"),
    Claim("", "shared experts in Q8_0, against uniform", "shared-Q8_0", "uniform"),
    Claim("IQ3_S is worse than Q3_K", "routed experts in Q3_K, against IQ3_S", "experts-Q3_K",
          "experts-IQ3_S"),
    Claim("", "K types only, against IQ types only", "uniform-k", "uniform-iq"),
    Claim("Diverse calibration helps", "uniform with the matrix M of many kinds of text, against P",
          "uniform", NARROW),
    Claim("", "uniform with a matrix, against none", "uniform", "uniform-no-matrix"),
    Claim("Attention and state space first", "Q8_0 for them and shared experts, against uniform",
          "always-active-Q8_0", "uniform"),
    Claim("", "down of the experts a bit above gate and up, against uniform", "down-above",
          "uniform"),
)  # fmt: skip


def main() -> None:
    options = parsed()
    imatrix, narrow = load_imatrix(options.imatrix), load_imatrix(options.narrow_imatrix)
    request = SearchRequest(
        tuple(int(part) for part in options.budgets.split(",")),
        tuple(DomainText(Path(p).name, read_text([Path(p)])) for p in options.text),
        effort=Effort(TextSizes(fit=12, verify=options.chunks)),
        placement=Placement(n_threads=options.threads),
    )
    rankings = []
    with apex.open_gguf(options.model) as source:
        for budget in request.budgets:
            one = replace(request, budgets=(budget,))
            types = uniform_types(source, one, imatrix)
            more = {NARROW: ("uniform with a matrix of one text", types, narrow)}
            rankings += rank_strategies(source, one, imatrix, more=more)
    report = page(rankings, options)
    print(report)
    if options.output:
        Path(options.output).write_text(report)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("--narrow-imatrix", required=True)
    parser.add_argument("-f", "--text", action="append", required=True)
    parser.add_argument("--budgets", default="15556160,11959360,7872832")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--title")
    parser.add_argument("-o", "--output")
    return parser.parse_args()


def verdict(ratios: Sequence[Ratio]) -> str:
    if not ratios:
        return "not testable at these sizes"
    if all(r.value < 1 for r in ratios) and any(r.high < 1 for r in ratios):
        return "holds"
    if all(r.value > 1 for r in ratios) and any(r.low > 1 for r in ratios):
        return "contradicted"
    if any(r.high < 1 for r in ratios) and any(r.low > 1 for r in ratios):
        return "depends on the size"
    return "undecided"


def cell(ratio: Ratio | None) -> str:
    return "–" if ratio is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def page(rankings: Sequence[Ranking], options: argparse.Namespace) -> str:
    """A section on one model."""
    sizes = [f"{ranking.budget / 1e6:.2f} MB" for ranking in rankings]
    names = " ".join(f"-f {Path(path).name}" for path in options.text)
    lines = [
        f"## {options.title or Path(options.model).stem}",
        "",
        "```console",
        f"python bench/search_claims.py {Path(options.model).name} --imatrix M \\",
        f"    --narrow-imatrix P --budgets {options.budgets} --chunks {options.chunks} \\",
        f"    {names}",
        "```",
        "",
        "| claim | test | " + " | ".join(sizes) + " | verdict |",
        "|---|---|" + "---|" * len(sizes) + "---|",
    ]
    for claim in CLAIMS:
        ratios = [ranking.ratio(claim.better, claim.worse) for ranking in rankings]
        found = verdict([ratio for ratio in ratios if ratio is not None])
        cells = " | ".join(cell(ratio) for ratio in ratios)
        lines.append(f"| {claim.says} | {claim.test} | {cells} | {found} |")
    for ranking, size in zip(rankings, sizes, strict=True):
        lines += ["", f"### All strategies, at most {size}", "", *strategies_of(ranking)]
    return "\n".join(lines)


def strategies_of(ranking: Ranking) -> list[str]:
    lines = ["| | strategy | KLD | to uniform |", "|---|---|---|---|"]
    for place, row in enumerate(ranking.rows, 1):
        to_uniform = cell(ranking.ratio(row.name, "uniform"))
        kld = f"{row.kld_mean:.4f} ± {row.kld_se:.4f}"
        lines.append(f"| {place} | {row.name}: {row.says} | {kld} | {to_uniform} |")
    if ranking.skipped:
        lines += ["", f"Does not fit: {', '.join(ranking.skipped)}."]
    return lines


if __name__ == "__main__":
    main()
