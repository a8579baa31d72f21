"""``iommubus bridge vfio-user-server``: a space that a vfio-user client maps into."""

from pathlib import Path
from typing import Annotated

import typer

from ...bridges.vfio_user_server import GRANULE, MAPS_LIMIT, VfioUserServer
from ...bridging.telling import Tell
from ...bus.abc import SYNC_TIMEOUT, EventBus
from ...ranges import LAST
from ..options import NUMBER, SECONDS, AddressOption, IdentityOption, JsonLinesOption
from ..talking import where
from .crossing import cross


def vfio_user_server(  # noqa: PLR0913, PLR0917 - options are keywords
    listen: Annotated[Path, typer.Option(metavar="SOCKET", help="Where the client connects.")],
    space: Annotated[str, typer.Option(metavar="SPACE", help="Name of the space to make.")],
    granule: Annotated[
        int,
        typer.Option(
            parser=NUMBER,
            metavar="BYTES",
            help="What every address, offset and size is a multiple of.",
            show_default=f"{GRANULE:#x}",
        ),
    ] = GRANULE,
    last: Annotated[
        int, typer.Option(parser=NUMBER, metavar="IOVA", help="Highest address.", show_default=f"{LAST:#x}")
    ] = LAST,
    max_maps: Annotated[
        int, typer.Option(parser=NUMBER, metavar="NUMBER", help="Mappings that a client may have.")
    ] = MAPS_LIMIT,
    deadline: Annotated[
        float, typer.Option(parser=SECONDS, metavar="SECONDS", help="After which who holds up an UNMAP is fenced.")
    ] = SYNC_TIMEOUT,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Serve vfio-user clients, one after the other: what they map is mapped in a space.

    DMA_UNMAP is answered when nobody uses what it took away. Commands of a device are answered ENOTSUP: a program
    that has one embeds the bridge.
    """

    async def work(bus: EventBus, tell: Tell) -> None:
        bridge = VfioUserServer(
            bus,
            listen=str(listen.absolute()),
            space=space,
            granule=granule,
            last=last,
            max_maps=max_maps,
            deadline=deadline,
            tell=tell,
        )
        await bridge.run()

    cross("vfio-user-server", where(address, identity), work, as_json=as_json)
