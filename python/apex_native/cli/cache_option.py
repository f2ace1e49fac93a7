"""Types of the KV cache on the command line, and what is to be said of a pair of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table
from apex_native.types import CACHE_TYPES, LONGEST_CONTEXT, GgmlType

if TYPE_CHECKING:
    from apex_native.memory import ContextMemory

__all__ = ["CacheChoices", "cache_document", "cache_option", "show_cache", "warn_of_slow_caches"]

_NAMES = [type.name.lower() for type in CACHE_TYPES]


def cache_option(name: str, text: str, *, panel: str | None = None) -> Any:
    """An option whose value is the name of a type that the cache can have, as llama.cpp spells it.

    Its annotation has to be `str`: typer up to 0.26 makes None of a parser's enum.
    """
    return typer.Option(
        name, parser=_cache_name, metavar=f"[{'|'.join(_NAMES)}]", help=text, rich_help_panel=panel
    )


def _cache_name(name: str) -> str:
    if name.lower() not in _NAMES:
        raise typer.BadParameter(f"'{name}' is not one of {', '.join(_NAMES)}.")
    return name.lower()


CACHE = "KV cache"


@dataclass(frozen=True)
class CacheChoices:
    """A context whose cache is to be shown."""

    ctx: Annotated[
        int | None,
        typer.Option("--ctx", "-c", min=1, max=LONGEST_CONTEXT, metavar="N", rich_help_panel=CACHE,
                     help="Also show what the caches of N tokens take, layer by layer."),
    ] = None  # fmt: skip
    type_k: Annotated[
        str, cache_option("--type-k", "With --ctx: type of the K cache.", panel=CACHE)
    ] = "f16"
    type_v: Annotated[
        str, cache_option("--type-v", "With --ctx: type of the V cache.", panel=CACHE)
    ] = "f16"


def show_cache(out: Output, memory: ContextMemory) -> None:
    """Bytes by layer and in all."""
    settings = memory.settings
    cells: dict[tuple[int, str, str, int], int] = {}
    for tensor in memory.caches:
        kind = "state" if tensor.is_state else "cache"
        key = (tensor.layer, kind, "" if tensor.is_state else tensor.kind, tensor.rows)
        cells[key] = cells.get(key, 0) + tensor.nbytes
    columns = (
        Column("layer", right=True),
        Column("kind"),
        Column("of", drop=2),
        Column("cells", right=True, drop=1),
        Column("bytes", right=True),
    )
    rows = [
        (str(layer), kind, of, f"{n:,}" if kind == "cache" else "", f"{nbytes:,}")
        for (layer, kind, of, n), nbytes in cells.items()
    ]
    footer = ("all", "", "", "", f"{memory.cache:,}")
    types = f"{settings.type_k.name}/{settings.type_v.name}".lower()
    out.text()
    state = f", {memory.state:,} of them state" if memory.state else ""
    out.text(f"{'cache':<14}{types}, {memory.bytes_per_token:,.0f} bytes a token")
    out.text(f"{f'of {settings.ctx:,}':<14}{exact_size(memory.cache)}{state}")
    out.table(Table(columns, rows, footer))


def cache_document(memory: ContextMemory) -> dict[str, Any]:
    """The same as JSON."""
    settings = memory.settings
    return {
        "ctx": settings.ctx,
        "type_k": settings.type_k.name.lower(),
        "type_v": settings.type_v.name.lower(),
        "bytes": memory.cache,
        "state_bytes": memory.state,
        "bytes_per_token": memory.bytes_per_token,
        "layers": {str(layer): nbytes for layer, nbytes in memory.by_layer().items()},
    }


def warn_of_slow_caches(
    out: Output, pairs: Iterable[tuple[str | GgmlType, str | GgmlType]], *, on_gpu: bool
) -> None:
    """Say where a GPU will not read a cache as it is, which is slow and nothing else shows."""
    from apex_native._native import core

    if not on_gpu:
        return

    def parsed(type: str | GgmlType) -> GgmlType:
        return type if isinstance(type, GgmlType) else GgmlType.parse(type)

    for key, value in dict.fromkeys((parsed(k), parsed(v)) for k, v in pairs):
        path = core.cuda_cache_path(key.id, value.id)
        name = f"{key.name}-{value.name}".lower()
        if path == "host":
            out.warning(f"cache {name}: ggml has no GPU attention over it, so the CPU attends")
        elif path == "converted":
            out.warning(
                f"cache {name}: this build has no kernel for one token over it, so all of it is "
                f"converted to 16 bits for every token; add {name} to -DGGML_CUDA_FA_QUANTS"
            )
