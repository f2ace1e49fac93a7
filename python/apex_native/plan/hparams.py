"""The few hyperparameters on which llama.cpp's mixes depend, read as it reads them."""

from __future__ import annotations

from dataclasses import dataclass

from apex_native.types import GgufFacts

__all__ = ["MixModel"]

_LAYERS_OF_70B = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
"""Depth at which an architecture's ``load_arch_hparams`` (src/models/*.cpp) says LLM_TYPE_70B."""


@dataclass(frozen=True, slots=True)
class MixModel:
    """A model as the mixes see it.

    n_layer_all counts MTP layers; n_gqa is that of layer 0 (0 if it has no KV heads, as in
    hybrids whose head counts are per layer); is_70b is ``model.type == LLM_TYPE_70B``.
    """

    architecture: str
    n_layer_all: int = 0
    n_expert: int = 0
    n_gqa: int = 0
    is_70b: bool = False

    @classmethod
    def from_facts(cls, facts: GgufFacts) -> MixModel:
        """What ``llama_model_base::load_hparams`` would find in this file's metadata."""
        architecture = facts.architecture
        n_layer_all = facts.n_layer_of_mixes or _integer(facts, "block_count")
        n_layer = n_layer_all - _integer(facts, "nextn_predict_layers")
        n_expert = _integer(facts, "expert_count")
        n_head = _integer(facts, "attention.head_count")
        n_head_kv = _integer(facts, "attention.head_count_kv", n_head)
        is_70b = n_layer == _LAYERS_OF_70B.get(architecture)
        if architecture in ("llama", "llama-embed"):
            is_70b = is_70b and n_expert != 8 and n_head != n_head_kv
        return cls(
            architecture=architecture,
            n_layer_all=_layers_after_loading(facts, n_layer_all, n_layer),
            n_expert=_experts_after_loading(architecture, n_expert),
            n_gqa=n_head // n_head_kv if n_head_kv else 0,
            is_70b=is_70b,
        )


def _layers_after_loading(facts: GgufFacts, n_layer_all: int, n_layer: int) -> int:
    """Layer count after the two architectures that change it (granite-switch, nanbeige)."""
    if facts.architecture == "graniteswitch":
        return n_layer + 1
    if facts.architecture == "nanbeige":
        loops = _integer(facts, "num_loops", 1)
        return n_layer * loops if loops > 1 else n_layer_all
    return n_layer_all


def _experts_after_loading(architecture: str, n_expert: int) -> int:
    """Hunyuan's dense models state one expert, which llama.cpp reads as none."""
    if architecture in ("hunyuan-dense", "hunyuan_vl") and n_expert <= 1:
        return 0
    return n_expert


def _integer(facts: GgufFacts, key: str, default: int = 0) -> int:
    """The integer under ``<architecture>.<key>``; layer 0's where it is an array."""
    value = facts.metadata.get(f"{facts.architecture}.{key}", default)
    if isinstance(value, tuple):
        value = value[0] if value else default
    return value if isinstance(value, int) else default
