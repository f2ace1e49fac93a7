"""Stage `report`: classifications, plans and manifests in, rows of tables out; evaluations in,
Markdown, CSV and plots out.

Pure: no weights, no terminal, no native extension; `cli` lays the rows out. matplotlib is
imported when a plot is drawn.
"""

from __future__ import annotations

from apex_native.reports.by_text import TextGain, text_gains
from apex_native.reports.compare import PlanComparison, RoleBytes, TypeChange, compare_plans
from apex_native.reports.facts import ModelFacts, model_facts
from apex_native.reports.findings import FindingGroup, group_findings
from apex_native.reports.kernels import (
    KernelLine,
    MeasuredKernel,
    kernel_advice,
    kernel_lines,
    roofline_share,
)
from apex_native.reports.kinds import recipe_in_name
from apex_native.reports.layers import format_layers
from apex_native.reports.layout import RoleLayout, role_layouts
from apex_native.reports.naming import NameStyle, default_output_name, name_tag
from apex_native.reports.roles import (
    ERROR_GROUPS,
    RoleStatistics,
    StoredRow,
    grouped_errors,
    role_statistics,
    stored_rows,
)
from apex_native.reports.write import (
    FORMATS,
    ReportFormat,
    WrittenReport,
    default_title,
    report_files,
    write_report,
)

__all__ = [
    "ERROR_GROUPS",
    "FORMATS",
    "FindingGroup",
    "KernelLine",
    "MeasuredKernel",
    "ModelFacts",
    "NameStyle",
    "PlanComparison",
    "ReportFormat",
    "RoleBytes",
    "RoleLayout",
    "RoleStatistics",
    "StoredRow",
    "TextGain",
    "TypeChange",
    "WrittenReport",
    "compare_plans",
    "default_output_name",
    "default_title",
    "format_layers",
    "group_findings",
    "grouped_errors",
    "kernel_advice",
    "kernel_lines",
    "model_facts",
    "name_tag",
    "recipe_in_name",
    "report_files",
    "role_layouts",
    "role_statistics",
    "roofline_share",
    "stored_rows",
    "text_gains",
    "write_report",
]
