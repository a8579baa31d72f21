"""A command's connection to the daemon."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from ..client.channel import Channel, Handler
from ..client.reconnect import Keeper, Rank, connector_to
from ..errors import Disconnected
from ..transport.address import Address, TlsAddress, default_address, parse_address
from ..transport.tls import Identity
from ..wire.messages import ClientMessage
from ..wire.messages.greeting import Feature
from .running import WrongUsage

NOTHING: Final = Feature(0)
"""A command needs nothing that not every end can do."""

Files = tuple[Path, Path, Path]
"""The own certificate, its key, and the authority."""


class Where(Struct, frozen=True):
    """Where the daemon is, and who the command is there.

    Attributes:
        address: The address.
        identity: The certificate of the command, for TLS.
    """

    address: Address
    identity: Identity | None


def where(text: str | None, files: Files | None) -> Where:
    """Return where the daemon is that the command line means.

    Raises:
        AddressError: It names no address.
        WrongUsage: A certificate is missing.
    """
    address = default_address() if not text else parse_address(text)
    if isinstance(address, TlsAddress) and files is None:
        raise WrongUsage(f"{address} takes --identity CERT KEY AUTHORITY: both sides show a certificate")
    return Where(address, None if files is None else Identity(*map(str, files)))


class Watcher:
    """Takes part in a connection only to say that it is lost.

    Args:
        lost: Is told why.
    """

    def __init__(self, address: str, lost: Callable[[Exception], None]) -> None:
        self._address = address
        self._lost = lost

    def attached(self, channel: Channel) -> None:
        """Pass over that there is a connection."""

    def lost(self, reason: str) -> None:
        """Say that it is lost."""
        self._lost(Disconnected(self._address, reason))

    def ended(self, error: Exception) -> None:
        """Say that there will be none."""
        self._lost(error)


@asynccontextmanager
async def asking(
    place: Where,
    command: str,
    *,
    features: Feature = NOTHING,
    handlers: Mapping[Any, Handler] | None = None,
    lost: Callable[[Exception], None] | None = None,
) -> AsyncGenerator[Channel]:
    """Give a connection on which to ask.

    Args:
        place: Where to.
        command: What asks.
        features: What it would use beyond what every end can do.
        handlers: What takes what the daemon says by itself.
        lost: Is told when the connection is lost, and why.

    Raises:
        Disconnected: The daemon cannot be reached.
        IommubusError: It does not let the command in; why.
    """
    connect = connector_to(place.address, place.identity)
    keeper = Keeper(connect, str(place.address), name=f"iommubus {command}", features=features)
    keeper.handlers.update(handlers or {})
    if lost is not None:
        keeper.join(Rank.SEATS, Watcher(str(place.address), lost))
    await keeper.begin()
    try:
        yield await keeper.wait_open()
    finally:
        await keeper.end()


async def ask(place: Where, command: str, make: Callable[[int], ClientMessage]) -> list[Any]:
    """Ask one thing, and return all parts of the answer.

    Raises:
        IommubusError: There is none; why.
    """
    async with asking(place, command) as channel:
        return list(await channel.request_all(make))
