"""What a file says of itself: names, size, who made it from what, under which licence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from apex_native.errors import PlanError
from apex_native.gguf_layout import GgufValueType, MetadataEntry
from apex_native.types import GgufFacts

__all__ = ["About", "about_metadata", "size_label"]

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_SIZE = re.compile(r"(?:^|-)(\d+x)?\d+(?:\.\d+)?[KMBT](?:-A\d+(?:\.\d+)?[KMBT])?(?=-|$)", re.I)
"""A size in a model's name, as in Qwen3.5-35B-A3B or Mixtral-8x7B-Instruct."""


@dataclass(frozen=True, slots=True)
class About:
    """Values for ``general.*``; what is empty stays as the source has it.

    base_model is OWNER/REPO on the Hub, license an identifier as there ("apache-2.0").
    """

    name: str = ""
    base_model: str = ""
    license: str = ""
    quantized_by: str = ""

    def __post_init__(self) -> None:
        """PlanError for a base model that is no OWNER/REPO."""
        if self.base_model and not _REPO.fullmatch(self.base_model):
            raise PlanError(
                f"base_model must be OWNER/REPO as on the Hub, found '{self.base_model}'"
            )


def about_metadata(about: About, facts: GgufFacts) -> tuple[MetadataEntry, ...]:
    """The pairs to write, names as ggml's docs/gguf.md has them.

    ``basename`` and ``size_label`` are added where the source lacks them; nothing is where about
    is empty.
    """
    if about == About():
        return ()
    text = {"general.license": about.license, "general.quantized_by": about.quantized_by}
    organization, _, repo = about.base_model.partition("/")
    text["general.name"] = about.name
    if repo:
        text["general.base_model.0.name"] = repo
        text["general.base_model.0.organization"] = organization
        text["general.base_model.0.repo_url"] = f"https://huggingface.co/{about.base_model}"
    named = about.name or repo
    if named and "general.basename" not in facts.metadata:
        text["general.basename"] = _SIZE.split(named)[0] or named
    if "general.size_label" not in facts.metadata:
        text["general.size_label"] = size_label(facts)
    entries = [
        MetadataEntry(key, GgufValueType.STRING, value) for key, value in text.items() if value
    ]
    if repo:
        entries.append(MetadataEntry("general.base_model.count", GgufValueType.UINT32, 1))
    return tuple(entries)


def size_label(facts: GgufFacts) -> str:
    """``8x7.4M``: experts, and the weights of a model with one expert; or just the weights.

    What ``size_label`` of gguf-py computes when it converts a model.
    """
    count = facts.metadata.get(f"{facts.architecture}.expert_count", 0)
    n_expert = count if isinstance(count, int) else 0
    experts = [t for t in facts.tensors if "_exps." in t.name]
    in_experts = sum(t.n_elements for t in experts)
    rest = sum(t.n_elements for t in facts.tensors) - in_experts
    if not n_expert or not experts:
        return _rounded(rest + in_experts)
    return f"{n_expert}x{_rounded(rest + in_experts // n_expert)}"


def _rounded(n: int) -> str:
    """Two digits at least: 7.4M, 35B."""
    scales = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
    unit, suffix = next(((unit, s) for unit, s in scales if n > unit), scales[-1])
    digits = max(2 - len(str(round(n / unit)).lstrip("0")), 0)
    return f"{n / unit:.{digits}f}{suffix}"
