"""Models of one evaluation on GPUs of their own, where a machine has several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apex_native.evaluation.model_under_test import ModelUnderTest

__all__ = ["side_by_side"]


def side_by_side(
    models: Sequence[ModelUnderTest], free: Sequence[int], beside: int
) -> list[ModelUnderTest]:
    """The models, each on the GPU that has the most room left; as they were where that cannot be.

    free: bytes of each GPU. beside: bytes of a model's cache, buffers and logits. The models stay
    shared out over all GPUs, as llama.cpp does it, where there is one GPU, where one of them fits
    on none alone, or where one was told its devices or its number of layers.
    """
    if (
        len(free) < 2
        or len(models) < 2
        or not all(model.placement.is_left_open for model in models)
    ):
        return list(models)
    left = list(free)
    placed: dict[int, ModelUnderTest] = {}
    for i in sorted(range(len(models)), key=lambda i: -models[i].source.nbytes):
        gpu = max(range(len(left)), key=lambda k: left[k])
        left[gpu] -= models[i].source.nbytes + beside
        if left[gpu] < 0:
            return list(models)
        device = (f"CUDA{gpu}",)
        placed[i] = models[i].moved(replace(models[i].placement, devices=device))
    return [placed[i] for i in range(len(models))]
