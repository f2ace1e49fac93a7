"""From the options of `plan` and `quantize` to a plan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from apex_native.cli.errors import UsageError
from apex_native.cli.options import PlanChoices, SemanticsChoice
from apex_native.errors import PlanError
from apex_native.pruning import PrunedSource

if TYPE_CHECKING:
    from apex_native.conversion import ModelInput
    from apex_native.imatrix import Imatrix
    from apex_native.plan import About, Edges, Plan
    from apex_native.types import Classification, GgmlType

__all__ = ["Planned", "Planner", "about_of", "pruned", "read_imatrix",
           "require_writable"]  # fmt: skip

_T = TypeVar("_T")

_BASES = {"tier": "--tier", "ftype": "--type", "like": "--like"}


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what it was made from."""

    plan: Plan
    imatrix: Imatrix | None
    classification: Classification


def pruned(source: ModelInput, layers: str | None, *, collects: bool = False) -> Any:
    """The source, or a `PrunedSource` of it, without the layers of ``--prune-layers``.

    collects: an importance matrix is to be collected, which runs the whole model.
    """
    if layers is None:
        return source
    if collects:
        raise typer.BadParameter(
            "runs the whole model; collect a matrix of the pruned file instead",
            param_hint="--calibration",
        )
    numbers = [part.strip() for part in layers.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise typer.BadParameter(
            f"'{layers}' is no list of layers; write it like 20,21", param_hint="--prune-layers"
        )
    return PrunedSource(source, [int(number) for number in numbers])


def _pruned_matrix(imatrix: Imatrix, source: PrunedSource) -> Imatrix:
    """A matrix of the whole model under the names of what is left of it."""
    renamed = {source.new_name(name): entry for name, entry in imatrix.entries.items()}
    kept = {name: entry for name, entry in renamed.items() if name is not None}
    return replace(imatrix, entries=MappingProxyType(kept))


class Planner:
    """Makes plans for one open file from parsed options.

    What is wrong with an option itself (an unknown type, a rule that cannot be read) is a usage
    error; what does not fit the file is a PlanError.
    """

    def __init__(self, source: ModelInput | PrunedSource, choices: PlanChoices) -> None:
        """Check the options and read the files they name."""
        from apex_native.classification import FileKind, classify_tensors, find_kind
        from apex_native.imatrix import parse_prior
        from apex_native.plan import FileType, load_tier, parse_rule

        _require_one_base(choices, optional=find_kind(source.facts) is not FileKind.MODEL)
        if choices.tier is not None:
            _require_one_recipe(choices.tier)
            _parsed("--tier", load_tier, choices.tier)
        if choices.ftype is not None:
            _parsed("--type", FileType.parse, choices.ftype)
        self._source = source
        self._choices = choices
        self._rules = _rules(choices)
        for rule in self._rules:
            _parsed("--tensor-type", parse_rule, rule)
        self._output_type = _type("--output-tensor-type", choices.output_tensor_type)
        self._embedding_type = _type("--token-embedding-type", choices.token_embedding_type)
        self.classification = classify_tensors(source.facts)
        self._edges = _edges(choices.edges, self.classification.n_layer)
        self._prior = _parsed("--prior", parse_prior, choices.prior)
        self._imatrix = read_imatrix(choices.imatrix, source)
        self._about = about_of(choices)

    def planned(self) -> Planned:
        """The plan that was asked for."""
        choices = self._choices
        plan = self._make(
            tier=choices.tier,
            ftype=choices.ftype,
            like=choices.like,
            semantics=choices.semantics,
            strict=choices.strict,
        )
        return Planned(plan, self._imatrix, self.classification)

    def other_semantics(self) -> tuple[SemanticsChoice, Plan] | None:
        """The same tier read the other way; None without a tier."""
        if self._choices.tier is None:
            return None
        published = self._choices.semantics is SemanticsChoice.PUBLISHED
        other = SemanticsChoice.DECLARED if published else SemanticsChoice.PUBLISHED
        return other, self._make(tier=self._choices.tier, semantics=other)

    def compared(self, name: str) -> Plan:
        """A plan for the same file with another tier or file type and no overrides."""
        from apex_native.plan import FileType, load_tier

        try:
            load_tier(name)
        except PlanError:
            _parsed("--compare", FileType.parse, name)
            return self._make(ftype=name, overrides=False)
        return self._make(tier=name, semantics=self._choices.semantics, overrides=False)

    def _make(
        self,
        *,
        tier: str | None = None,
        ftype: str | None = None,
        like: Path | None = None,
        semantics: SemanticsChoice = SemanticsChoice.PUBLISHED,
        strict: bool = False,
        overrides: bool = True,
    ) -> Plan:
        from apex_native.api import make_plan
        from apex_native.gguf import open_gguf

        with ExitStack() as stack:
            return make_plan(
                self._source,
                tier=tier,
                ftype=ftype,
                like=stack.enter_context(open_gguf(like)) if like is not None else None,
                semantics=semantics.value,
                edges=self._edges if overrides else None,
                tensor_types=self._rules if overrides else (),
                output_tensor_type=self._output_type if overrides else None,
                token_embedding_type=self._embedding_type if overrides else None,
                leave_output_tensor=self._choices.leave_output_tensor and overrides,
                pure=self._choices.pure and overrides,
                repair=self._choices.repair,
                override_kv=self._choices.override_kv or (),
                imatrix=self._imatrix,
                prior=self._prior,
                strict=strict,
                about=self._about,
            )


def read_imatrix(path: Path | None, source: object = None) -> Imatrix | None:
    """The matrix of a file, under the names of a pruned source; None without a file."""
    from apex_native.imatrix import load_imatrix

    if path is None:
        return None
    found = load_imatrix(path)
    return _pruned_matrix(found, source) if isinstance(source, PrunedSource) else found


def _require_one_base(choices: PlanChoices, *, optional: bool) -> None:
    """optional: the file has a type of its own accord, or is refused for what it is."""
    given = [option for name, option in _BASES.items() if name in choices.given]
    if len(given) != 1 and not (optional and not given):
        found = " and ".join(given) if given else "none of them"
        raise UsageError(f"give exactly one of {', '.join(_BASES.values())}, found {found}")
    if choices.edges is not None and choices.tier is None:
        raise typer.BadParameter(
            "belongs to a --tier; a file type has no edges", param_hint="--edges"
        )


def _require_one_recipe(tier: str) -> None:
    """`quantize` takes several apart before it plans."""
    if "," in tier or tier == "all":
        raise typer.BadParameter(
            f"'{tier}' is more than one recipe; name one, and others with --compare; without "
            "--tier all are listed", param_hint="--tier",
        )  # fmt: skip


def _parsed(option: str, parse: Callable[[str], _T], text: str) -> _T:
    """What parse makes of an option's text; a usage error that names the option if it refuses."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _type(option: str, name: str | None) -> GgmlType | None:
    from apex_native.types import GgmlType

    return None if name is None else _parsed(option, GgmlType.parse, name)


def _rules(choices: PlanChoices) -> tuple[str, ...]:
    from apex_native.plan import parse_rule_file

    rules = tuple(choices.tensor_type or ())
    if choices.tensor_type_file is not None:
        try:
            text = choices.tensor_type_file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise PlanError(
                f"{choices.tensor_type_file}: no text ({error.reason}); give a file of "
                "REGEX=TYPE rules"
            ) from None
        rules += parse_rule_file(text)
    return rules


def about_of(choices: PlanChoices) -> About:
    """What the file is to say of itself."""
    from apex_native.plan import About

    return About(
        name=choices.model_name or "",
        base_model=choices.base_model or "",
        license=choices.license or "",
        quantized_by=choices.quantized_by or "",
    )


def _edges(text: str | None, n_layer: int) -> Edges | None:
    """``E``, ``E,N`` or ``E,N,A``; the near band is as wide as the edge unless it is given."""
    from apex_native.plan import Edges, default_edges

    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > 3 or not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(
            f"'{text}' must be one to three layer counts, like 5 or 5,5,3", param_hint="--edges"
        )
    widths = [int(part) for part in parts]
    near = widths[1] if len(widths) > 1 else widths[0]
    attention = widths[2] if len(widths) > 2 else default_edges(n_layer)[0].attention
    return Edges(widths[0], near, attention)


def require_writable(path: Path, *, force: bool) -> None:
    """Raise OutputError where a file exists and may not be overwritten."""
    from apex_native.errors import OutputError

    if path.exists() and not force:
        raise OutputError(f"{path} exists; choose another name or pass --force")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent}: no such folder; create it first")
