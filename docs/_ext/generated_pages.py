"""Pages that are written from the program itself each time the docs are built.

`generated/cli/` has a page for every verb of `apex-native`, `generated/api.md` every public name
of the package, `generated/results/` the tables that benchmarks left in `bench/results`. None of
them is committed; what they say is changed where it is said: in an option's help, in a docstring,
by running a benchmark.
"""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

import apex_native
from apex_native.cli.app import app as commands

__all__ = ["setup"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for sources."""
    folder = Path(app.srcdir) / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    _write_commands(folder / "cli")
    _write_api(folder / "api.md")
    _write_results(folder / "results", Path(app.srcdir).parent / "bench" / "results")
    # Before napoleon, which reads sections such as "Args:".
    app.connect("autodoc-process-docstring", _examples_are_code, priority=100)
    return {"parallel_read_safe": True}


def _examples_are_code(*event: Any) -> None:
    """An indented block after a paragraph is an example; reST would take it for a quotation."""
    lines: list[str] = event[-1]  # app, what, name, object and options come before
    shown: list[str] = []
    last = ""
    for line in lines:
        begins = line.startswith("    ") and bool(shown) and not shown[-1].strip()
        if begins and last and not last.startswith((" ", "..")):
            shown += [".. code-block:: python", ""]
        shown.append(line)
        last = line if line.strip() else last
    lines[:] = shown


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_commands(folder: Path) -> None:
    """One page a verb, in the order of `apex-native --help`."""
    root = typer.main.get_command(commands)
    context = typer.Context(root, info_name="apex-native")
    for i, verb in enumerate(root.list_commands(context)):  # type: ignore[attr-defined]
        command = root.get_command(context, verb)  # type: ignore[attr-defined]
        page = get_docs_for_click(obj=command, ctx=context, name=verb, call_prefix="apex-native")
        _write(folder / f"{i:02d}-{verb.replace(' ', '-')}.md", _as_page(page))


def _as_page(text: str) -> str:
    """Typer's section as a page: its heading on top, its examples as a block of commands."""
    heading, _, rest = text.replace("\b", "").partition("\n")
    body, _, examples = rest.partition("Examples:\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    shown = "".join(f"{line}\n" for line in lines)
    block = f"\n**Examples**:\n\n```console\n{shown}```\n" if lines else ""
    body = body.replace("$ apex-native", "apex-native").replace("**:", "**")
    return f"# {heading.lstrip('# ')}\n{body}{block.replace('**:', '**')}"


_API_GROUPS = (
    ("Functions", "autofunction", inspect.isfunction),
    ("Classes", "autoclass", lambda v: inspect.isclass(v) and not issubclass(v, Exception)),
    ("Errors", "autoexception", lambda v: inspect.isclass(v) and issubclass(v, Exception)),
)


def _write_api(path: Path) -> None:
    """Everything in `apex_native.__all__`, by kind."""
    values = {
        name: getattr(apex_native, name)
        for name in apex_native.__all__
        if name not in apex_native.results.__all__  # they have a page of their own
    }
    parts = [
        *("# Python API", ""),
        "Everything below is in `import apex_native as apex`.",
        "So are [results](../reference/results.md).",
        "",
    ]
    for title, directive, belongs in _API_GROUPS:
        parts += [f"## {title}", "", "```{eval-rst}"]
        for name, value in values.items():
            if belongs(value):
                parts += [f".. {directive}:: apex_native.{name}"]
                parts += ["   :members:", ""] if directive == "autoclass" else [""]
        parts += ["```", ""]
    _write(path, "\n".join(parts))


def _write_results(folder: Path, results: Path) -> None:
    """The committed tables, with links to files beside them turned into plain names."""
    for source in sorted(results.glob("*.md")):
        text = source.read_text(encoding="utf-8")
        for image in re.findall(r"!\[[^]]*\]\(([^)/]+\.png)\)", text):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(results / image, folder / image)
        _write(folder / source.name, re.sub(r"(?<!!)\[([^]]+)\]\([^)]+\)", r"\1", text))
