"""``apex-native doctor``: versions, machine, and a self test."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.errors import EXIT_FAILURE
from apex_native.cli.options import JsonOption, QuietOption, examples
from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.self_test import Environment

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "doctor",
        short_help="Check this installation, or what can be done with a file.",
        epilog=examples(
            "apex-native doctor",
            "apex-native doctor model.gguf",
            "apex-native doctor --full --json",
        ),
    )(doctor)


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A GGUF file: say which verbs can work with it, and why not."
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Test every type, also those whose tables take seconds to build."
        ),
    ] = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say what this installation is and whether it works; exit code 1 if it does not."""
    out = Output(json_mode=json_mode, quiet=quiet)
    if file is not None:
        _show_abilities(out, file)
    else:
        _check_installation(out, full=full)


def _show_abilities(out: Output, file: Path) -> None:
    from apex_native.cli.abilities import abilities

    found = abilities(file)
    out.document({"file": str(file), "verbs": {row.verb: row.obstacle for row in found}})
    columns = (Column("verb"), Column("works"), Column("why not", wraps=True))
    cells = [(row.verb, "no" if row.obstacle else "yes", row.obstacle or "") for row in found]
    out.table(Table(columns, cells))


def _check_installation(out: Output, *, full: bool) -> None:
    from apex_native.self_test import QUICK_TYPES, describe_environment, run_self_test
    from apex_native.types import GgmlType

    environment = describe_environment()
    types = tuple(type for type in GgmlType if type.is_target) if full else QUICK_TYPES
    results = run_self_test(types)
    passed = all(result.passed for result in results)
    out.document(
        {
            "passed": passed,
            "environment": asdict(environment),
            "checks": [asdict(result) for result in results],
        }
    )
    for label, value in _environment_lines(environment):
        out.text(f"{label:<10}{value}")
    out.text()
    columns = (Column("check"), Column("result"), Column("found", wraps=True))
    cells = [(row.name, "ok" if row.passed else "FAILED", row.detail) for row in results]
    out.table(Table(columns, cells))
    if not passed:
        raise typer.Exit(EXIT_FAILURE)


def _environment_lines(environment: Environment) -> list[tuple[str, str]]:
    build = environment.build or {}
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    memory = environment.memory_free
    return [
        ("apex", f"{build.get('version', 'native core missing')}"),
        ("llama.cpp", f"{build.get('llama_cpp_commit', 'unknown')}"),
        ("compiler", f"{build.get('compiler', 'unknown')}"),
        ("CUDA", _cuda_line(environment, built=bool(build.get("cuda")))),
        ("Python", f"{environment.python}; {packages}"),
        ("system", environment.system),
        ("CPU", f"{environment.cpu}; {environment.n_threads} usable threads"),
        ("features", " ".join(environment.cpu_features) or "not known on this system"),
        ("memory", "not known on this system" if memory is None else f"{exact_size(memory)} free"),
        ("cache", f"{environment.cache_folder}; {exact_size(environment.disk_free)} free"),
    ]


def _cuda_line(environment: Environment, *, built: bool) -> str:
    if not built:
        return "not built"
    return f"built in; {', '.join(environment.gpus) or environment.gpu_problem}"
