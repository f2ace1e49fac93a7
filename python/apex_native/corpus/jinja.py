"""The Jinja environment that chat templates are written for, sandboxed.

Templates come out of model files, so they run in Jinja's immutable sandbox. The additions are those
of transformers' ``apply_chat_template``, which is what templates are tested with: trimmed blocks,
``break`` and ``continue``, ``raise_exception``, ``tojson`` without HTML escapes, ``strftime_now``,
and the ``generation`` block, which marks answers for training and prints as it is.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["TEMPLATE_DATE", "compile_template"]

TEMPLATE_DATE = datetime(2026, 1, 1, 12, 0, 0)
"""What ``strftime_now`` tells: a fixed moment, so that a seed gives the same text tomorrow."""


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template; jinja2.TemplateError where it is no Jinja."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
    return environment.from_string(source)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _GenerationBlock(Extension):
    """``{% generation %}...{% endgeneration %}``: the block itself."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own way)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)
