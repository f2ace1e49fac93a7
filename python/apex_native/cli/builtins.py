"""``apex-native tiers`` and ``recipes``: what ships with the package, as lists and as files."""

from __future__ import annotations

import tomllib
from typing import Annotated

import typer

from apex_native.cli.options import JsonOption, examples
from apex_native.cli.output import Output
from apex_native.cli.tables import Column, Table

__all__ = ["register"]

TierArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Print this one's TOML instead of the list.")
]
RecipeArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Print this one's TOML instead of the list.")
]


def register(app: typer.Typer) -> None:
    """Add both verbs."""
    app.command(
        "tiers",
        short_help="List the built-in tiers, or print one.",
        epilog=examples("apex-native tiers", "apex-native tiers mini > my-tier.toml"),
    )(tiers)
    app.command(
        "recipes",
        short_help="List the built-in corpus recipes, or print one.",
        epilog=examples("apex-native recipes", "apex-native recipes diverse > my-recipe.toml"),
    )(recipes)


def tiers(name: TierArgument = None, json_mode: JsonOption = False) -> None:
    """List the tiers, or print one as a TOML file to start your own from.

    Each can be asked for as i-NAME too, which requires an importance matrix, and as NAME-short,
    for models whose rows are no multiples of 256. `--tier` takes a path that ends in .toml as well.
    """
    from apex_native.plan import load_tier, tier_names, tier_text

    if name is not None:
        _print(tier_text(name), json_mode=json_mode)
        return
    out = Output(json_mode=json_mode)
    found = [load_tier(n) for n in tier_names() if not n.startswith("i-")]
    rows = [(tier.name, tier.base.name, tier.description) for tier in found]
    rows += [
        (f"{tier.name}-{variant.name}", tier.base.name, f"{tier.name} with {variant.words()}")
        for tier in found
        for variant in tier.variants
    ]
    rows.sort()
    out.document([{"name": a, "base": b, "description": c} for a, b, c in rows])
    columns = (Column("tier"), Column("base", drop=1), Column("what for", wraps=True))
    out.table(Table(columns, rows))


def recipes(name: RecipeArgument = None, json_mode: JsonOption = False) -> None:
    """List the recipes of calibration texts, or print one as a TOML file to start your own from."""
    from apex_native.corpus import load_recipe, recipe_names, recipe_text

    if name is not None:
        _print(recipe_text(name), json_mode=json_mode)
        return
    out = Output(json_mode=json_mode)
    found = [load_recipe(n) for n in recipe_names()]
    rows = [(recipe.name, recipe.description) for recipe in found]
    out.document([{"name": a, "description": b} for a, b in rows])
    out.table(Table((Column("recipe"), Column("what for", wraps=True)), rows))


def _print(text: str, *, json_mode: bool) -> None:
    """A TOML file as it is; what it holds in json mode."""
    out = Output(json_mode=json_mode)
    out.document(tomllib.loads(text))
    for line in text.splitlines():
        out.verbatim(line)
