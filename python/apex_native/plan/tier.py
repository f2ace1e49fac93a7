"""Tiers: TOML files that give each role a type by its layer's position."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from apex_native.errors import PlanError
from apex_native.plan.edges import Edges, Position
from apex_native.plan.ftypes import FileType
from apex_native.plan.layer_types import LayerTypes, parse_layer_types
from apex_native.plan.variants import TierVariant, model_names, same_name
from apex_native.types import ClassifiedTensor, GgmlType, GgufFacts, Role

__all__ = ["MtpRule", "Tier", "TierRule", "every_tier_name", "is_tier_name", "load_tier",
           "parse_tier", "tier_names", "tier_text"]  # fmt: skip

TIER_SCHEMA_VERSION = 1

_E = TypeVar("_E", bound=Enum)

_IMATRIX_PREFIX = "i-"
SHORT_SUFFIX = "-short"


class EdgeKind(Enum):
    """Which of a plan's edge widths a rule's positions are measured with."""

    EXPERT = "expert"
    ATTENTION = "attention"


@dataclass(frozen=True, slots=True)
class TierRule:
    """Types by position for a set of roles."""

    name: str
    roles: frozenset[Role]
    edges: EdgeKind
    types: Mapping[Position, GgmlType]

    def position(self, layer: int, n_layer: int, edges: Edges) -> Position:
        """Position of a layer as this rule measures it."""
        if self.edges is EdgeKind.ATTENTION:
            return edges.attention_position(layer, n_layer)
        return edges.expert_position(layer, n_layer)


@dataclass(frozen=True, slots=True)
class MtpRule:
    """What multi-token-prediction tensors get, since they lie outside the trunk.

    position stands in for the layer position in every rule; projections gives the ``nextn.*``
    weights (by the word after ``nextn.``) their type, other the remaining ones. Calibration does
    not run the MTP layers by default, so types that need an imatrix make a plan that cannot run;
    the shipped tiers have none here.
    """

    position: Position
    projections: Mapping[str, GgmlType]
    other: GgmlType

    def projection_type(self, name: str) -> GgmlType:
        """The type of a tensor that exists only for prediction (role MTP)."""
        words = name.split(".")
        return next(
            (self.projections[word] for word in words if word in self.projections), self.other
        )


@dataclass(frozen=True, slots=True)
class Tier:
    """A complete recipe: a base mix and rules that override it for the roles they name."""

    name: str
    base: FileType
    needs_imatrix: bool
    rules: tuple[TierRule, ...]
    mtp: MtpRule
    description: str = ""
    layers: LayerTypes | None = None
    """Types by tensor and layer; they come before the rules."""
    variants: tuple[TierVariant, ...] = ()
    """What ``NAME-VARIANT`` changes, and what the tier itself does for a model it names."""
    chosen: TierVariant | None = None
    """The variant that was applied."""
    short_blocks: bool = False
    """Rows that its types do not fit get types of short blocks, in the tier's own size."""

    @property
    def roles(self) -> frozenset[Role]:
        """All roles that a rule names."""
        return frozenset().union(*(rule.roles for rule in self.rules))

    def with_variant(self, variant: TierVariant, *, named: bool) -> Tier:
        """The tier with a variant's types; named: the variant's name is part of the tier's."""
        rules = tuple(
            replace(rule, types={**rule.types, **variant.types.get(rule.name, {})})
            for rule in self.rules
        )
        name = f"{self.name}-{variant.name}" if named else self.name
        return replace(self, name=name, rules=rules, chosen=variant, variants=())

    def for_model(self, facts: GgufFacts) -> Tier:
        """The tier with the variant that was published for this model, if there is one."""
        names = model_names(facts)
        for variant in self.variants:
            if any(same_name(name, known) for name in names for known in variant.models):
                return replace(self.with_variant(variant, named=False), variants=self.variants)
        return self

    def type_for(
        self, tensor: ClassifiedTensor, n_layer: int, edges: Edges
    ) -> tuple[GgmlType, str] | None:
        """The tier's type for a tensor and the place it was chosen for; None if no rule names it.

        Tensors of a named role outside every layer count as edge.
        """
        if self.layers is not None and not tensor.is_mtp:
            own = self.layers.type_for(tensor.name, n_layer)
            if own is not None:
                return own
        if tensor.role is Role.MTP:
            return self.mtp.projection_type(tensor.name), "multi-token prediction"
        rule = next((rule for rule in self.rules if tensor.role in rule.roles), None)
        if rule is None:
            return None
        if tensor.is_mtp:
            return rule.types[self.mtp.position], f"{rule.name}, multi-token prediction layer"
        if tensor.layer is None:
            return rule.types[Position.EDGE], f"{rule.name}, outside the layers"
        position = rule.position(tensor.layer, n_layer, edges)
        return rule.types[position], f"{rule.name}, {position.value}"


def tier_names() -> tuple[str, ...]:
    """Names of the tiers that ship with the package, the imatrix variants included."""
    names = []
    for stem in _shipped():
        names.append(stem)
        if not load_tier(stem).needs_imatrix:
            names.append(_IMATRIX_PREFIX + stem)
    return tuple(names)


@cache
def every_tier_name() -> tuple[str, ...]:
    """All that `load_tier` knows by name: `tier_names`, variants, and each with ``-short``."""
    names = [*tier_names()]
    for stem in _shipped():
        names += [f"{stem}-{variant.name}" for variant in load_tier(stem).variants]
    return (*names, *(name + SHORT_SUFFIX for name in names))


def load_tier(name: str) -> Tier:
    """The tier of that name, or of a path that ends in ``.toml``.

    ``i-NAME`` is the same recipe with an imatrix required, ``NAME-VARIANT`` one of its variants,
    ``NAME-short`` the one for models whose rows its types do not fit (see `short_blocks`). Raises
    PlanError for an unknown name (with near ones) or a file that is no tier.
    """
    if name.endswith(".toml"):
        return _load_file(Path(name))
    wanted = name.strip().lower()
    if wanted.endswith(SHORT_SUFFIX):
        tier = load_tier(wanted.removesuffix(SHORT_SUFFIX))
        return replace(tier, name=tier.name + SHORT_SUFFIX, short_blocks=True)
    stem = wanted.removeprefix(_IMATRIX_PREFIX)
    shipped = _shipped()
    if stem not in shipped:
        variant = _load_variant(stem, shipped)
        if variant is None:
            known = tier_names()
            near = difflib.get_close_matches(wanted, known, n=2, cutoff=0.75)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise PlanError(f"unknown tier '{name}'; {hint}known: {', '.join(known)}")
        return variant
    tier = parse_tier(shipped[stem], source=f"{stem}.toml")
    if wanted == stem or tier.needs_imatrix:
        return tier
    return replace(tier, name=wanted, needs_imatrix=True)


def is_tier_name(name: str) -> bool:
    """True for what `load_tier` knows."""
    try:
        load_tier(name)
    except PlanError:
        return False
    return True


def parse_tier(text: str, *, source: str) -> Tier:
    """Read a tier from TOML; source names it in errors.

    Raises PlanError for malformed TOML, missing or unknown keys, unknown roles and types, and a
    role that two rules name.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"tier {source}: {error}") from error
    return _TierReader(source).read(data)


def tier_text(name: str) -> str:
    """The TOML of a tier that ships with the package. Raises PlanError as `load_tier` does."""
    asked = name.strip().lower().removeprefix(_IMATRIX_PREFIX)
    stem = asked.removesuffix(SHORT_SUFFIX)
    shipped = _shipped()
    if stem not in shipped:
        load_tier(name)
        stem = stem.rpartition("-")[0]
    text = shipped[stem]
    if asked.endswith(SHORT_SUFFIX):
        text = text.replace(f'\nname = "{stem}"\n', f'\nname = "{asked}"\nshort_blocks = true\n', 1)
    return text


def _load_variant(stem: str, shipped: Mapping[str, str]) -> Tier | None:
    base, _, suffix = stem.rpartition("-")
    if base not in shipped:
        return None
    tier = parse_tier(shipped[base], source=f"{base}.toml")
    return next((tier.with_variant(v, named=True) for v in tier.variants if v.name == suffix), None)


def _shipped() -> dict[str, str]:
    folder = resources.files("apex_native.plan") / "tiers"
    files = (entry for entry in folder.iterdir() if entry.name.endswith(".toml"))
    texts = {entry.name.removesuffix(".toml"): entry.read_text("utf-8") for entry in files}
    return {stem: texts[stem] for stem in sorted(texts)}


def _load_file(path: Path) -> Tier:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise PlanError(f"tier file {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"tier file {path}: no text ({error.reason})") from error
    return parse_tier(text, source=str(path))


class _TierReader:
    """Turns parsed TOML into a Tier; every complaint names the file and the key."""

    def __init__(self, source: str) -> None:
        self._source = source

    def read(self, data: dict[str, Any]) -> Tier:
        known = {"schema_version", "name", "description", "base", "imatrix", "rules", "mtp"}
        known |= {"layers", "variants", "short_blocks"}
        self._no_other_keys(data, known, "")
        version = self._get(data, "schema_version", int, "")
        if version != TIER_SCHEMA_VERSION:
            raise self._error("schema_version", f"must be {TIER_SCHEMA_VERSION}, found {version}")
        imatrix = self._get(data, "imatrix", str, "")
        if imatrix not in ("required", "optional"):
            raise self._error("imatrix", f"must be 'required' or 'optional', found '{imatrix}'")
        rules = tuple(
            self._rule(name, table) for name, table in self._get(data, "rules", dict, "").items()
        )
        self._no_shared_roles(rules)
        return Tier(
            name=self._get(data, "name", str, ""),
            base=self._base(self._get(data, "base", str, "")),
            needs_imatrix=imatrix == "required",
            rules=rules,
            mtp=self._mtp(self._get(data, "mtp", dict, "")),
            description=data.get("description", ""),
            layers=self._layers(data),
            variants=self._variants(data, {rule.name for rule in rules}),
            short_blocks=self._get({"short_blocks": False, **data}, "short_blocks", bool, ""),
        )

    def _variants(self, data: dict[str, Any], rules: set[str]) -> tuple[TierVariant, ...]:
        if "variants" not in data:
            return ()
        tables = self._get(data, "variants", dict, "")
        return tuple(self._variant(name, tables, rules) for name in tables)

    def _variant(self, name: str, tables: dict[str, Any], rules: set[str]) -> TierVariant:
        where = f"variants.{name}"
        table = self._get(tables, name, dict, "variants")
        self._no_other_keys(table, {"description", "models", *rules}, where)
        types = {}
        for rule in sorted(rules & table.keys()):
            changed = self._get(table, rule, dict, where)
            types[rule] = {
                self._choice(Position, key, f"{where}.{rule}"): self._type(changed, key, where)
                for key in changed
            }
        return TierVariant(
            name,
            description=self._get(table, "description", str, where),
            models=tuple(str(model) for model in table.get("models", ())),
            types=types,
        )

    def _layers(self, data: dict[str, Any]) -> LayerTypes | None:
        if "layers" not in data:
            return None
        return parse_layer_types(self._get(data, "layers", dict, ""), self._error)

    def _rule(self, name: str, table: object) -> TierRule:
        where = f"rules.{name}"
        if not isinstance(table, dict):
            raise self._error(where, "must be a table")
        self._no_other_keys(table, {"roles", "edges", "edge", "near", "middle", "other"}, where)
        roles = frozenset(
            self._role(role, where) for role in self._get(table, "roles", list, where)
        )
        edges = self._choice(EdgeKind, self._get(table, "edges", str, where), f"{where}.edges")
        types = {Position.EDGE: self._type(table, "edge", where)}
        if "other" in table:
            if "near" in table or "middle" in table:
                raise self._error(where, "has 'other' beside 'near' or 'middle'; use one form")
            types[Position.NEAR] = types[Position.MIDDLE] = self._type(table, "other", where)
        else:
            types[Position.NEAR] = self._type(table, "near", where)
            types[Position.MIDDLE] = self._type(table, "middle", where)
        return TierRule(name, roles, edges, types)

    def _mtp(self, table: dict[str, Any]) -> MtpRule:
        self._no_other_keys(table, {"position", "projections", "other"}, "mtp")
        position = self._choice(Position, self._get(table, "position", str, "mtp"), "mtp.position")
        projections = self._get(table, "projections", dict, "mtp")
        where = "mtp.projections"
        types = {word: self._type(projections, word, where) for word in projections}
        return MtpRule(position, types, self._type(table, "other", "mtp"))

    def _no_shared_roles(self, rules: tuple[TierRule, ...]) -> None:
        owners: dict[Role, str] = {}
        for rule in rules:
            for role in rule.roles:
                if role in owners:
                    raise self._error(
                        f"rules.{rule.name}.roles",
                        f"names {role.value}, which rules.{owners[role]} has already",
                    )
                owners[role] = rule.name

    def _base(self, name: str) -> FileType:
        base = FileType.parse(name)
        if not base.is_quantized:
            raise self._error("base", f"must be a quantized file type, found {base}")
        return base

    def _role(self, name: object, where: str) -> Role:
        if not isinstance(name, str):
            raise self._error(f"{where}.roles", f"must be names, found {name!r}")
        return self._choice(Role, name, f"{where}.roles")

    def _choice(self, choices: type[_E], value: str, where: str) -> _E:
        try:
            return choices(value)
        except ValueError:
            known = ", ".join(str(choice.value) for choice in choices)
            raise self._error(where, f"'{value}' is not one of {known}") from None

    def _type(self, table: dict[str, Any], key: str, where: str) -> GgmlType:
        name = self._get(table, key, str, where)
        try:
            found = GgmlType.parse(name)
        except ValueError as error:
            raise self._error(f"{where}.{key}", str(error)) from error
        if not found.is_target:
            raise self._error(f"{where}.{key}", f"weights cannot be written as {found}")
        return found

    def _get(self, table: dict[str, Any], key: str, kind: type[Any], where: str) -> Any:
        path = f"{where}.{key}" if where else key
        if key not in table:
            raise self._error(path, "is missing")
        value = table[key]
        if not isinstance(value, kind):
            raise self._error(path, f"must be {kind.__name__}, found {value!r}")
        return value

    def _no_other_keys(self, table: dict[str, Any], known: set[str], where: str) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise self._error(f"{where}.{key}" if where else key, f"is no known key{hint}")

    def _error(self, where: str, what: str) -> PlanError:
        return PlanError(f"tier {self._source}: {where} {what}")
