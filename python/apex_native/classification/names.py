"""A GGUF tensor name taken apart: which stack of blocks, which block, which tensor, which part."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TensorName", "parse_name"]

# What llama.cpp appends to a tensor's base name (src/llama-model.cpp, src/models/*.cpp: the
# second argument of tn()). 'scales' is MPT's activation scale; lora_* are Granite Switch's
# built-in adapters. Names without any of these exist too (blk.0.ssm_a).
_PARTS = frozenset({"weight", "bias", "scale", "scales", "input_scale", "lora_a", "lora_b"})

_MAX_INDEX_DIGITS = 6


class TensorName(NamedTuple):
    """``blk.3.ffn_gate.7.weight`` is stack ``blk``, layer 3, base ``ffn_gate.#``, part ``weight``.

    stack is ``blk``, ``enc.blk`` or ``dec.blk``, and '' outside the blocks, where layer is None.
    base has every index after the block's replaced by ``#``; part is '' for a bare name.
    """

    stack: str
    layer: int | None
    base: str
    part: str

    @property
    def pattern(self) -> str:
        """The name with every index replaced by ``#``: equal for the same tensor of all layers."""
        block = f"{self.stack}.#." if self.stack else ""
        return f"{block}{self.base}{'.' if self.part else ''}{self.part}"


def _is_index(component: str) -> bool:
    """True for a number as printf's %d writes it; '007' and '²' are not what ggml writes."""
    return (
        component.isascii()
        and component.isdecimal()
        and len(component) <= _MAX_INDEX_DIGITS
        and (component == "0" or component[0] != "0")
    )


def parse_name(name: str) -> TensorName:
    """Takes a tensor name apart; any string is accepted, an unknown one is its own base."""
    components = name.split(".")
    depth = 2 if components[0] in ("enc", "dec") else 1
    stack, layer = "", None
    if (
        len(components) > depth + 1
        and components[depth - 1] == "blk"
        and _is_index(components[depth])
    ):
        stack, layer = ".".join(components[:depth]), int(components[depth])
        components = components[depth + 1 :]
    part = components.pop() if len(components) > 1 and components[-1] in _PARTS else ""
    base = ".".join("#" if _is_index(component) else component for component in components)
    return TensorName(stack, layer, base, part)
