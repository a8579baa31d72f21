"""``iommubus bridge vhost``: a vhost device of this machine's kernel on a space."""

from typing import Annotated

import typer

from ...bridges.vhost import VhostBridge, VhostDevice
from ...bridging.telling import Tell
from ...bus.abc import EventBus
from ..options import AddressOption, IdentityOption, JsonLinesOption
from ..running import plain_errors
from ..talking import where
from .crossing import cross


def vhost(
    space: Annotated[str, typer.Option("--space", metavar="NAME", help="What the device sees.")],
    device: Annotated[str, typer.Option("--device", metavar="PATH", help="The device.")] = "/dev/vhost-net",
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Answer what a vhost device of the kernel asks, and take from it what is unmapped, until the space is closed.

    The kernel lets only one process set up a device's rings, the one that answers it, and this command sets up none:
    it shows what the kernel offers. A program that has rings does the same with `iommubus.bridges.vhost`.
    """

    async def work(bus: EventBus, tell: Tell) -> None:
        with VhostDevice.open(device) as opened:
            await VhostBridge(bus, device=opened, space=space, tell=tell).run()

    with plain_errors("bridge vhost"):
        place = where(address, identity)
    cross("vhost", place, work, as_json=as_json)
