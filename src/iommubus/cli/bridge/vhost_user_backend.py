"""``iommubus bridge vhost-user-backend``: QEMU connects, and its translations are a pull space."""

from pathlib import Path
from typing import Annotated

import anyio
import typer

from ...bridging.telling import Tell
from ...bus.abc import SYNC_TIMEOUT, EventBus
from ..options import SECONDS, AddressOption, IdentityOption, JsonLinesOption
from ..talking import where
from .crossing import cross


def vhost_user_backend(  # noqa: PLR0913, PLR0917 - options are keywords
    listen: Annotated[Path, typer.Option("--listen", metavar="SOCK", help="Where QEMU connects; a Unix socket.")],
    space: Annotated[str, typer.Option("--space", metavar="SPACE", help="Name of the space to make.")],
    deadline: Annotated[
        float,
        typer.Option(
            parser=SECONDS,
            metavar="SECONDS",
            help="Time that a subscriber has to let go of what the guest unmapped; then it is fenced.",
            show_default=f"{SYNC_TIMEOUT:g}",
        ),
    ] = SYNC_TIMEOUT,
    sink: Annotated[
        bool,
        typer.Option("--sink", help="Serve a network card: take and count all packets that the guest sends."),
    ] = False,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Be the back end of a vhost-user device: QEMU's misses and INVALIDATEs on the bus.

    A miss of a subscriber is asked of QEMU. An INVALIDATE is published, and acknowledged to QEMU once nobody uses what
    it took away: the guest stands still until then. Without --sink the device's rings are not served.
    """

    async def work(bus: EventBus, tell: Tell) -> None:
        from ...bridges.vhost_user_backend import VhostUserBackend  # noqa: PLC0415 - wrong usage need not wait for it
        from ...bridges.vhost_user_backend.sink import Sink  # noqa: PLC0415

        device = Sink(bus, space, tell=tell, name=f"{space} sink") if sink else None
        bridge = VhostUserBackend(
            bus, listen=str(listen.absolute()), space=space, device=device, tell=tell, deadline=deadline
        )
        async with anyio.create_task_group() as tasks:
            if device is not None:
                await tasks.start(device.run)
            tasks.start_soon(bridge.run)

    cross("vhost-user-backend", where(address, identity), work, as_json=as_json)
