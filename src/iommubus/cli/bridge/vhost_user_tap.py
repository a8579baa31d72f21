"""``iommubus bridge vhost-user-tap``: between QEMU and a back end, and what is seen there on the bus."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ...bridging.telling import Tell
from ...bus.abc import EventBus
from ..options import AddressOption, IdentityOption, JsonLinesOption
from ..talking import where
from .crossing import cross


def vhost_user_tap(  # noqa: PLR0913, PLR0917 - options are keywords
    listen: Annotated[Path, typer.Option("--listen", metavar="SOCK", help="Where QEMU connects; a Unix socket.")],
    connect: Annotated[Path, typer.Option("--connect", metavar="SOCK", help="Where the back end listens.")],
    space: Annotated[
        str | None,
        typer.Option(
            "--space", metavar="SPACE", help="Name of the space to make.", show_default="the name of the first socket"
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Write down what is passed on: one JSON object a message."),
    ] = None,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Watch a vhost-user device: pass on what QEMU and the back end say, and publish what it means.

    The two notice nothing, whatever becomes of the bus, and nobody waits for those who watch. An UPDATE is a MAP, an
    INVALIDATE an UNMAP, or a DEVIOTLB_UNMAP where nothing was mapped.
    """

    async def work(bus: EventBus, tell: Tell) -> None:
        from ...bridges.vhost_user_tap import Recorder, VhostUserTap  # noqa: PLC0415 - wrong usage need not wait for it

        with nullcontext() if record is None else record.open("w", encoding="ascii") as out:
            tap = VhostUserTap(
                bus,
                listen=str(listen.absolute()),
                connect=str(connect.absolute()),
                space=space or listen.stem,
                tell=tell,
                recorder=None if out is None else Recorder(out),
            )
            await tap.run()

    cross("vhost-user-tap", where(address, identity), work, as_json=as_json)
