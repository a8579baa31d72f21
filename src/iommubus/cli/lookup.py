"""``iommubus lookup``: where an address leads."""

from typing import Annotated, Any

import typer

from ..events import place
from ..service.seen.logs import one_line
from ..wire.messages.queries import Found, Lookup
from ..wire.messages.values import Piece
from . import words
from .options import NUMBER, AddressOption, IdentityOption, JsonOption
from .printing import print_document, print_lines
from .running import FAILED, quit_with, run
from .talking import ask, where


def lookup(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="Name of the space.")],
    iova: Annotated[int, typer.Argument(parser=NUMBER, metavar="IOVA", help="The address, decimal or with 0x.")],
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell where an address of a space leads: fails if nothing is mapped there."""

    async def work() -> list[Any]:
        return await ask(where(address, identity), "lookup", lambda request: Lookup(request, space, iova))

    found: Found = run("lookup", work)[-1]
    piece = found.piece
    if as_json:
        document = {"space": space, "iova": f"{iova:#x}", "seq": found.seq}
        print_document({**document, "mapping": None if piece is None else described(piece)})
    elif piece is not None:
        print_lines([one_line(_text(piece, iova))])
    if piece is None and as_json:
        raise typer.Exit(FAILED)
    if piece is None:
        quit_with("lookup", f"nothing is mapped at {iova:#x} of {space!r}, as of event {found.seq}")


def described(piece: Piece) -> dict[str, Any]:
    """Return a mapping as JSON has it."""
    memory = piece.memory
    return {
        "first": f"{piece.first:#x}",
        "last": f"{piece.last:#x}",
        "target": f"{piece.target:#x}",
        "perm": words.perm_name(piece.perm),
        "memory": None if memory is None else {"name": memory.name, "generation": memory.generation},
    }


def _text(piece: Piece, iova: int) -> str:
    one = piece.mapping
    here = place(one.target + iova - one.first, one.memory)
    return f"{iova:#x} -> {here}, in {words.mapping_text(one.first, one.last, one.target, one.perm, one.memory)}"
