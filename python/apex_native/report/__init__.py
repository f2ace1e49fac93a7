"""Stage `report`: classifications, plans and manifests in, rows of tables out.

Pure: no weights, no terminal, no native extension; `cli` lays the rows out.
"""

from __future__ import annotations

from apex_native.report.compare import PlanComparison, RoleBytes, TypeChange, compare_plans
from apex_native.report.facts import ModelFacts, model_facts
from apex_native.report.findings import FindingGroup, group_findings
from apex_native.report.layers import format_layers
from apex_native.report.layout import RoleLayout, role_layouts
from apex_native.report.naming import default_output_name
from apex_native.report.roles import (
    ERROR_GROUPS,
    RoleStatistics,
    StoredRow,
    grouped_errors,
    role_statistics,
    stored_rows,
)

__all__ = [
    "ERROR_GROUPS",
    "FindingGroup",
    "ModelFacts",
    "PlanComparison",
    "RoleBytes",
    "RoleLayout",
    "RoleStatistics",
    "StoredRow",
    "TypeChange",
    "compare_plans",
    "default_output_name",
    "format_layers",
    "group_findings",
    "grouped_errors",
    "model_facts",
    "role_layouts",
    "role_statistics",
    "stored_rows",
]
