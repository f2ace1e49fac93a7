"""What a searched file says of its search, in pairs whose size does not depend on the result."""

from __future__ import annotations

from collections.abc import Mapping

from apex_native.allocation.verdict import Ratio
from apex_native.types import MetadataValue

__all__ = ["UNKNOWN", "search_facts"]


def search_facts(
    *, kld: float, kld_se: float, ratio: Ratio | None, text_sha256: str, seed: int
) -> Mapping[str, MetadataValue]:
    """KLD on the verify part (nats), its ratio to the best fixed recipe's, text and seed."""
    none = float("nan")
    return {
        "apex.search.kld_mean": kld,
        "apex.search.kld_se": kld_se,
        "apex.search.ratio": none if ratio is None else ratio.value,
        "apex.search.ratio_low": none if ratio is None else ratio.low,
        "apex.search.ratio_high": none if ratio is None else ratio.high,
        "apex.search.seed": min(seed, 2**32 - 1),
        "apex.search.text_sha256": text_sha256,
    }


UNKNOWN = search_facts(kld=0.0, kld_se=0.0, ratio=None, text_sha256="0" * 64, seed=0)
"""Stands in while sizes are planned: as many bytes as any."""
