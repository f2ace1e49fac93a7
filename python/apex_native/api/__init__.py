"""The short way through the stages: the functions that ``import apex_native`` offers.

Light to import: what needs numpy or the native core is imported when a function is called.
"""

from __future__ import annotations

from apex_native.api.benchmarks import bench, bench_kernels
from apex_native.api.converting import convert, gguf_of
from apex_native.api.evaluating import evaluate
from apex_native.api.offers import row_offers
from apex_native.api.planning import LoadCheck, check_load, classify, make_plan
from apex_native.api.reporting import report

__all__ = [
    "LoadCheck",
    "bench",
    "bench_kernels",
    "check_load",
    "classify",
    "convert",
    "evaluate",
    "gguf_of",
    "make_plan",
    "report",
    "row_offers",
]
