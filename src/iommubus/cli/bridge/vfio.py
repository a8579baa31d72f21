"""``iommubus bridge vfio``: a space in a VFIO container of this machine."""

import os
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


def vfio(  # noqa: PLR0913, PLR0917 - options are keywords
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
    container: Annotated[
        int | None,
        typer.Option(
            "--container", metavar="FD", help="An open container with its groups, inherited from who starts this."
        ),
    ] = None,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Map in a VFIO container what is mapped in a space, until the space is closed.

    The devices have to be bound to vfio-pci. Whoever drives them has the container too: it starts this command and
    hands it down. At the end everything is unmapped.
    """

    def open_container() -> Container:
        if container is not None:
            return Container(container, name=f"VFIO container of descriptor {container}")
        return Container.open(*(group or []), *map(group_of, device or []))

    async def work(bus: EventBus, tell: Tell) -> None:
        with await anyio.to_thread.run_sync(open_container) as opened:
            await VfioBridge(bus, container=opened, space=space, tell=tell).run()

    with plain_errors("bridge vfio"):
        if (container is None) == (not group and not device):
            raise WrongUsage("it takes --group or --device, or else --container")
        if container is not None:
            _check_open(container)
        place = where(address, identity)
    cross("vfio", place, work, as_json=as_json)


def _check_open(fd: int) -> None:
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise WrongUsage(f"--container: no descriptor {fd} was inherited") from None
