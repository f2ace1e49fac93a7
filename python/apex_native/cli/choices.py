"""The table of all recipes that `plan` shows without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apex_native.cli.output import Output, exact_size
from apex_native.cli.tables import Column, Table

if TYPE_CHECKING:
    from apex_native.api.choosing import Choice, Choices
    from apex_native.api.offers import RowOffer, RowOffers
    from apex_native.memory import ContextMemory, Fit, Room

__all__ = ["choices_document", "offers_document", "show_choices", "show_fit", "show_offers"]


def _unit(nbytes: int) -> tuple[int, str]:
    return (1 << 30, "GiB") if nbytes >= 1 << 30 else (1 << 20, "MiB")


def choices_document(choices: Choices, file: str) -> dict[str, Any]:
    """The JSON document, with the command line of each choice that runs."""
    document = choices.to_dict()
    for row, choice in zip(document["choices"], choices.rows, strict=True):
        commands = [_command(choices, choice, file, i) for i in range(len(choices.rooms))]
        row["command"] = commands[0] if commands else None
        for room, command in zip(row["rooms"], commands, strict=True):
            room["command"] = command
    return document


def show_choices(out: Output, choices: Choices, file: str) -> None:
    """The table, what the context takes, and for each room the pick with its command line."""
    out.table(_table(choices))
    for recipe, reason in choices.left_out.items():
        out.text(f"{recipe} cannot be made: {reason}")
    if choices.context is None:
        return
    out.text()
    _show_context(out, choices.context)
    for number in range(len(choices.rooms)):
        _show_pick(out, choices, file, number)


def _show_pick(out: Output, choices: Choices, file: str, number: int) -> None:
    room = choices.rooms[number]
    size = exact_size(room.nbytes)
    if room.name:
        out.text(f"card     {room.name}: {size}")
    picked, line = choices.picked_for(number), None
    if picked is not None:
        line = f"{picked.recipe}, {exact_size(picked.plan.total_bytes)}"
    else:
        partial = (row for row in choices.rows[::-1] if row.fits[number].n_cpu_moe)
        picked = next(partial, None)
        if picked is not None:
            line = f"nothing fits whole into {size}; {picked.recipe} with experts on the host:"
    if picked is None:
        least = choices.rows[-1]
        need = exact_size(least.fits[number].need.total)
        out.text(
            f"pick     nothing fits into {size}; {least.recipe} is the smallest and needs {need}"
        )
        _show_parts(out, least.fits[number])
        return
    out.text(f"pick     {line}")
    _show_parts(out, picked.fits[number])
    out.text(f"run      {_command(choices, picked, file, number)}")


def show_fit(out: Output, choices: Choices, file: str) -> None:
    """The same for the one recipe that was asked for."""
    (choice,) = choices.rows
    if choices.context is None:
        return
    _show_context(out, choices.context)
    for number, room in enumerate(choices.rooms):
        _show_parts(out, choice.fits[number])
        card = f"{room.name}: " if room.name else ""
        fits = _verdict(choice.fits[number])
        out.text(f"fits     {fits} into {card}{exact_size(room.nbytes)}")
        command = _command(choices, choice, file, number)
        if command is not None:
            out.text(f"run      {command}")


def offers_document(offers: RowOffers) -> dict[str, Any]:
    """The JSON document, with the options of each recipe."""
    document = offers.to_dict()
    for row, offer in zip(document["recipes"], offers.offers, strict=True):
        row["options"] = _options(offer)
    return {**document, "stand_in": _options(offers.stand_in)}


def _options(offer: RowOffer) -> list[str]:
    """What `plan` and `quantize` are given for an offer."""
    arguments = offer.arguments
    if "tier" in arguments:
        return ["--tier", arguments["tier"]]
    rules = [word for rule in arguments.get("tensor_types", ()) for word in ("--tensor-type", rule)]
    return ["--type", arguments["ftype"], *rules]


def show_offers(out: Output, offers: RowOffers) -> None:
    """What the rows of a model allow instead of a tier, as options to copy."""
    size, unit = _unit(max(offer.plan.total_bytes for offer in offers.offers))
    columns = (
        Column("options"),
        Column(unit, right=True),
        Column("bpw", right=True, drop=1),
        Column("experts", wraps=True, drop=2),
    )
    rows = [
        (
            " ".join(_options(offer)) + (" ←" if offer is offers.stand_in else ""),
            f"{offer.plan.total_bytes / size:.3f}",
            f"{offer.plan.bpw:.3f}",
            offer.expert_types,
        )
        for offer in offers.offers
    ]
    lengths = " and ".join(f"{n:,}" for n in offers.rows)
    meant = offers.meant_bytes / size
    mark = f"← in place of tier {offers.tier}, which means {meant:.3f} {unit}"
    out.text()
    out.table(Table(columns, rows, title=f"What rows of {lengths} allow", notes=(mark,)))


def _table(choices: Choices) -> Table:
    asked = bool(choices.rooms)
    measured = any(row.measured is not None for row in choices.rows)
    size, unit = _unit(max(row.plan.total_bytes for row in choices.rows))
    columns = [
        Column("recipe"),
        Column(unit, right=True),
        Column("bpw", right=True),
        Column("experts", right=True, drop=2),
        Column("shared", right=True, drop=2),
        Column("attention", right=True, drop=2),
        Column("matrix", drop=1),
    ]
    columns += [Column("KLD mean", right=True)] if measured else []
    columns += [Column(f"needs {unit}", right=True)] if asked else []
    columns += [Column(_heading(choices, room)) for room in choices.rooms]
    picks = [choices.picked_for(number) for number in range(len(choices.rooms))]
    rows = []
    for row in choices.rows:
        cells = [
            row.recipe,
            f"{row.plan.total_bytes / size:.3f}",
            f"{row.plan.bpw:.3f}",
            *(_bits(row.bits(group)) for group in ("experts", "shared", "attention")),
            "needed" if row.plan.blocking_findings or row.plan.needs_imatrix else "",
        ]
        cells += [_kld(row)] if measured else []
        if row.fit is not None:
            # Whole: what is left on the GPU differs from card to card.
            cells.append(f"{max(fit.need.total for fit in row.fits) / size:.3f}")
        for fit, picked in zip(row.fits, picks, strict=True):
            cells.append(_verdict(fit) + (" ←" if row is picked else ""))
        rows.append(tuple(cells))
    notes = ("experts, shared, attention: bits per weight there",)
    return Table(tuple(columns), rows, notes=notes)


def _heading(choices: Choices, room: Room) -> str:
    return room.name if len(choices.rooms) > 1 else "fits"


def _verdict(fit: Fit) -> str:
    if fit.fits:
        return "yes"
    return "no" if fit.n_cpu_moe is None else f"--n-cpu-moe {fit.n_cpu_moe}"


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _kld(row: Choice) -> str:
    return (
        ""
        if row.measured is None or row.measured.kld_mean is None
        else (f"{row.measured.kld_mean:.4f}")
    )


def _show_context(out: Output, context: ContextMemory) -> None:
    settings = context.settings
    state = f", of which {context.state:,} do not grow" if context.state else ""
    out.text(
        f"cache    {exact_size(context.cache)} for {settings.ctx:,} tokens in "
        f"{settings.type_k}/{settings.type_v}: {context.bytes_per_token:,.0f} a token{state}"
    )


def _show_parts(out: Output, fit: Fit) -> None:
    need = fit.need
    parts = [
        ("weights", need.weights),
        ("cache", need.cache),
        ("buffers", need.buffers),
        ("projector", need.mmproj),
        ("CUDA context", need.cuda_context),
        ("experts on their way", need.staging),
    ]
    size, unit = _unit(need.total)
    named = ", ".join(f"{name} {nbytes / size:.3f}" for name, nbytes in parts if nbytes)
    host = f"; on the host {need.host / size:.3f}" if need.host else ""
    out.text(f"memory   {need.total / size:.3f} {unit}: {named}{host}")


def _command(choices: Choices, choice: Choice, file: str, number: int) -> str | None:
    """For the room of that number."""
    from apex_native.errors import PlanError
    from apex_native.memory.fit import server_command
    from apex_native.reports import default_output_name

    fit = choice.fits[number]
    if fit.n_cpu_moe is None or choices.context is None:
        return None
    try:
        name = default_output_name(file, choice.plan)
    except PlanError:
        name = "model.gguf"
    settings, on_gpu = choices.context.settings, choices.rooms[number].on_gpu
    return server_command(name, settings, fit, on_gpu=on_gpu, mmproj=choices.mmproj)
