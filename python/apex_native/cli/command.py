"""What every verb's command line is checked for before the verb begins."""

from __future__ import annotations

from collections import Counter
from inspect import cleandoc
from typing import Any

from typer.core import TyperCommand

from apex_native.cli.effects import refuse_options_without_effect
from apex_native.cli.outputs import guard_outputs

__all__ = ["Command"]


class Command(TyperCommand):
    """A verb that takes no option twice, none without effect, and no output over an input."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As typer's; the help's paragraphs are lines of their own, for terminals to break."""
        super().__init__(*args, **options)
        paragraphs = cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(text.splitlines()) for text in paragraphs)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse as typer does; a usage error for an option that is repeated or does nothing."""
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        _refuse_repeated(ctx, order)
        rest = super().parse_args(ctx, args)
        refuse_options_without_effect(ctx)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the verb where none of its outputs is one of its inputs."""
        guard_outputs(ctx.params)
        return super().invoke(ctx)


def _refuse_repeated(ctx: Any, order: list[Any]) -> None:
    """Typer takes the last of two silently; a switch given twice means the same."""
    for parameter, n_times in Counter(order).items():
        single = getattr(parameter, "multiple", True) is False
        switch = getattr(parameter, "is_flag", False) and not parameter.secondary_opts
        if n_times > 1 and single and not switch:
            name = max(parameter.opts, key=len)
            ctx.fail(f"{name} was given {n_times} times and can have one value; give it once")
