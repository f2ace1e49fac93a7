"""Conversations in which an assistant calls tools: JSON schemas, calls, results, answers."""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from apex_native.corpus.builtin.rounds import rounds
from apex_native.corpus.builtin.templates import Filler, Pools, data_text, load_pools
from apex_native.corpus.document import Document, Message, Tool

__all__ = ["tool_documents", "tool_schema"]

_SHARED = ("city", "person", "company", "thing", "noun", "module")
"""Words that stay the same from one request of a conversation to the next."""

_SYSTEM_PROMPTS = (
    "You can call functions. Call one when it helps, and answer from what it returns.",
    "You are an assistant with access to tools. Never invent a result.",
    "Use the tools below where they are needed. Keep answers to one or two sentences.",
    "",
    "",
)

_THANKS = (
    ("Thanks, that's all.", "You're welcome!"),
    ("Perfect, thank you.", "Glad to help."),
    ("What else can you do for me?", "I can use {names}. Just ask."),
    ("Which tool did you use?", "I used {used}."),
)

_PARAMETER = re.compile(r"(?:enum (?P<values>\S+?)|(?P<type>\w+))(?P<required>!)?: (?P<text>.+)")


def tool_documents(rng: random.Random) -> Iterator[Document]:
    """Conversations with one to three calls without end."""
    pools = {**load_pools("pools_english.txt"), **load_pools("pools_code.txt")}
    catalogue = _catalogue()
    for tool in rounds(catalogue, rng):
        near = [other for other in catalogue if other["group"] == tool["group"] and other != tool]
        used = [tool, *rng.sample(near, min(len(near), rng.choice((0, 1, 1, 2))))]
        idle = rng.sample([other for other in catalogue if other not in used], rng.randint(0, 2))
        offered = sorted([*used, *idle], key=lambda offer: str(offer["name"]))
        yield Document(
            messages=tuple(_conversation(used, offered, pools, rng)),
            tools=tuple(tool_schema(offer) for offer in offered),
        )


@cache
def _catalogue() -> tuple[dict[str, Any], ...]:
    return tuple(tomllib.loads(data_text("tools.toml"))["tool"])


def tool_schema(tool: Mapping[str, Any]) -> Tool:
    """A tool of the catalogue as chat templates take it: a function with a JSON schema."""
    properties, required = {}, []
    for name, declared in tool["parameters"].items():
        match = _PARAMETER.fullmatch(declared)
        if match is None:
            raise ValueError(f"parameter {name} of {tool['name']}: {declared!r}")
        kind = match["type"] or "string"
        properties[name] = {"type": kind, "description": match["text"]}
        if match["values"]:
            properties[name]["enum"] = match["values"].split("|")
        if match["required"]:
            required.append(name)
    schema = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {
            "name": tool["name"],
            "description": tool["description"],
            "parameters": schema,
        },
    }


def _conversation(
    used: Sequence[Mapping[str, Any]],
    offered: Sequence[Mapping[str, Any]],
    pools: Pools,
    rng: random.Random,
) -> Iterator[Message]:
    prompt = rng.choice(_SYSTEM_PROMPTS)
    if prompt:
        yield {"role": "system", "content": prompt}
    shared: dict[str, str | int] = {}
    for tool in used:
        filler = Filler(rng, pools)
        filler.bound.update(shared)
        yield from _request(tool, filler, rng)
        shared.update((word, filler.bound[word]) for word in _SHARED if word in filler.bound)
    if rng.random() < 0.4:
        asked, said = rng.choice(_THANKS)
        names = ", ".join(str(offer["name"]) for offer in offered)
        yield {"role": "user", "content": asked}
        yield {
            "role": "assistant",
            "content": said.format(names=names, used=" and ".join(str(t["name"]) for t in used)),
        }


def _request(tool: Mapping[str, Any], filler: Filler, rng: random.Random) -> Iterator[Message]:
    yield {"role": "user", "content": filler.fill(rng.choice(tool["ask"]))}
    call = {"name": tool["name"], "arguments": _filled(tool["arguments"], filler)}
    # Nine letters and digits: the only form that every known template accepts.
    number = "".join(rng.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(9))
    yield {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": number, "type": "function", "function": call}],
    }
    result = json.dumps(_filled(tool["result"], filler), ensure_ascii=False)
    yield {"role": "tool", "name": tool["name"], "tool_call_id": number, "content": result}
    yield {"role": "assistant", "content": filler.fill(rng.choice(tool["say"]))}


def _filled(value: Any, filler: Filler) -> Any:
    """JSON with its slots filled; a text that is a single slot becomes what the slot holds."""
    if isinstance(value, dict):
        return {key: _filled(inner, filler) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, filler) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"«[^«»|]*»", value):
        return filler.value(value[1:-1])
    return filler.fill(value) if isinstance(value, str) else value
