"""What a search rests on, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from apex_native.allocation.joint import JointModel
from apex_native.allocation.probing import ProbedUnits
from apex_native.allocation.session import ProbeSession
from apex_native.allocation.surrogate import Surrogate

__all__ = ["search_report"]


def search_report(
    probed: ProbedUnits,
    surrogate: Surrogate,
    model: JointModel,
    held_out: Mapping[str, tuple[float, float]],
    session: ProbeSession,
) -> dict[str, Any]:
    """Units with what was measured, the curves, the link, predictors compared, what it cost."""
    units = []
    for data in probed.data():
        curve = surrogate.curves[data.unit.name]
        units.append(
            {
                "unit": data.unit.name,
                "kind": data.unit.kind,
                "layer": data.unit.layer,
                "tensors": list(data.unit.tensors),
                "a": curve.a,
                "s": curve.s,
                "floor": curve.floor,
                "tensor_weights": [surrogate.weights.get(name, 1.0) for name in data.unit.tensors],
                "measured": [
                    {
                        "types": sorted({type.name for type in point.types.values()}),
                        "kld": point.kld,
                        "se": point.se,
                    }
                    for point in data.points
                ],
            }
        )
    dominating = probed.weights.dominating()
    return {
        "units": units,
        "residual": surrogate.residual,
        "link": asdict(model.link),
        "kinds": dict(model.kinds),
        "predictors": {
            name: {"mean_ln_ratio": mean, "sd_ln_ratio": spread}
            for name, (mean, spread) in held_out.items()
        },
        "domains": dict(zip(probed.weights.names, probed.weights.levels, strict=True)),
        "dominating_domain": dominating[0] if dominating else None,
        "costs": asdict(session.costs),
    }
