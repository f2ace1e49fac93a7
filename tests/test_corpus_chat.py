"""Chat templates: what they can do is found out, what they cannot do is put into words."""

from __future__ import annotations

import json

import pytest

from apex_native.corpus.chat import ChatRenderer, RenderError
from apex_native.corpus.document import Document
from apex_native.corpus.jinja import compile_template
from apex_native.errors import CorpusError
from corpus_tools import CHATML

TALK = Document(
    messages=(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Yes."},
    )
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Sky.", "parameters": SCHEMA},
}
CALLS = Document(
    messages=(
        {"role": "user", "content": "Rain in Zürich?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "abc123def",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Zürich"}},
                }
            ],
        },
        {"role": "tool", "name": "weather", "tool_call_id": "abc123def", "content": '{"mm": 3}'},
        {"role": "assistant", "content": "A little."},
    ),
    tools=(TOOL,),
)

WITH_TOOLS = """
{%- if tools %}<tools>{{ tools | tojson }}</tools>
{% endif %}
{%- for m in messages %}
    {%- if m.tool_calls %}
        {%- for call in m.tool_calls %}
<call>{{ call.function.name }}{{ call.function.arguments | tojson }}</call>
        {%- endfor %}
    {%- else %}
<{{ m.role }}>{{ m.content }}</{{ m.role }}>
    {%- endif %}
{%- endfor %}
"""

TEXT_ARGUMENTS = (
    "{% for m in messages %}{% if m.tool_calls %}"
    "{% for c in m.tool_calls %}[CALL]{{ c.function.name + c.function.arguments }}{% endfor %}"
    "{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)

STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role not in ('user', 'assistant') %}"
    "{{ raise_exception('only user and assistant, not ' + m.role) }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
)


def test_a_plain_template() -> None:
    renderer = ChatRenderer(CHATML)
    assert renderer.render(TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n"
    )
    assert renderer.prompt(TALK.messages[:2]).endswith("<|im_start|>assistant\n")
    assert [note.split(":")[0] for note in renderer.notes] == ["no tools", "no tool calls"]


def test_calls_are_written_out_where_a_template_has_none() -> None:
    text = ChatRenderer(CHATML).render(CALLS)
    assert text.startswith("<|im_start|>system\nYou may call these functions:\n<tools>\n")
    assert json.loads(text.split("<tools>\n")[1].split("\n</tools>")[0]) == TOOL
    call = json.loads(text.split("<tool_call>\n")[1].split("\n</tool_call>")[0])
    assert call == {"name": "weather", "arguments": {"city": "Zürich"}}
    assert "Zürich" in text.split("<tool_call>")[1]
    assert '<|im_start|>tool\n{"mm": 3}<|im_end|>' in text
    assert "None" not in text


def test_a_template_with_tools_gets_them() -> None:
    renderer = ChatRenderer(WITH_TOOLS)
    assert renderer.notes == []
    text = renderer.render(CALLS)
    assert json.loads(text.split("<tools>")[1].split("</tools>")[0]) == [TOOL]
    assert '<call>weather{"city": "Zürich"}</call>' in text
    assert '<tool>{"mm": 3}</tool>' in text


def test_arguments_as_text_where_a_template_wants_it() -> None:
    text = ChatRenderer(TEXT_ARGUMENTS).render(CALLS)
    assert '[CALL]weather{"city": "Zürich"}' in text


def test_a_strict_template_gets_what_it_accepts() -> None:
    renderer = ChatRenderer(STRICT, bos_token="<s>", eos_token="</s>")
    assert renderer.render(TALK) == "<s>[user]Be brief.\n\nHello?[assistant]Yes.</s>\n"
    assert [note.split(":")[0] for note in renderer.notes] == [
        "no system role",
        "no tools",
        "no tool calls",
        "no tool role",
    ]
    text = renderer.render(CALLS)
    assert '[user]<tool_response>\n{"mm": 3}\n</tool_response>' in text


def test_what_a_template_refuses_is_one_conversation() -> None:
    renderer = ChatRenderer(STRICT)
    twice = Document(messages=({"role": "user", "content": "a"}, {"role": "user", "content": "b"}))
    with pytest.raises(RenderError, match="the chat template raised: roles must alternate"):
        renderer.render(twice)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "not valid Jinja"),
        ("{{ raise_exception('never') }}", "raised: never on a question with an answer"),
        ("{{ 1 // 0 }}", "raised: .*zero"),
        ("{{ messages.nothing.at_all }}", "raised: .*has no attribute 'nothing'"),
        ("hello", "leaves out what was asked or answered"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "raised: .*unsafe"),
        ("{% set x = messages.append(1) %}", "raised: .*unsafe"),
        ("{% for i in range(999999999) %}{% endfor %}", "raised: .*[Rr]ange too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "raised: .*recursion"),
    ],
)
def test_a_template_that_cannot_be_used(template: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        ChatRenderer(template)
    assert 'set chat_template = "plain"' in str(caught.value)


def test_the_additions_of_chat_templates() -> None:
    text = compile_template(
        "{% set ns = namespace(n=0) %}"
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% generation %}{{ m }}{% endgeneration %},{% endfor %}"
        "{{ ns.n }} {{ {'b': '<ü>', 'a': 1} | tojson }} {{ strftime_now('%Y-%m-%d') }}"
    ).render(messages=["x", "y", "z"])
    assert text == 'x,y,2 {"b": "<ü>", "a": 1} 2026-01-01'


def test_blocks_are_trimmed() -> None:
    assert compile_template("  {% if true %}\nyes\n  {% endif %}\n").render() == "yes\n"


def test_no_template_is_the_plain_layout() -> None:
    renderer = ChatRenderer(None)
    assert renderer.is_plain
    assert renderer.template_sha256 is None
    assert renderer.render(TALK) == "System: Be brief.\n\nUser: Hello?\n\nAssistant: Yes.\n\n"
    assert renderer.prompt(TALK.messages[:2]).endswith("User: Hello?\n\nAssistant:")
    assert '<tool_call>\n{"name": "weather"' in renderer.render(CALLS)
    assert '"description": "Sky."' in renderer.render(CALLS)
