"""``apex-native plan``: what a file would become, before a byte is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.checkpoint_options import (
    CheckpointChoices,
    SourceArgument,
    note_lines,
    open_model,
)
from apex_native.cli.choices import (
    choices_document,
    offers_document,
    show_choices,
    show_fit,
    show_offers,
)
from apex_native.cli.errors import UsageError
from apex_native.cli.fit_options import FitChoices, rooms_of, settings_of
from apex_native.cli.option_names import in_options
from apex_native.cli.options import (
    ForceOption,
    JsonOption,
    PlanChoices,
    QuietOption,
    examples,
    spread,
)
from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.api.choosing import Choices
    from apex_native.api.offers import RowOffers
    from apex_native.conversion import ModelInput
    from apex_native.plan import Finding, Plan
    from apex_native.reports import PlanComparison

__all__ = ["register", "show_findings", "show_plan", "warn_of_findings"]


_OF_EVERY_RECIPE = {"model_name", "base_model", "license", "quantized_by"}

CompareOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RECIPE[,RECIPE...]",
        help="Set the plan beside other tiers or file types; without a plan of your own, show only "
        "these in the table.",
    ),
]
RecipeOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--recipe",
        metavar="PATH",
        help="A tier file or a saved plan to list beside tiers and file types; repeatable.",
    ),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--results", metavar="eval.json", help="What is known of the files' KLD, for the table."
    ),
]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="List every tensor, its type and why.")
]
PlanOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="plan.json", help="Save the plan for `quantize --plan`."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "plan",
        short_help="Decide every tensor's type and the file's size.",
        epilog=examples(
            "apex-native plan model-bf16.gguf --tier quality",
            "apex-native plan model-bf16.gguf --tier mini --imatrix imatrix.gguf -o plan.json",
            "apex-native plan model-bf16.gguf --type Q4_K_M --tensor-type ssm_out=q8_0",
            "apex-native plan model-bf16.gguf --tier compact --compare Q4_K_M,IQ4_XS",
            "apex-native plan model-bf16.gguf",
            "apex-native plan model-bf16.gguf --fit 16GiB --ctx 32768 --type-k q8_0 --type-v q8_0",
            'apex-native plan model-bf16.gguf --gpu "RTX 4060 Ti 16GB" --gpu "RTX 3090"',
        ),
    )(spread(plan))


def plan(
    file: SourceArgument,
    choices: PlanChoices,
    fit: FitChoices,
    checkpoint: CheckpointChoices,
    compare: CompareOption = None,
    recipe: RecipeOption = None,
    results: ResultsOption = None,
    explain: ExplainOption = False,
    output: PlanOutputOption = None,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Decide the type of every tensor and the exact size of the file, and show both.

    Without a tier or type: one table of all there are, and of what fits with --fit.
    Works on a header without data: a 65 GB model is planned before it is downloaded.
    """
    from apex_native.api import row_offers
    from apex_native.cli.planning import Planner, pruned, require_writable
    from apex_native.reports import compare_plans

    out = Output(json_mode=json_mode, quiet=quiet)
    if output is not None:
        require_writable(output, force=force)
    names = [part for text in compare or () for part in text.split(",") if part.strip()]
    with open_model(file, checkpoint) as source:
        if is_choice(source, choices):
            if output is not None or explain:
                raise UsageError("a table of recipes is no plan; choose one with --tier or --type")
            _show_table(out, file, _choose(source, choices, fit, names, recipe, results))
            return
        planner = Planner(pruned(source, choices.prune_layers), choices)
        made = planner.planned().plan
        read_otherwise = planner.other_semantics()
        fitting = _fitted(source, made, fit)
        notes = note_lines(source)
        offers = row_offers(source, made, imatrix=choices.imatrix)
        compared = {name: compare_plans(made, planner.compared(name)) for name in names}
    if output is not None:
        made.save(output)
        out.note(f"plan saved as {output}")
    if json_mode:
        out.document(_document(made, compared, fitting, offers, file))
        return
    show_plan(out, made)
    if fitting is not None:
        show_fit(out, fitting, file.name)
    if read_otherwise is not None:
        out.text(_semantics_line(read_otherwise[0].value, compare_plans(made, read_otherwise[1])))
    show_findings(out, made, every=explain, notes=notes)
    if offers is not None:
        show_offers(out, offers)
    _show_more(out, made if explain else None, compared)


def _show_more(out: Output, explained: Plan | None, compared: Mapping[str, PlanComparison]) -> None:
    for name, comparison in compared.items():
        out.text()
        out.table(_comparison_table(name, comparison))
    if explained is not None:
        out.text()
        out.table(_explanation(explained))


def _show_table(out: Output, file: Path, found: Choices) -> None:
    show_choices(out, found, file.name)
    out.document(choices_document(found, file.name))


def _document(
    plan: Plan,
    compared: Mapping[str, PlanComparison],
    fitting: Choices | None,
    offers: RowOffers | None,
    file: Path,
) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(plan.to_json())
    if compared:
        document["compare"] = [
            _comparison_document(name, comparison) for name, comparison in compared.items()
        ]
    if fitting is not None:
        document["fit"] = choices_document(fitting, file.name)
    if offers is not None:
        document["offers"] = offers_document(offers)
    return document


def is_choice(source: ModelInput, choices: PlanChoices) -> bool:
    """No recipe is given for a model that needs one."""
    from apex_native.classification import FileKind, find_kind

    bases = {"tier", "ftype", "like"}
    return not bases & set(choices.given) and find_kind(source.facts) is FileKind.MODEL


def _choose(
    source: ModelInput,
    choices: PlanChoices,
    fit: FitChoices,
    names: Sequence[str],
    saved: Sequence[Path] | None,
    results: Path | None,
) -> Choices:
    from apex_native.api.choosing import choose
    from apex_native.cli.planning import about_of
    from apex_native.results import Results

    bad = [name for name in choices.given if name not in _OF_EVERY_RECIPE]
    if bad:
        option = "--" + bad[0].replace("_", "-")
        raise UsageError(f"{option} belongs to a recipe; choose one with --tier, --type or --like")
    return choose(
        source,
        names,
        saved=saved or (),
        settings=settings_of(fit),
        room=rooms_of(fit),
        mmproj=fit.mmproj,
        results=None if results is None else Results.load(results),
        about=about_of(choices),
    )


def _fitted(source: ModelInput, plan: Plan, fit: FitChoices) -> Choices | None:
    """What the one plan that was asked for takes; None where nobody asked."""
    rooms = rooms_of(fit)
    if not rooms:
        return None
    from apex_native.api.choosing import fit_plan

    return fit_plan(source, plan, settings_of(fit), rooms, mmproj=fit.mmproj)


def show_plan(out: Output, plan: Plan) -> None:
    """The table for people, the size, and the rule for the edges."""
    from apex_native.reports import role_layouts

    columns = (
        Column("role"),
        Column("types by layer", wraps=True),
        Column("tensors", right=True, drop=2),
        Column("bytes", right=True, drop=1),
        Column("bpw", right=True),
    )
    rows = [
        (row.role.value, row.types, str(row.n_tensors), f"{row.nbytes:,}", f"{row.bpw:.3f}")
        for row in role_layouts(plan)
    ]
    footer = ("all", "", str(len(plan.tensors)), f"{plan.tensor_bytes:,}", f"{plan.bpw:.3f}")
    out.table(Table(columns, rows, footer))
    out.text()
    out.text(f"file     {exact_size(plan.total_bytes)}, {plan.bpw:.3f} bits per weight")
    out.text(f"recipe   {_recipe(plan)}")
    if plan.edges is not None:
        edges = plan.edges
        out.text(
            f"edges    experts {edges.expert}, near {edges.near}, attention {edges.attention} "
            f"layers at each end; {plan.edges_rule}"
        )


def _recipe(plan: Plan) -> str:
    if plan.tier is not None:
        return f"tier {plan.tier} over {plan.ftype}, {plan.semantics} semantics"
    return f"file type {plan.ftype}" if plan.ftype else "like another file"


def _semantics_line(other: str, difference: PlanComparison) -> str:
    if not difference.n_tensors:
        return f"rules    {other} semantics give the same file"
    return (
        f"rules    {difference.n_tensors} tensors differ from {other} semantics, which give "
        f"{exact_size(difference.other_total_bytes)}: {difference.summary()}; "
        f"--semantics {other} shows the other, --explain every tensor"
    )


def show_findings(
    out: Output, plan: Plan, *, every: bool = False, notes: Sequence[str] = ()
) -> None:
    """The audit, the most severe first; one line a kind, or every finding; and notes."""
    from apex_native.reports import group_findings

    for group in group_findings(plan.findings):
        lines = [group.line()]
        if every:
            lines = [f"{f.tensor}: {f.message}" if f.tensor else f.message for f in group.findings]
        for line in lines:
            out.text(f"{group.severity.value:<9}{in_options(line)}")
    for line in notes:
        out.text(line)


def warn_of_findings(out: Output, findings: Sequence[Finding]) -> None:
    """What needs a look, on stderr before the work: one line a kind."""
    from apex_native.plan import Severity
    from apex_native.reports import group_findings

    for group in group_findings(findings):
        if group.severity is Severity.WARNING:  # the run refuses what blocks it
            out.warning(in_options(group.line()))


def _comparison_table(name: str, comparison: PlanComparison) -> Table:
    columns = (
        Column("role"),
        Column("bytes", right=True, drop=2),
        Column(name, right=True, drop=1),
        Column("difference", right=True),
    )

    def cells(label: str, ours: int, theirs: int) -> tuple[str, ...]:
        return (label, f"{ours:,}", f"{theirs:,}", f"{ours - theirs:+,}")

    return Table(
        columns,
        [cells(row.role.value, row.nbytes, row.other_nbytes) for row in comparison.roles],
        cells("file", comparison.total_bytes, comparison.other_total_bytes),
        notes=(f"{comparison.n_tensors} tensors have another type",),
    )


def _explanation(plan: Plan) -> Table:
    columns = (
        Column("tensor", wraps=True),
        Column("type"),
        Column("bytes", right=True, drop=1),
        Column("why", wraps=True),
    )
    rows = [
        (
            tensor.name,
            tensor.type.name,
            f"{tensor.nbytes:,}",
            f"{tensor.reason}; {tensor.note}" if tensor.note else tensor.reason,
        )
        for tensor in plan.tensors
    ]
    return Table(columns, rows)


def _comparison_document(name: str, comparison: PlanComparison) -> dict[str, Any]:
    return {
        "with": name,
        "total_bytes": comparison.other_total_bytes,
        "tensors_that_differ": comparison.n_tensors,
        "roles": [{**asdict(row), "role": row.role.value} for row in comparison.roles],
    }
