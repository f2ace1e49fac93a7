"""``apex-native corpus``: a calibration text from a recipe, for one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_native.cli.compute_options import ComputeChoices
from apex_native.cli.errors import UsageError
from apex_native.cli.options import (
    ForceOption,
    JsonOption,
    QuietOption,
    examples,
    spread,
)
from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table
from apex_native.printable import counted

if TYPE_CHECKING:
    from apex_native.corpus import Corpus, CorpusProgress, GenerationJournal, Recipe
    from apex_native.engine import Model

__all__ = ["register"]

JOURNAL_SUFFIX = ".journal"

OptionalModel = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", help="GGUF model that the text is for: its tokens and its chat template."
    ),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE.toml",
        help="What the text is made of: a recipe that --list shows, or one of your own.",
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", show_default="the recipe's", help="Tokens wanted in all."),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="S", show_default="the recipe's", help="The same seed gives the same bytes."
    ),
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="PATH", help="The text; its manifest goes to PATH.manifest.json."
    ),
]
ByDomainOption = Annotated[
    Path | None,
    typer.Option(
        "--by-domain",
        metavar="FOLDER",
        help="Each domain's documents by themselves too, for `eval --by-text`.",
    ),
]
AllowShortOption = Annotated[
    bool,
    typer.Option("--allow-short", help="Warn instead of failing where a source has too little."),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on with an interrupted run: keep what the model wrote."),
]
ListOption = Annotated[bool, typer.Option("--list", help="Show the recipes that are built in.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "corpus",
        short_help="Build a calibration text from a recipe.",
        epilog=examples(
            "apex-native corpus --list",
            "apex-native corpus model-bf16.gguf",
            "apex-native corpus model-bf16.gguf --recipe code --tokens 200000 -o code.txt",
            "apex-native corpus model-bf16.gguf --recipe diverse-self --resume",
            "apex-native corpus model-bf16.gguf --recipe mine.toml --seed 7 --json",
            "apex-native corpus model-bf16.gguf --seed 2 -o held-out.txt --by-domain held-out",
        ),
    )(spread(corpus))


def corpus(
    file: OptionalModel = None,
    recipe: RecipeOption = "diverse",
    tokens: TokensOption = None,
    seed: SeedOption = None,
    output: OutputOption = Path("calibration.txt"),
    by_domain: ByDomainOption = None,
    allow_short: AllowShortOption = False,
    resume: ResumeOption = False,
    list_recipes: ListOption = False,
    force: ForceOption = False,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    *,
    compute: ComputeChoices,
) -> None:
    """Build a calibration text: chat, code, reasoning and tool calls in the shares of a recipe.

    Conversations are written with the model's own chat template, near-duplicates are left out, and
    a manifest says where every part comes from. Sources: built-in text, files and folders, datasets
    of the Hugging Face hub at a pinned commit, and the model itself.
    """
    from apex_native.cli.planning import require_writable
    from apex_native.corpus import build_corpus, load_recipe, manifest_path

    out = Output(json_mode=json_mode, quiet=quiet)
    if list_recipes:
        _list(out)
        return
    if file is None:
        raise UsageError("give the model that the text is for; its tokenizer counts the tokens")
    made = load_recipe(recipe).with_options(tokens=tokens, seed=seed, allow_short=allow_short)
    for path in (output, manifest_path(output), *_domain_files(made, by_domain)):
        require_writable(path, force=force)
    with _loaded(file, made, compute) as model, _journal(output, made, resume=resume) as journal:
        with _progress(out) as progress:
            built = build_corpus(made, model, journal=journal, progress=progress)
        built.save(output)
        if by_domain is not None:
            built.save_domains(by_domain)
    out.document(dict(built.manifest))
    _show(out, built, output)
    if by_domain is not None:
        out.text(f"by domain      {counted(len(made.domains), 'file')} in {by_domain}")
    for text in built.warnings:
        out.warning(text)


def _list(out: Output) -> None:
    from apex_native.corpus import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    out.document({"recipes": [recipe.to_dict() for recipe in recipes]})
    columns = (
        Column("recipe"),
        Column("tokens", right=True, drop=1),
        Column("shares", wraps=True, drop=2),
        Column("what it is", wraps=True),
    )
    rows = [
        (
            recipe.name,
            f"{recipe.tokens:,}",
            " · ".join(f"{domain.name} {100 * domain.share:g}%" for domain in recipe.domains),
            recipe.description,
        )
        for recipe in recipes
    ]
    out.table(Table(columns, rows))


def _domain_files(recipe: Recipe, folder: Path | None) -> tuple[Path, ...]:
    """Where each domain's text goes; its folder is made, for generating may take hours."""
    from apex_native.atomic_write import make_folder
    from apex_native.corpus import domain_paths

    if folder is None:
        return ()
    paths = domain_paths([domain.name for domain in recipe.domains], folder)
    make_folder(folder)
    return paths


@contextmanager
def _loaded(file: Path, recipe: Recipe, compute: ComputeChoices) -> Iterator[Model]:
    """The model; without its weights where it only has to count tokens."""
    from apex_native.requirements import Work, require_able, require_traits

    if recipe.needs_generation:
        require_able(file, Work.GENERATION)
    with compute.load(file, vocab_only=not recipe.needs_generation) as model:
        require_traits(model, Work.CORPUS)
        yield model


@contextmanager
def _journal(output: Path, recipe: Recipe, *, resume: bool) -> Iterator[GenerationJournal | None]:
    """What the model wrote so far; kept where the run does not end well."""
    from apex_native.corpus import GenerationJournal

    if not recipe.needs_generation:
        yield None
        return
    path = output.with_name(output.name + JOURNAL_SUFFIX)
    try:
        yield GenerationJournal(path, resume=resume)
    except BaseException as error:
        error.add_note(f"what the model wrote is kept in {path}; go on with --resume")
        raise
    path.unlink(missing_ok=True)


@contextmanager
def _progress(out: Output) -> Iterator[Callable[[CorpusProgress], None] | None]:
    from apex_native.cli.progress import eta_text, show_share

    with show_share(out, "corpus") as show:
        if show is None:
            yield None
            return
        yield lambda progress: show(
            progress.tokens_done,
            progress.n_tokens,
            f"{progress.tokens_done:,}/{progress.n_tokens:,} tokens, {progress.source}, "
            f"{eta_text(progress.eta_s)}",
        )


def _show(out: Output, built: Corpus, output: Path) -> None:
    manifest = built.manifest
    columns = (
        Column("domain"),
        Column("source", wraps=True),
        Column("documents", right=True, drop=2),
        Column("tokens", right=True, drop=1),
        Column("share", right=True),
        Column("wanted", right=True, drop=3),
    )
    rows = [
        (
            domain["name"],
            source["name"],
            str(source["documents"]),
            f"{source['tokens']:,}",
            f"{source['share'] * domain['share']:.1%}",
            f"{source['share_wanted'] * domain['share_wanted']:.1%}",
        )
        for domain in manifest["domains"]
        for source in domain["sources"]
    ]
    text = manifest["text"]
    footer = ("all", "", str(text["documents"]), f"{text['tokens']:,}", "100.0%", "100.0%")
    out.table(Table(columns, rows, footer))
    out.text()
    template = manifest["chat_template"]
    whose = "the model's" if template["used"] == "model" else "plain: User and Assistant by name"
    out.text(f"chat template  {'; '.join([whose, *template['notes']])}")
    out.text(f"duplicates     {manifest['dropped_duplicates']} dropped")
    out.text(f"sha256         {text['sha256']}")
    out.text(f"written        {output}, {text['bytes']:,} bytes, seed {manifest['seed']}")
