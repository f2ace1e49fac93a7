"""What the vectorised parts make of the same input, as digests: run on two machines by tests.

Input is made without libm, whose last bits are each machine's own.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from apex_native._native import core

Q4_K, IQ3_S, N = 12, 21, 256


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Float32 with a bell's shape: sums of uniform numbers, every operation exact."""
    raw = np.random.default_rng(seed).integers(-(2**15), 2**15, (4, *shape))
    return (raw.sum(axis=0) / 2.0**16).astype(np.float32)


def digest(*arrays: object) -> str:
    sum = hashlib.sha256()
    for array in arrays:
        sum.update(np.ascontiguousarray(array).tobytes())
    return sum.hexdigest()


def moment() -> np.ndarray:
    """X'X of 512 inputs of a few bits, so that any order of the sums gives the same."""
    inputs = np.round(noise((512, N), 3) * 16)
    return (inputs.T @ inputs).astype(np.float64)


def digests() -> dict[str, str]:
    logits = noise((6, 5003), 1) * np.float32(8)
    weights = noise((4, N), 2)
    return {
        "softmax": digest(
            np.array(core.score_rows(reference=logits[0], candidates=logits[1:], target=700))
        ),
        "feedback": digest(*core.feedback_rows(weights, Q4_K, moment())),
        "feedback on a grid": digest(*core.feedback_rows(weights, IQ3_S, moment())),
        "quantize": digest(core.quantize_rows(weights, Q4_K)),
    }


if __name__ == "__main__":
    print(json.dumps(digests()))
