"""``iommubus bridge vfio-user-client``: a vfio-user server that follows a space."""

from pathlib import Path
from typing import Annotated

import typer

from ...bridges.vfio_user_client import MAPS_LIMIT, VfioUserClient
from ...bridging.telling import Tell
from ...bus.abc import EventBus
from ..options import NUMBER, AddressOption, IdentityOption, JsonLinesOption
from ..talking import where
from .crossing import cross


def vfio_user_client(
    connect: Annotated[Path, typer.Option(metavar="SOCKET", help="Where the server listens.")],
    space: Annotated[str, typer.Option(metavar="SPACE", help="Name of the space, or of another endpoint.")],
    max_maps: Annotated[
        int, typer.Option(parser=NUMBER, metavar="NUMBER", help="Mappings that the server is given at most.")
    ] = MAPS_LIMIT,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Give a vfio-user server what is mapped in a space, until the space is closed.

    An UNMAP is acknowledged when the server has answered it. If the connection breaks, every sync of the space fails
    until the server's process has ended; then it is connected again.
    """

    async def work(bus: EventBus, tell: Tell) -> None:
        await VfioUserClient(bus, connect=str(connect.absolute()), space=space, max_maps=max_maps, tell=tell).run()

    cross("vfio-user-client", where(address, identity), work, as_json=as_json)
