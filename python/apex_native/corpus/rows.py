"""From a row of a data set to documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from apex_native.corpus.document import Document, Message, cut_conversation, cut_text
from apex_native.corpus.source_specs import RowFields

__all__ = ["RowError", "row_documents"]

_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "function": "tool"}
"""Names of older data sets; all others are kept."""


class RowError(ValueError):
    """A row that is no document; the message is counted, so it names no values."""


def row_documents(row: Any, fields: RowFields, max_chars: int) -> Iterator[Document]:
    """The documents of a row: a conversation, or the pieces of a text. RowError if it has none."""
    if not isinstance(row, dict):
        raise RowError("the row is no object")
    name = fields.messages or fields.text
    if row.get(name) is None:
        raise RowError(
            f"no field '{name}' (there are {', '.join(sorted(map(str, row))) or 'none'})"
        )
    if fields.messages:
        messages = tuple(_message(message) for message in _list(row[name], name))
        kept = cut_conversation(messages, max_chars)
        if not kept:
            raise RowError(f"no exchange within {max_chars} characters")
        tools = _list(row.get(fields.tools) or [], fields.tools) if fields.tools else []
        yield Document(messages=kept, tools=tuple(tools))
        return
    if not isinstance(row[name], str):
        raise RowError(f"field '{name}' is no text")
    if not row[name].strip():
        raise RowError(f"field '{name}' is empty")
    for piece in cut_text(row[name], max_chars):
        yield Document(text=piece, can_be_cut=True)


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError(f"field '{name}' is no list") from None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowError(f"field '{name}' is no list of objects")
    return value


def _message(message: dict[str, Any]) -> Message:
    role = message.get("role", message.get("from"))
    if not isinstance(role, str):
        raise RowError("a message has no role")
    made: dict[str, Any] = {"role": _ROLES.get(role, role), "content": _content(message)}
    calls = message.get("tool_calls")
    if calls:
        made["tool_calls"] = [_call(call) for call in _list(calls, "tool_calls")]
    for key in ("name", "tool_call_id"):
        if isinstance(message.get(key), str):
            made[key] = message[key]
    return made


def _content(message: dict[str, Any]) -> str:
    content = message.get("content", message.get("value"))
    if content is None:
        return ""
    if isinstance(content, list):
        # The form of multimodal data sets; what is no text has no tokens here.
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise RowError("a message's content is no text")
    return content


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a tool call has no function name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise RowError("a tool call's arguments are no JSON") from None
    if not isinstance(arguments, dict):
        raise RowError("a tool call's arguments are no object")
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": str(call.get("id") or "call00001"), **made}
