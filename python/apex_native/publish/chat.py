"""How a model wants to be talked to, for programs that do not run its Jinja template."""

from __future__ import annotations

from dataclasses import dataclass

from apex_native.types import GgufFacts

__all__ = ["ChatFormat", "chat_format", "sampling_parameters"]


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A family of templates: how it is recognised, the same as a Go template, and its stops."""

    name: str
    mark: str
    template: str
    stops: tuple[str, ...]


_FORMATS = (
    ChatFormat(
        "ChatML",
        "<|im_start|>",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    ChatFormat(
        "Llama 3",
        "<|start_header_id|>",
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n"
        "{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|eot_id|>",),
    ),
    ChatFormat(
        "Gemma",
        "<start_of_turn>",
        '{{- range .Messages }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user'
        "{{ end }}\n{{ .Content }}<end_of_turn>\n{{ end }}<start_of_turn>model\n",
        ("<end_of_turn>",),
    ),
)

_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


def chat_format(facts: GgufFacts) -> ChatFormat | None:
    """The family of the file's own template; None without one, or for one that is not known."""
    template = facts.metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        return None
    return next((known for known in _FORMATS if known.mark in template), None)


def sampling_parameters(facts: GgufFacts) -> dict[str, float]:
    """What the file recommends (``general.sampling.*``), by Ollama's names."""
    found = {}
    for key, name in _SAMPLING.items():
        value = facts.metadata.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = round(float(value), 6)
    return found
