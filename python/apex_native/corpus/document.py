"""What sources give: a text, or a conversation that is still to be rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Document", "Message", "Tool", "cut_conversation", "cut_text"]

Message = Mapping[str, Any]
"""``role`` and ``content`` (text), and for calls ``tool_calls`` as chat templates expect them:
``{"type": "function", "id": ..., "function": {"name": ..., "arguments": {...}}}``."""

Tool = Mapping[str, Any]
"""``{"type": "function", "function": {"name", "description", "parameters": JSON schema}}``."""


@dataclass(frozen=True, slots=True)
class Document:
    """Either a text or messages, which the model's chat template makes into one.

    can_be_cut: the text is a piece of a longer one, so that less of it is as good.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    can_be_cut: bool = False

    @property
    def words(self) -> str:
        """What the document says, without the marks of any template: what near-duplicates share."""
        if not self.messages:
            return self.text
        parts = []
        for message in self.messages:
            parts.append(str(message.get("content") or ""))
            parts += [str(call["function"]) for call in message.get("tool_calls") or ()]
        return "\n".join(parts)

    def shorter_forms(self) -> Iterator[Document]:
        """Less and less of the document: turns up to an answer, or the beginning of the text."""
        if self.can_be_cut:
            for parts in (2, 4, 8, 16):
                beginning = next(cut_text(self.text, max(1, len(self.text) // parts)), "")
                yield replace(self, text=beginning)
        for n in range(len(self.messages) - 1, 1, -1):
            if _is_answer(self.messages[n - 1]):
                yield replace(self, messages=self.messages[:n])


def cut_text(text: str, max_chars: int) -> Iterator[str]:
    """Pieces of at most max_chars, cut at a blank line, else at a line's end, a blank, anywhere.

    A piece is never empty or blank; line breaks around it are dropped.
    """
    start = 0
    while start < len(text):
        end = min(start + max_chars, len(text))
        if end < len(text):
            end = _cut_before(text, start, end)
        piece = text[start:end].strip("\n")
        if piece.strip():
            yield piece
        start = end


def _cut_before(text: str, start: int, end: int) -> int:
    # The second half only: a cut further back would make many tiny pieces.
    earliest = start + (end - start) // 2
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, earliest, end)
        if found > start:
            return found + len(mark)
    return end


def cut_conversation(messages: Sequence[Message], max_chars: int) -> tuple[Message, ...]:
    """The first turns that fit in max_chars, ended after an answer; none if not even one fits."""
    length, kept = 0, 0
    for i, message in enumerate(messages):
        length += len(str(message.get("content") or "")) + len(str(message.get("tool_calls") or ""))
        if length > max_chars:
            break
        if _is_answer(message):
            kept = i + 1
    return tuple(messages[:kept])


def _is_answer(message: Message) -> bool:
    return message.get("role") == "assistant" and not message.get("tool_calls")
