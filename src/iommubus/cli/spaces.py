"""``iommubus spaces``: which address spaces are open, and what is in them."""

from typing import Annotated, Any, Final

import typer

from ..wire.messages.queries import ListSpaces, SpaceInfo
from . import words
from .options import AddressOption, IdentityOption, JsonOption
from .printing import Column, print_document, print_table
from .running import run
from .talking import ask, where

COLUMNS: Final = (
    Column("space", style="bold"),
    Column("producer"),
    Column("mappings", number=True),
    Column("seq", number=True),
    Column("demand", style="cyan", whole=True),
    Column("offers", whole=True),
    Column("granule", number=True),
    Column("last", number=True),
    Column("epoch", number=True, style="dim"),
)


def spaces(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="PATTERN...", help="Names, or patterns with *, ? and [].")
    ] = None,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the open spaces: mappings, number of the latest event, what is demanded, who publishes."""

    async def work() -> list[Any]:
        named = list(patterns or ())
        return await ask(where(address, identity), "spaces", lambda request: ListSpaces(request, named))

    found: list[SpaceInfo] = [space for part in run("spaces", work) for space in part.spaces]
    if as_json:
        print_document([_described(space) for space in found])
    else:
        print_table(COLUMNS, [_row(space) for space in found])


def _row(space: SpaceInfo) -> list[str]:
    return [
        space.space,
        space.producer or "nobody",
        f"{space.mappings:,}",
        f"{space.seq:,}",
        ",".join(words.kind_names(space.demand)) or "nothing",
        ",".join(words.kind_names(space.offers)),
        f"{space.granule:#x}",
        f"{space.last:#x}",
        f"{space.epoch:#x}",
    ]


def _described(space: SpaceInfo) -> dict[str, Any]:
    return {
        "space": space.space,
        "epoch": f"{space.epoch:#x}",
        "producer": space.producer or None,
        "mappings": space.mappings,
        "seq": space.seq,
        "demand": words.kind_names(space.demand),
        "offers": words.kind_names(space.offers),
        "granule": f"{space.granule:#x}",
        "last": f"{space.last:#x}",
    }
