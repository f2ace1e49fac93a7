"""How much of a type's error is left where its bytes are fitted to second moments.

Fitting takes more from some types than from others, and more from some kinds of tensors; a few
tensors of every kind tell for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apex_native.allocation.session import ProbeSession
from apex_native.allocation.space import SearchSpace
from apex_native.allocation.units import Unit
from apex_native.quantization import OutputErrors
from apex_native.types import GgmlType

__all__ = ["learn_fitted_shares"]


def learn_fitted_shares(
    space: SearchSpace, session: ProbeSession, progress: Callable[[float], None]
) -> None:
    """Fit the middle layer's tensors of each kind in all their types, and tell the session.

    A share is that of held-out tokens where there are any, else that of the calibration.
    """
    units = _middle_units(space.units)
    wanted = [
        (unit.kind, name, type)
        for unit in units
        for name in unit.tensors
        for type in space.choices[name]
        if type is not space.infos[name].type
    ]
    found: dict[tuple[str, GgmlType], list[OutputErrors]] = {}
    for i, (kind, name, type) in enumerate(wanted):
        errors = session.values.output_errors(name, type)
        if errors is not None:
            found.setdefault((kind, type), []).append(errors)
        progress((i + 1) / len(wanted))
    shares = {key: _share(OutputErrors.total(rows)) for key, rows in found.items()}
    kinds = {name: unit.kind for unit in space.units for name in unit.tensors}

    def share(name: str, type: GgmlType) -> float:
        return shares.get((kinds.get(name, ""), type), 1.0)

    session.values.learn_shares(share)


def _middle_units(units: Sequence[Unit]) -> list[Unit]:
    """Of each kind the one in the middle of the model."""
    by_kind: dict[str, list[Unit]] = {}
    for unit in units:
        by_kind.setdefault(unit.kind, []).append(unit)
    return [some[len(some) // 2] for some in by_kind.values()]


def _share(errors: OutputErrors) -> float:
    held_out = errors.held_out_ratio
    return errors.ratio if held_out is None else held_out
