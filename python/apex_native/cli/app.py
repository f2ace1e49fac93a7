"""The command tree, and how every verb's errors become an exit code."""

from __future__ import annotations

import difflib
import logging
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from apex_native.cli import (
    bench,
    builtins,
    convert,
    corpus,
    demo,
    doctor,
    evaluate,
    imatrix,
    inspect,
    plan,
    publish,
    quantize,
    report,
    search,
    strategies,
    sweep,
)
from apex_native.cli.command import Command
from apex_native.cli.errors import CtrlCError, is_debug
from apex_native.cli.errors import report as report_error
from apex_native.cli.hessian import with_hessian_value
from apex_native.cli.options import examples, help_style
from apex_native.cli.termination import heard_as_interrupt

__all__ = ["app"]


class _ApexGroup(TyperGroup):
    """Typer's group with our errors: one sentence, one table, one exit code each."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run and exit; verbs never catch and never exit on their own."""
        options["standalone_mode"] = False
        if is_debug():
            logging.getLogger("apex_native.llama").addHandler(logging.StreamHandler())
        try:
            # typer returns the code of an Exit, and None where the verb simply ended.
            with heard_as_interrupt():
                code = super().main(*args, **options)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the last resort)
            code = report_error(error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; an interrupt leaves as an exception that typer does not touch."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise CtrlCError(stop) from stop

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb, or say which one was probably meant."""
        if " ".join(args[:2]) in self.commands:  # a verb of two words, as `bench kernels`
            args = [" ".join(args[:2]), *args[2:]]
        verb = args[0]
        if verb not in self.commands and not verb.startswith("-"):
            near = difflib.get_close_matches(verb, self.commands, n=2)
            known = ", ".join(self.commands)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the verbs are {known}"
            ctx.fail(f"no such verb: {verb}; {hint}")
        if verb in {"quantize", "search"}:
            args = with_hessian_value(args)
        return super().resolve_command(ctx, args)


class _ApexTyper(typer.Typer):
    """Every verb is a `Command` of ours."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """As typer's, with our class."""
        return super().command(name, cls=Command, **options)


app = _ApexTyper(
    cls=_ApexGroup,
    add_completion=True,
    rich_markup_mode=help_style(),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "apex-native inspect model-bf16.gguf",
        "apex-native plan model-bf16.gguf --tier quality",
        "apex-native quantize model-bf16.gguf --tier quality -o model-Quality.gguf",
        "apex-native imatrix model-bf16.gguf -f calibration.txt -o imatrix.gguf",
        "apex-native quantize model-bf16.gguf --tier mini --imatrix imatrix.gguf",
        "apex-native demo",
    ),
)


def _show_version(asked: bool) -> None:
    if asked:
        from apex_native._native import core

        info = core.build_info()
        typer.echo(f"apex-native {info['version']} (llama.cpp {info['llama_cpp_commit']})")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Version and llama.cpp commit.",
        ),
    ] = False,
) -> None:
    """Quantize Mixture-of-Experts models to GGUF, each role and layer with its own precision."""
    if ctx.invoked_subcommand is None and not version:
        typer.echo(ctx.get_help())


for _verb in (
    inspect,
    plan,
    convert,
    corpus,
    imatrix,
    quantize,
    search,
    strategies,
    builtins,
    evaluate,
    sweep,
    bench,
    report,
    publish,
    demo,
    doctor,
):
    _verb.register(app)
