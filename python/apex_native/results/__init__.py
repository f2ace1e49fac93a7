"""What an evaluation found, as values and as a versioned JSON file.

    results = Results.load("eval.json")
    results.candidates[0].kld_mean

Pure: written by `evaluate`, read by `report`; no numpy, no native extension.
"""

from __future__ import annotations

from apex_native.results.document import METRICS_VERSION, SCHEMA_VERSION, Results
from apex_native.results.identity import same_model, same_run
from apex_native.results.merge import merge_results
from apex_native.results.model import (
    Candidate,
    ChunkSums,
    ConfidenceBin,
    MeasuredModel,
    Reference,
    RouterLayer,
    SpeedTest,
)
from apex_native.results.settings import Build, NoiseFloor, Settings, TextData
from apex_native.results.tasks import McNemar, TaskScore, pack_items, unpack_items
from apex_native.results.verdict import MIN_CHUNKS, Comparison, Verdict

__all__ = [
    "METRICS_VERSION",
    "MIN_CHUNKS",
    "SCHEMA_VERSION",
    "Build",
    "Candidate",
    "ChunkSums",
    "Comparison",
    "ConfidenceBin",
    "McNemar",
    "MeasuredModel",
    "NoiseFloor",
    "Reference",
    "Results",
    "RouterLayer",
    "Settings",
    "SpeedTest",
    "TaskScore",
    "TextData",
    "Verdict",
    "merge_results",
    "pack_items",
    "same_model",
    "same_run",
    "unpack_items",
]
