"""``iommubus hold``: a producer by hand, which reads orders from standard input.

Exit status 1 if an order failed, or somebody may still use what was mapped.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Final

import anyio.to_thread
import typer

from ..bus.abc import AddressSpace
from ..caps import Cap
from ..errors import IommubusError
from ..ranges import LAST
from .options import KINDS, NUMBER, AddressOption, IdentityOption, JsonLinesOption
from .orders import BadOrder, Outcome, carry_out, parse, synced, usage
from .printing import print_json_lines, print_lines
from .running import FAILED, WrongUsage, in_one_line, run
from .talking import Where, where

PULL: Final = Cap.UNMAP | Cap.DEVIOTLB_UNMAP

CHUNK: Final = 1 << 16
"""Most bytes that are read of standard input at once, as many as a pipe holds."""


def hold(  # noqa: PLR0913, PLR0917 - options are keywords
    space: Annotated[str, typer.Argument(metavar="SPACE", help="Name of the space to make.")],
    granule: Annotated[
        int, typer.Option(parser=NUMBER, metavar="BYTES", help="Smallest unit of mapping.", show_default="0x1000")
    ] = 0x1000,
    last: Annotated[
        int, typer.Option(parser=NUMBER, metavar="IOVA", help="Highest address.", show_default=f"{LAST:#x}")
    ] = LAST,
    pull: Annotated[
        bool, typer.Option("--pull", help="A space that keeps no table: the same as --offers unmap,device.")
    ] = False,
    offers: Annotated[
        Cap | None,
        typer.Option(
            parser=KINDS,
            metavar="KINDS",
            help="Which events it can deliver: map, unmap, device.",
            show_default="unmap,map,device",
        ),
    ] = None,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Make a space, and do in it what standard input says, one order a line.

    map IOVA SIZE TARGET PERM, remap, unmap IOVA SIZE, unmap-all, invalidate IOVA SIZE, sync [SECONDS], drain,
    fence SUBSCRIBER. What came of each is printed; the end of the input closes the space.
    """
    shape: dict[str, Any] = {"granule": granule, "last": last, "offers": PULL if pull else offers or Cap.ALL}

    async def work() -> bool:
        if pull and offers is not None:
            raise WrongUsage("--pull says what --offers says; give one of them")
        return await _hold(where(address, identity), space, shape, _tell_program if as_json else _tell_person)

    if not run("hold", work):
        raise typer.Exit(FAILED)


Tell = Callable[[int, str, Outcome | Exception], None]
"""Says what came of an order: the number of its line, its name, and that."""


async def follow(space: AddressSpace, lines: AsyncIterator[str], tell: Tell) -> bool:
    """Do what lines say, and close the space at their end.

    Returns:
        Whether all was done, and nobody may still use anything that was mapped.
    """
    well, number = True, 0
    async for line in lines:
        number += 1
        well &= await _do(space, line, partial(tell, number))
    try:
        await space.close()
        closed: Outcome | Exception = synced(await space.sync())
    except IommubusError as failure:
        closed, well = failure, False
    tell(number + 1, "close", closed)
    return well


async def _do(space: AddressSpace, line: str, tell: Callable[[str, Outcome | Exception], None]) -> bool:
    try:
        parsed = parse(line)
    except BadOrder as wrong:
        tell(line.strip(), wrong)
        return False
    if parsed is None:
        return True
    name, order, values = parsed
    try:
        tell(name, await carry_out(order, space, values))
    except IommubusError as failure:
        tell(name, failure)
        return False
    return True


def read_input() -> bytes:
    """Read standard input past its buffer, whose lock would keep the program from ending while this waits."""
    return os.read(sys.stdin.fileno(), CHUNK)


# -- inside ------------------------------------------------------------------


async def _hold(place: Where, name: str, shape: dict[str, Any], tell: Tell) -> bool:
    from ..client.remote import connect  # noqa: PLC0415 - takes a while; wrong usage need not wait for it

    async with connect(str(place.address), name="iommubus hold", identity=place.identity) as bus:
        space = await bus.create_space(name, **shape)
        typer.echo(f"iommubus hold: {name} is open at {place.address}; the end of the input closes it", err=True)
        if sys.stdin.isatty():
            typer.echo("\n".join(usage()), err=True)
        return await follow(space, _lines(read_input), tell)


def _tell_person(number: int, name: str, came: Outcome | Exception) -> None:
    if isinstance(came, Exception):
        typer.echo(f"iommubus hold: line {number}: {name}: {in_one_line(came)}", err=True)
    else:
        print_lines([came.text if name != "close" else f"closed; {came.text}"])


def _tell_program(number: int, name: str, came: Outcome | Exception) -> None:
    head = {"line": number, "order": name, "ok": not isinstance(came, Exception)}
    if isinstance(came, Exception):
        print_json_lines([{**head, "error": type(came).__name__, "text": in_one_line(came)}])
    else:
        print_json_lines([{**head, **came.told}])


async def _lines(read: Callable[[], bytes]) -> AsyncIterator[str]:
    """Yield the lines of an input that may make its readers wait."""
    rest = b""
    while data := await anyio.to_thread.run_sync(read, abandon_on_cancel=True):
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
