"""Every recipe for a model beside the others: size, bits, and whether it fits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_native.api.arguments import AnySource, opened
from apex_native.api.offers import is_unreached
from apex_native.api.planning import make_plan
from apex_native.classification import FileKind, find_kind
from apex_native.errors import PlanError
from apex_native.plan import About, FileType, Plan, is_tier_name, tier_names
from apex_native.reports import recipe_in_name
from apex_native.types import Role

if TYPE_CHECKING:
    from apex_native.memory import ContextMemory, ContextSettings, Fit, Room
    from apex_native.results import Candidate, Results

__all__ = ["Choice", "Choices", "choose", "default_recipes", "fit_plan"]

_GROUPS = {
    "experts": {Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN},
    "shared": {Role.SHARED_EXPERT},
    "attention": {Role.ATTENTION, Role.SSM},
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One recipe for a model. kind is "tier", "mix" or "saved"; measured: what results know.

    fits: one for each room that was asked about.
    """

    recipe: str
    kind: str
    plan: Plan
    fits: tuple[Fit, ...] = ()
    measured: Candidate | None = None

    @property
    def fit(self) -> Fit | None:
        """In the first room; None where nobody asked."""
        return self.fits[0] if self.fits else None

    def bits(self, group: str) -> float | None:
        """Bits per weight of "experts", "shared" or "attention"; None where there are none."""
        members = [t for t in self.plan.tensors if t.role in _GROUPS[group] and not t.is_mtp]
        weights = sum(tensor.n_elements for tensor in members)
        return 8 * sum(tensor.nbytes for tensor in members) / weights if weights else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        fit, found = self.fit, self.measured
        return {
            "recipe": self.recipe,
            "kind": self.kind,
            "total_bytes": self.plan.total_bytes,
            "bpw": self.plan.bpw,
            "bits": {group: self.bits(group) for group in _GROUPS},
            "needs_imatrix": self.plan.needs_imatrix,
            "kld_mean": None if found is None else found.kld_mean,
            "kld_se": None if found is None else found.kld_se,
            "fits": None if fit is None else fit.fits,
            "n_cpu_moe": None if fit is None else fit.n_cpu_moe,
            "memory": None if fit is None else _memory_document(fit),
            "rooms": [
                {"fits": f.fits, "n_cpu_moe": f.n_cpu_moe, "memory": _memory_document(f)}
                for f in self.fits
            ],
        }


def _memory_document(fit: Fit) -> dict[str, int]:
    parts = ("weights", "cache", "buffers", "mmproj", "cuda_context", "staging", "host")
    return {name: getattr(fit.need, name) for name in ("total", *parts)}


@dataclass(frozen=True, slots=True)
class Choices:
    """All choices, the largest first; context and rooms where it was asked what fits.

    mmproj: the path of the projector beside them, "" without one or where it came without a path.
    left_out: recipes that cannot be made of this model, and why.
    """

    rows: tuple[Choice, ...]
    context: ContextMemory | None = None
    rooms: tuple[Room, ...] = ()
    mmproj: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def room(self) -> Room | None:
        """The first; None where nobody asked."""
        return self.rooms[0] if self.rooms else None

    @property
    def picked(self) -> Choice | None:
        """For the first room."""
        return self.picked_for(0) if self.rooms else None

    def picked_for(self, room: int) -> Choice | None:
        """Of those that fit whole: the least KLD where results know some, else the largest.

        room: its number.
        """
        fitting = [row for row in self.rows if row.fits[room].fits]
        known = [
            (row.measured.kld_mean, row)
            for row in fitting
            if row.measured is not None and row.measured.kld_mean is not None
        ]
        if known:
            return min(known, key=lambda item: item[0])[1]
        return max(fitting, key=lambda row: row.plan.total_bytes, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        picks = [self.picked_for(number) for number in range(len(self.rooms))]
        names = [None if pick is None else pick.recipe for pick in picks]
        return {
            "choices": [row.to_dict() for row in self.rows],
            "room": None if self.room is None else self.room.nbytes,
            "left_out": dict(self.left_out),
            "picked": names[0] if names else None,
            "rooms": [
                {"name": room.name, "bytes": room.nbytes, "picked": name}
                for room, name in zip(self.rooms, names, strict=True)
            ],
            "context": None if self.context is None else context_document(self.context),
        }


def context_document(context: ContextMemory) -> dict[str, Any]:
    """A context's memory as JSON: totals, and bytes by layer."""
    settings = context.settings
    return {
        "tokens": settings.ctx,
        "type_k": settings.type_k.name,
        "type_v": settings.type_v.name,
        "ubatch": settings.ubatch,
        "cache": context.cache,
        "state": context.state,
        "bytes_per_token": context.bytes_per_token,
        "buffers": context.buffers,
        "host_buffers": context.host_buffers,
        "layers": [
            {"layer": layer, "bytes": nbytes}
            for layer, nbytes in sorted(context.by_layer().items())
        ],
    }


def default_recipes() -> tuple[str, ...]:
    """Every tier, and every mix of llama-quantize that quantizes."""
    mixes = (t.name for t in FileType if t.is_quantized and t is not FileType.COPY)
    return (*tier_names(), *mixes)


def choose(
    source: AnySource,
    recipes: Sequence[str] = (),
    *,
    saved: Sequence[str | os.PathLike[str]] = (),
    settings: ContextSettings | None = None,
    room: Room | Sequence[Room] | None = None,
    mmproj: AnySource | None = None,
    results: Results | None = None,
    about: About | None = None,
) -> Choices:
    """Plan every recipe for a source and say what each takes.

    recipes: tiers and file types, default all there are, with ``NAME-short`` for tiers whose types
    the rows do not fit. saved: tier files (.toml) and plans (.json). With room, one or several, it
    is also said which fit, in a context of settings (default: 4096 tokens with an F16 cache) beside
    the projector mmproj. results: an evaluation whose candidates are named after their recipes.
    Raises PlanError for a recipe that was asked for and cannot be made;
    with room what `apex_native.memory.context_memory` raises.
    """
    beside = _projector_bytes(mmproj)
    with opened("source", source) as file:
        left_out: dict[str, str] = {}
        if recipes:
            found = [_planned(file, name, about) for name in recipes]
        else:
            found, left_out = _all_planned(file, about)
        found += [_saved(file, Path(path), about) for path in saved]
        context = None
        rooms = _rooms(room)
        if rooms:
            from apex_native.memory import ContextSettings, context_memory

            context = context_memory(file, settings or ContextSettings())
    measured = _measured(results)
    rows = [
        Choice(
            name,
            kind,
            plan,
            () if context is None else tuple(_fit(plan, context, r, beside) for r in rooms),
            measured.get(name),
        )
        for name, kind, plan in found
    ]
    rows.sort(key=lambda row: -row.plan.total_bytes)
    return Choices(tuple(rows), context, rooms, _path_of(mmproj), left_out)


def _rooms(room: Room | Sequence[Room] | None) -> tuple[Room, ...]:
    from apex_native.memory import Room

    if room is None:
        return ()
    return (room,) if isinstance(room, Room) else tuple(room)


def _all_planned(
    source: AnySource, about: About | None
) -> tuple[list[tuple[str, str, Plan]], dict[str, str]]:
    """Every recipe that the model's rows allow, and why others cannot be made."""
    found: list[tuple[str, str, Plan]] = []
    left_out: dict[str, str] = {}
    for name in default_recipes():
        try:
            found.append(_planned(source, name, about))
        except PlanError as error:
            left_out[name] = str(error)
    if not found:
        raise PlanError(next(iter(left_out.values())))
    unreached = [name for name, _, plan in found if is_unreached(plan)]
    found += [_planned(source, f"{name}-short", about) for name in unreached]
    return found, left_out


def fit_plan(
    source: AnySource,
    plan: Plan,
    settings: ContextSettings,
    room: Room | Sequence[Room],
    *,
    mmproj: AnySource | None = None,
) -> Choices:
    """The same for one plan, as the only row; errors are `choose`'s."""
    from apex_native.memory import context_memory

    beside, rooms = _projector_bytes(mmproj), _rooms(room)
    with opened("source", source) as file:
        context = context_memory(file, settings)
    fits = tuple(_fit(plan, context, one, beside) for one in rooms)
    kind = "tier" if plan.tier else "mix" if plan.ftype else "saved"
    choice = Choice(plan.tier or plan.ftype or plan.base, kind, plan, fits)
    return Choices((choice,), context, rooms, _path_of(mmproj))


def _path_of(source: AnySource | None) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else ""


def _projector_bytes(mmproj: AnySource | None) -> int:
    if mmproj is None:
        return 0
    with opened("mmproj", mmproj) as projector:
        kind = find_kind(projector.facts)
        if kind is not FileKind.PROJECTOR:
            raise PlanError(
                f"expected a {FileKind.PROJECTOR} as `mmproj`, found {_path_of(mmproj)}, "
                f"which holds: {kind}; leave it out, or name the model's mmproj file"
            )
        return sum(tensor.nbytes for tensor in projector.facts.tensors)


def _fit(plan: Plan, context: ContextMemory, room: Room, mmproj: int) -> Fit:
    from apex_native.memory import fit_file

    skip = frozenset(tensor.name for tensor in plan.tensors if tensor.is_mtp)
    return fit_file(plan.tensors, context, room, mmproj=mmproj, skip=skip)


def _planned(source: AnySource, name: str, about: About | None) -> tuple[str, str, Plan]:
    if is_tier_name(name):
        return name, "tier", make_plan(source, tier=name, about=about)
    ftype = FileType.parse(name).name
    return ftype, "mix", make_plan(source, ftype=ftype, about=about)


def _saved(source: AnySource, path: Path, about: About | None) -> tuple[str, str, Plan]:
    if path.suffix not in {".json", ".toml"}:
        raise PlanError(f"{path} is neither a tier file (.toml) nor a saved plan (.json); name one")
    if path.suffix == ".toml":
        return path.name, "saved", make_plan(source, tier=str(path), about=about)
    plan = Plan.load(path)
    with opened("source", source) as file:
        plan.check_source(file.facts)
    return path.name, "saved", plan


def _measured(results: Results | None) -> Mapping[str, Candidate]:
    if results is None:
        return {}
    named = [(recipe_in_name(candidate.name), candidate) for candidate in results.candidates]
    return {recipe: candidate for recipe, candidate in named if recipe is not None}
