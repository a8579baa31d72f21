"""``iommubus bridge vhost-user-frontend``: a space drives a vhost-user back end."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec.structs import replace

from ...bridges.vhost_user_frontend import Ring, VhostUserFrontend
from ...bridging.telling import Tell
from ...bus.abc import EventBus
from .. import words
from ..options import NUMBER, AddressOption, IdentityOption, JsonLinesOption, reader
from ..talking import where
from .crossing import cross

RING_LIMIT: Final = 1 << 15
"""Most entries of a split ring; virtio 1.0, "Split Virtqueues"."""


def ring(text: str) -> Ring:
    """Return the ring that a text describes; its index is still to be said.

    Raises:
        ValueError: It describes none.
    """
    parts = text.split(":")
    if len(parts) != 4:  # noqa: PLR2004 - as the message says
        raise ValueError(f"{text!r} is no SIZE:DESC:AVAIL:USED")
    size, desc, avail, used = map(words.number, parts)
    if not 0 < size <= RING_LIMIT or size & (size - 1):
        raise ValueError(f"a ring has a power of two of entries, at most {RING_LIMIT}, not {size}")
    return Ring(0, size, desc, avail, used, base=None)


def vhost_user_frontend(  # noqa: PLR0913, PLR0917 - options are keywords
    connect: Annotated[
        Path, typer.Option("--connect", metavar="SOCK", help="Path of the socket where the back end listens.")
    ],
    space: Annotated[str, typer.Option("--space", metavar="NAME", help="The endpoint that it stands for.")],
    rings: Annotated[
        list[Ring] | None,
        typer.Option(
            "--ring",
            parser=reader(ring, "ring"),
            metavar="SIZE:DESC:AVAIL:USED",
            help="A ring of the device: entries, and the I/O virtual addresses of its descriptors, its available "
            "and its used ring. It is served once they are mapped, from where it was used last. "
            "Repeat it for the next one.",
        ),
    ] = None,
    features: Annotated[
        int,
        typer.Option(
            "--features", parser=NUMBER, metavar="BITS", help="The device's own features to use.", show_default="none"
        ),
    ] = 0,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="How reports call it.", show_default="vhost-user SOCK"),
    ] = None,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Drive a vhost-user back end, such as DPDK, by a space: the front-end role of the protocol.

    What the back end asks for is looked up in the space, and what is unmapped there is taken from it. A sync of the
    space waits for its word. It is connected to again when it was restarted.
    """

    async def work(bus: EventBus, tell: Tell) -> Any:
        indexed = [replace(one, index=index) for index, one in enumerate(rings or ())]
        bridge = VhostUserFrontend(
            bus, connect=connect, space=space, rings=indexed, features=features, name=name, tell=tell
        )
        await bridge.run()

    cross("vhost-user-frontend", where(address, identity), work, as_json=as_json)
