"""``iommubus bridge vfio``: a space in a VFIO container of this machine."""

from typing import Annotated

import anyio.to_thread
import typer

from ...bridges.vfio import Container, VfioBridge, group_of
from ...bridging.telling import Tell
from ...bus.abc import EventBus
from ..options import AddressOption, IdentityOption, JsonLinesOption
from ..running import WrongUsage, plain_errors
from ..talking import where
from .crossing import cross


def vfio(
    space: Annotated[
        list[str], typer.Option("--space", metavar="NAME", help="What the devices see; several must share a space.")
    ],
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="N", help="An IOMMU group; may be given again.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="BDF", help="A PCI device, instead of the number of its group."),
    ] = None,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Map in a VFIO container what is mapped in a space, until the space is closed; then unmap everything.

    The devices have to be bound to vfio-pci. A group can be had by one process, so nobody drives them meanwhile: this
    shows what the kernel offers and takes. A program that has devices does the same with `iommubus.bridges.vfio`.
    """

    def open_container() -> Container:
        return Container.open(*(group or []), *map(group_of, device or []))

    async def work(bus: EventBus, tell: Tell) -> None:
        with await anyio.to_thread.run_sync(open_container) as container:
            await VfioBridge(bus, container=container, space=space, tell=tell).run()

    with plain_errors("bridge vfio"):
        if not group and not device:
            raise WrongUsage("it takes --group or --device")
        place = where(address, identity)
    cross("vfio", place, work, as_json=as_json)
