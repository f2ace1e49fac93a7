"""What a type's rounding costs on rows as weights are: the source of the bounds of the error guard.

    python bench/quantization_error.py [--rows 256]

Relative RMSE, sqrt(sum (w - q)^2 / sum w^2), of every type that weights can be written in, over
rows of 2048 values of rms 0.02 from four distributions, without and with importances: a uniform and
a normal one, and two with tails as heavy as outlier-ridden tensors have (Laplace, Student t with 3
degrees of freedom). Prints a table; `apex_native.quantization.error_bound` is made of the largest
number of each row.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from apex_native._native import core
from apex_native.types import GgmlType

Floats = npt.NDArray[np.float32]

N_PER_ROW = 2048
RMS = 0.02
DISTRIBUTIONS = ("uniform", "normal", "Laplace", "t(3)")


def sample(name: str, n_rows: int, rng: np.random.Generator) -> Floats:
    """Rows of one distribution, scaled to RMS."""
    shape = (n_rows, N_PER_ROW)
    values = {
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "normal": lambda: rng.standard_normal(shape),
        "Laplace": lambda: rng.laplace(size=shape),
        "t(3)": lambda: rng.standard_t(3, shape),
    }[name]()
    return (values * (RMS / np.sqrt(np.mean(values**2)))).astype(np.float32)


def relative_rmse(weights: Floats, type: GgmlType, imatrix: Floats | None) -> float | None:
    """None where the type cannot be had without a matrix."""
    if type is GgmlType.BF16 or type is GgmlType.F16:
        stored = core.quantize_rows(weights, type.id)
    else:
        needs = core.type_traits(type.id)[4]
        if needs and imatrix is None:
            return None
        stored = core.quantize_rows(weights, type.id, imatrix)
    error = core.dequantize_rows(stored.reshape(-1), type.id, N_PER_ROW) - weights
    return float(np.sqrt((error.astype(float) ** 2).sum() / (weights.astype(float) ** 2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    rows = {name: sample(name, options.rows, rng) for name in DISTRIBUTIONS}
    imatrix = rng.lognormal(0.0, 2.0, N_PER_ROW).astype(np.float32)
    heads = [f"{name}{suffix}" for name in DISTRIBUTIONS for suffix in ("", ", weighted")]
    print("| type | " + " | ".join(heads) + " | largest |")
    print("|---" * (len(heads) + 2) + "|")
    for type in GgmlType:
        if not type.is_target or type is GgmlType.F32:
            continue
        found = [
            relative_rmse(rows[name], type, matrix)
            for name in DISTRIBUTIONS
            for matrix in (None, imatrix)
        ]
        cells = ["–" if value is None else f"{value:.3%}" for value in found]
        largest = max(value for value in found if value is not None)
        print(f"| {type.name} | " + " | ".join(cells) + f" | {largest:.3%} |", flush=True)


if __name__ == "__main__":
    main()
