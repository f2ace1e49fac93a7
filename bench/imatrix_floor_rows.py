"""What a floor under silent columns does to single rows: error there, and in the other columns.

    python bench/imatrix_floor_rows.py

Relative RMSE over normal rows of 512 columns of which 64 have importance 0, with lognormal
importances elsewhere, for each floor (a share of the row's mean importance).
"""

from __future__ import annotations

import numpy as np

from apex_native._native import core
from apex_native.types import GgmlType

TYPES = ("Q3_K", "Q6_K", "Q4_0", "IQ4_XS", "IQ2_S")
FLOORS = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
SILENT = slice(64, 128)


def main() -> None:
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((64, 512)) * 0.02).astype(np.float32)
    importance = rng.lognormal(0.0, 1.0, 512)
    importance[SILENT] = 0
    others = np.ones(512, bool)
    others[SILENT] = False
    print("| type | " + " | ".join(f"{floor:g}" for floor in FLOORS) + " |")
    print("|---" * (len(FLOORS) + 1) + "|")
    for name in TYPES:
        cells = []
        for floor in FLOORS:
            values = np.maximum(importance, floor * importance.mean()).astype(np.float32)
            stored = core.quantize_rows(weights, GgmlType[name].id, values)
            back = core.dequantize_rows(stored.reshape(-1), GgmlType[name].id, 512)
            error = back - weights
            shares = [
                float(
                    np.sqrt(np.square(error[:, part]).mean() / np.square(weights[:, part]).mean())
                )
                for part in (SILENT, others)
            ]
            cells.append(f"{shares[0]:.1%} / {shares[1]:.2%}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
