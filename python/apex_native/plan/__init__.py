"""Planning: which ggml type each tensor gets, and what the file will weigh.

Takes a Classification and the file's GgufFacts, gives a frozen Plan that can be saved as JSON.
Pure Python; nothing here reads weights or needs the native extension.
"""

from __future__ import annotations

from apex_native.plan.about import About
from apex_native.plan.edges import Edges, Position, default_edges
from apex_native.plan.ftypes import FileType
from apex_native.plan.imatrix import EntryDoubts, EntryFit, ImatrixSummary, ImatrixUse
from apex_native.plan.make import make_plan
from apex_native.plan.model import SCHEMA_VERSION, Plan
from apex_native.plan.own_rules import has_other_types, has_own_rules
from apex_native.plan.parts import (
    DecidedBy,
    Finding,
    FindingKind,
    PlanDifference,
    PlannedTensor,
    PlanOptions,
    RoleSummary,
    Severity,
    rules_sha256,
)
from apex_native.plan.request import Semantics
from apex_native.plan.rules import TensorTypeRule, parse_rule, parse_rule_file
from apex_native.plan.tier import (
    Tier,
    TierRule,
    every_tier_name,
    is_tier_name,
    load_tier,
    tier_names,
    tier_text,
)

__all__ = [
    "SCHEMA_VERSION",
    "About",
    "DecidedBy",
    "Edges",
    "EntryDoubts",
    "EntryFit",
    "FileType",
    "Finding",
    "FindingKind",
    "ImatrixSummary",
    "ImatrixUse",
    "Plan",
    "PlanDifference",
    "PlanOptions",
    "PlannedTensor",
    "Position",
    "RoleSummary",
    "Semantics",
    "Severity",
    "TensorTypeRule",
    "Tier",
    "TierRule",
    "default_edges",
    "every_tier_name",
    "has_other_types",
    "has_own_rules",
    "is_tier_name",
    "load_tier",
    "make_plan",
    "parse_rule",
    "parse_rule_file",
    "rules_sha256",
    "tier_names",
    "tier_text",
]
