"""``apex-native publish``: a repository of a folder's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.options import ForceOption, JsonOption, QuietOption, examples, spread
from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.publish import Repository

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "publish",
        short_help="Make a repository of quantized files and upload it.",
        epilog=examples(
            "apex-native publish folder --repo me/Model-APEX-GGUF --dry-run",
            "apex-native publish folder --repo me/Model-APEX-GGUF --results eval.json",
        ),
    )(spread(publish))


@dataclass(frozen=True)
class CardChoices:
    """What the card says, where the files do not say it."""

    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results", metavar="eval.json", help="Evaluations for the card; repeatable."
        ),
    ] = None
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Heading of the card.")] = None
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", metavar="OWNER/NAME", help="The original; default: what the files say."
        ),
    ] = None
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Licence; default: what the files say."),
    ] = None


@dataclass(frozen=True)
class UploadChoices:
    """How it is uploaded."""

    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository a private one.")
    ] = False
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Upload as a pull request.")] = (
        False
    )
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write everything here, upload nothing.")
    ] = False


def publish(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="Folder that `quantize` wrote to: models with their manifests, and what is to go "
            "with them (mmproj, importance matrix).",
        ),
    ],
    repo: Annotated[
        str, typer.Option("--repo", metavar="OWNER/NAME", help="The repository on the Hub.")
    ],
    card: CardChoices,
    upload: UploadChoices,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write card, plots, sums, gallery entry and Modelfiles beside the files, and upload all.

    Every byte of every model is compared with its manifest first. An interrupted upload goes on
    when the command is run again.
    """
    from apex_native.publish import build_repository, upload_repository
    from apex_native.results import Results, merge_results

    out = Output(json_mode=json_mode, quiet=quiet)
    loaded = [Results.load(path) for path in card.results or ()]
    built = build_repository(
        folder,
        repo,
        results=merge_results(loaded) if loaded else None,
        title=card.title,
        base_model=card.base_model or "",
        license=card.license or "",
        force=force,
        starting=out.note,
    )
    for name in built.unmeasured:
        out.warning(f"{name}: no numbers on the card, --results know nothing of this file")
    for name in built.uncompared:
        out.warning(
            f"{name}: its manifest is of an earlier version and holds no checksums, so its weights "
            "were not compared with it"
        )
    url = None
    if not upload.dry_run:
        url = upload_repository(built, private=upload.private, create_pr=upload.create_pr)
    _show(out, built, url)


def _show(out: Output, built: Repository, url: str | None) -> None:
    sizes = {name: (built.folder / name).stat().st_size for name in built.files}
    out.document(
        {
            "repo": built.repo,
            "files": [
                {"name": name, "bytes": size, "sha256": built.sums.get(name)}
                for name, size in sizes.items()
            ],
            "bytes": built.nbytes,
            "uploaded": url,
        }
    )
    columns = (Column("file", wraps=True), Column("bytes", right=True))
    out.table(Table(columns, [(name, f"{size:,}") for name, size in sizes.items()]))
    out.text()
    if url is None:
        out.text(f"{len(sizes)} files, {exact_size(built.nbytes)}; dry run: nothing was uploaded")
    else:
        out.text(f"uploaded {len(sizes)} files, {exact_size(built.nbytes)}: {url}")
