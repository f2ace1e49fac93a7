"""Conversations into text, with the chat template of the model that will read it.

What a template can do is found out by rendering small conversations and looking for what they say:
some refuse a system message, some know no tools, some want a call's arguments as JSON text. What it
cannot do is put into words: instructions into the first question, schemas into instructions, a call
into the answer as ``<tool_call>`` JSON. `ChatRenderer.notes` says so, and the manifest repeats it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from apex_native.corpus.document import Document, Message, Tool
from apex_native.corpus.jinja import compile_template
from apex_native.errors import CorpusError

__all__ = ["ChatRenderer", "RenderError"]

_TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError),
    *(ValueError, RecursionError, MemoryError),
)
"""What running a stranger's template can raise."""

_PLAIN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}

_SENTINEL = "zqx"
"""Begins the words of probes: no template writes it by itself."""


class RenderError(CorpusError):
    """One conversation does not fit the template; others may."""


class ChatRenderer:
    """Renders conversations for one model; `notes` says what its template could not do."""

    def __init__(self, template: str | None, *, bos_token: str = "", eos_token: str = "") -> None:
        """Compile and probe a template; None stands for the plain layout.

        The plain layout is one paragraph a turn, ``User: ...`` and ``Assistant: ...``. Raises
        CorpusError where the template is no Jinja or refuses a question with an answer.
        """
        self.notes: list[str] = []
        self.template_sha256: str | None = None
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._template: jinja2.Template | None = None
        self._takes_system = self._takes_calls = self._takes_tools = self._takes_tool_role = True
        self._arguments_as_text = False
        if template is None:
            self._takes_tools = self._takes_calls = False
            return
        self.template_sha256 = hashlib.sha256(template.encode()).hexdigest()
        try:
            self._template = compile_template(template)
        except _TEMPLATE_ERRORS as error:
            raise CorpusError(
                f"the model's chat template is not valid Jinja: {error}; "
                'set chat_template = "plain" in the recipe to do without it'
            ) from error
        self._probe()

    @property
    def is_plain(self) -> bool:
        """True where no template of the model is used."""
        return self._template is None

    def render(self, document: Document) -> str:
        """The text of a document; conversations end with a line break.

        Raises RenderError where the template refuses the conversation.
        """
        if not document.messages:
            return document.text
        text = self._run(self._adapted(document.messages, document.tools), document.tools)
        if not text.strip():
            raise RenderError("the chat template made nothing of the conversation")
        return text if text.endswith("\n") else text + "\n"

    def prompt(self, messages: Sequence[Message]) -> str:
        """A conversation that the assistant is to continue, up to where its answer begins."""
        return self._run(self._adapted(messages, ()), (), add_generation_prompt=True)

    def _run(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        if self._template is None:
            return _plain(messages, add_generation_prompt=add_generation_prompt)
        offered = list(tools) if tools and self._takes_tools else None
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=offered,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except _TEMPLATE_ERRORS as error:
            raise RenderError(f"the chat template raised: {error}") from error

    def _probe(self) -> None:
        """Find out what the template can do; CorpusError if not even a plain exchange."""
        words = {name: _SENTINEL + name for name in ("ask", "say", "system", "tool", "arg", "out")}
        ask: Message = {"role": "user", "content": words["ask"]}
        say: Message = {"role": "assistant", "content": words["say"]}
        try:
            text = self._run([ask, say], ())
        except RenderError as error:
            raise CorpusError(
                f"{error} on a question with an answer; "
                'set chat_template = "plain" in the recipe to do without it'
            ) from error
        if words["ask"] not in text or words["say"] not in text:
            raise CorpusError(
                "the model's chat template leaves out what was asked or answered; "
                'set chat_template = "plain" in the recipe to do without it'
            )
        system: Message = {"role": "system", "content": words["system"]}
        self._takes_system = self._shows([system, ask, say], (), words["system"])
        tool = _schema(words["tool"])
        self._takes_tools = self._shows([ask, say], (tool,), words["tool"])
        self._probe_calls(ask, say, words, tool)
        self._note_what_is_missing()

    def _probe_calls(
        self, ask: Message, say: Message, words: Mapping[str, str], tool: Tool
    ) -> None:
        result = {"role": "tool", "name": words["tool"], "tool_call_id": "abcdefghi"}
        answered: Message = {**result, "content": words["out"]}
        for as_text in (False, True):
            call = _call(words["tool"], {words["arg"]: 1}, as_text=as_text)
            exchange = [ask, call, answered, say]
            if self._shows(exchange, (tool,), words["arg"], words["out"]):
                # A template that prints calls as Python does shows the argument, too; JSON does
                # not escape its own quotes, which text inside of text would.
                self._takes_calls, self._arguments_as_text = True, as_text
                return
        self._takes_calls = False
        self._takes_tool_role = self._shows([ask, say, answered, say], (), words["out"])

    def _shows(self, messages: Sequence[Message], tools: Sequence[Tool], *words: str) -> bool:
        try:
            text = self._run(messages, tools)
        except RenderError:
            return False
        return all(word in text for word in words)

    def _note_what_is_missing(self) -> None:
        if not self._takes_system:
            self.notes.append("no system role: instructions begin the first question")
        if not self._takes_tools:
            self.notes.append("no tools: their schemas are written into the instructions")
        if not self._takes_calls:
            self.notes.append("no tool calls: written into the answer as <tool_call> JSON")
        if not self._takes_tool_role:
            self.notes.append("no tool role: results are written as the user's")

    def _adapted(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """The conversation as the template can take it."""
        adapted = [self._adapted_message(message) for message in messages]
        if tools and not self._takes_tools:
            adapted = _with_instructions(adapted, _tool_instructions(tools))
        if not self._takes_system:
            adapted = _without_system(adapted)
        return adapted

    def _adapted_message(self, message: Message) -> Message:
        calls = message.get("tool_calls")
        if calls and not self._takes_calls:
            written = "\n".join(_call_text(call["function"]) for call in calls)
            content = str(message.get("content") or "")
            return {"role": message["role"], "content": f"{content}\n{written}".strip("\n")}
        if calls and self._arguments_as_text:
            return {**message, "tool_calls": [_with_text_arguments(call) for call in calls]}
        if message["role"] == "tool" and not self._takes_tool_role:
            written = f"<tool_response>\n{message['content']}\n</tool_response>"
            return {"role": "user", "content": written}
        return message


def _schema(name: str) -> Tool:
    parameters = {"type": "object", "properties": {}, "required": []}
    function = {"name": name, "description": "A probe.", "parameters": parameters}
    return {"type": "function", "function": function}


def _call(name: str, arguments: Mapping[str, Any], *, as_text: bool) -> Message:
    given = json.dumps(arguments) if as_text else dict(arguments)
    function = {"name": name, "arguments": given}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _tool_instructions(tools: Sequence[Tool]) -> str:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f"You may call these functions:\n<tools>\n{lines}\n</tools>"


def _with_instructions(messages: list[Message], text: str) -> list[Message]:
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]


def _without_system(messages: list[Message]) -> list[Message]:
    """Instructions at the beginning join the first question; later ones become questions."""
    if messages[0]["role"] != "system" or len(messages) < 2:
        return messages
    text = f"{messages[0]['content']}\n\n{messages[1].get('content') or ''}"
    return [{**messages[1], "content": text}, *messages[2:]]


def _plain(messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    paragraphs = []
    for message in messages:
        name = _PLAIN_NAMES.get(str(message["role"]), str(message["role"]).capitalize())
        paragraphs.append(f"{name}: {message.get('content') or ''}")
    if add_generation_prompt:
        return "\n\n".join([*paragraphs, "Assistant:"])
    return "\n\n".join(paragraphs) + "\n\n"
