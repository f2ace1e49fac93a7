"""Options that several verbs share, each defined once."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from apex_native.machine import MOST_THREADS

__all__ = [
    "ForceOption",
    "JsonOption",
    "ModelArgument",
    "NameStyleChoice",
    "PlanChoices",
    "QuietOption",
    "SemanticsChoice",
    "ThreadsOption",
    "examples",
    "help_style",
    "parse_size",
    "spread",
]

BASE = "What to make (one of these)"
OVERRIDES = "Overrides"
ABOUT = "What the file says of itself (default: as the source)"
RUN = "Running"


class SemanticsChoice(StrEnum):
    """The two readings of a tier: `apex_native.plan.make_plan` explains them."""

    PUBLISHED = "published"
    DECLARED = "declared"


class NameStyleChoice(StrEnum):
    """The values of `apex_native.reports.NameStyle`."""

    HUB = "hub"
    PUBLISHED = "published"


def parse_size(text: str) -> int:
    """Bytes from ``2G``: K, M, G, T count in 1024s, KB, MB, GB, TB in 1000s, none is bytes.

    Raises typer.BadParameter, which becomes a usage error.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(B|iB)?|B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"'{text}' is no size; write it like 2G, 512M or 50GB")
    number, unit, suffix = match.groups()
    base = 1000 if (suffix or "").upper() == "B" else 1024
    exponent = " KMGT".index((unit or " ").upper())
    size = int(float(number) * base**exponent)
    if size < 1:
        raise typer.BadParameter(f"'{text}' must be at least one byte")
    return size


ModelArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="GGUF model, or any shard of a split one.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout instead of text.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Results and errors only: no progress, no warnings.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what exists.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_THREADS, metavar="N", show_default="all", help="Threads.",
        rich_help_panel=RUN,
    ),
]  # fmt: skip


@dataclass(frozen=True)
class PlanChoices:
    """What to make of a model: the options that `plan` and `quantize` have in common."""

    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            metavar="TIER",
            rich_help_panel=BASE,
            help="APEX tier: quality, balanced, compact, mini, nano or micro; i-quality, "
            "i-balanced and i-compact are the same with an importance matrix; NAME-short where "
            "rows are no multiples of 256; or a tier file of your own, PATH.toml. quantize takes "
            "several, A,B,C or all: the source is read once.",
        ),
    ] = None
    ftype: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="FTYPE",
            rich_help_panel=BASE,
            help="A file type of llama-quantize, decided as it would: Q8_0, Q4_K_M, IQ3_S, ... "
            "quantize takes several, A,B,C.",
        ),
    ] = None
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="OTHER.gguf",
            rich_help_panel=BASE,
            help="Take over the types of another GGUF file of the same model.",
        ),
    ] = None
    semantics: Annotated[
        SemanticsChoice,
        typer.Option(
            "--semantics",
            rich_help_panel=OVERRIDES,
            help="How a tier is read: as its published files were made, or every rule literally.",
        ),
    ] = SemanticsChoice.PUBLISHED
    edges: Annotated[
        str | None,
        typer.Option(
            "--edges",
            metavar="E,N,A",
            rich_help_panel=OVERRIDES,
            help="Layers that count as edge at each end: E for experts, N near it (default: E), "
            "A for attention (default: by depth). E or E,N will do.",
        ),
    ] = None
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            metavar="REGEX=TYPE",
            rich_help_panel=OVERRIDES,
            help="A type for the tensors whose name matches; repeatable, the first match decides.",
        ),
    ] = None
    tensor_type_file: Annotated[
        Path | None,
        typer.Option(
            "--tensor-type-file",
            metavar="PATH",
            rich_help_panel=OVERRIDES,
            help="A file of REGEX=TYPE rules; they come after those of --tensor-type.",
        ),
    ] = None
    output_tensor_type: Annotated[
        str | None,
        typer.Option(
            "--output-tensor-type",
            metavar="TYPE",
            rich_help_panel=OVERRIDES,
            help="Type of output.weight.",
        ),
    ] = None
    token_embedding_type: Annotated[
        str | None,
        typer.Option(
            "--token-embedding-type",
            metavar="TYPE",
            rich_help_panel=OVERRIDES,
            help="Type of the token embeddings.",
        ),
    ] = None
    leave_output_tensor: Annotated[
        bool,
        typer.Option(
            "--leave-output-tensor",
            rich_help_panel=OVERRIDES,
            help="Keep output.weight as it is in the source.",
        ),
    ] = False
    pure: Annotated[
        bool,
        typer.Option(
            "--pure",
            rich_help_panel=OVERRIDES,
            help="No mix: every tensor in the file type's default type.",
        ),
    ] = False
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            rich_help_panel=OVERRIDES,
            help="Write layer counts without layers for multi-token prediction that the file "
            "promises and does not have.",
        ),
    ] = False
    prune_layers: Annotated[
        str | None,
        typer.Option(
            "--prune-layers",
            metavar="L,L,...",
            rich_help_panel=OVERRIDES,
            help="Leave these layers out; the others move up, as llama-quantize does it.",
        ),
    ] = None
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            rich_help_panel=OVERRIDES,
            help="Metadata to write instead of the source's, as llama-quantize takes it (int, "
            "float, bool, str); repeatable.",
        ),
    ] = None
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix",
            metavar="PATH",
            help="Importance matrix, as llama-imatrix writes it (GGUF or .dat).",
        ),
    ] = None
    prior: Annotated[
        str,
        typer.Option(
            "--prior",
            metavar="auto|none|K|all-experts:K",
            help="How far an expert's own tokens outweigh the layer's mean profile (or a pass with "
            "all experts): K is worth as many tokens. none gives llama-quantize's bytes.",
        ),
    ] = "auto"
    model_name: Annotated[
        str | None,
        typer.Option("--model-name", metavar="NAME", rich_help_panel=ABOUT, help="general.name."),
    ] = None
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="OWNER/REPO",
            rich_help_panel=ABOUT,
            help="The original on the Hub: general.base_model.0.*.",
        ),
    ] = None
    license: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", rich_help_panel=ABOUT, help="general.license: apache-2.0."
        ),
    ] = None
    quantized_by: Annotated[
        str | None,
        typer.Option(
            "--quantized-by", metavar="NAME", rich_help_panel=ABOUT, help="general.quantized_by."
        ),
    ] = None
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail on warnings of the audit instead of listing them."),
    ] = False

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that are not at their default."""
        return tuple(
            field.name for field in fields(self) if getattr(self, field.name) != field.default
        )


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Make the fields of a command's dataclass parameters options of their own.

    typer reads a function's signature; this writes one in which a parameter of type
    `PlanChoices` is replaced by its fields, so that verbs share options without repeating them.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            groups[parameter.name] = hint
            parameters += _field_parameters(hint)
        else:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hint, kind=keyword))

    def flat(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    flat.__name__ = command.__name__
    flat.__doc__ = command.__doc__
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flat


def _field_parameters(group: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )


def help_style() -> Literal["rich"] | None:
    """Panels in a terminal; plain text in a pipe, or where the user wants no colour."""
    return "rich" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else None


def examples(*commands: str) -> str:
    """The end of a help page: one command a line, in either style of help."""
    if help_style() is None:
        # \b keeps the line breaks of a paragraph.
        return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)
    return "\n\n".join(("Examples:", *(f"  {command}" for command in commands)))
