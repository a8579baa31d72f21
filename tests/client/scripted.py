"""A daemon that says what a test has it say, and a client's connection to it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast

from iommubus.client.channel import Channel, Handler
from iommubus.wire.connection import ServerConnection
from iommubus.wire.messages import DaemonMessage, Message
from iommubus.wire.messages.greeting import Hello, Welcome
from tests.client.rig import ADDRESS, Rig

MessageT = TypeVar("MessageT", bound=Message)

HEARTBEAT = 1.0
LEASE = 3.0
WELCOME = Welcome(1, 2, 7, 12, 1_000_000, b"", 3_000_000)


class Script(asyncio.Protocol):
    """The daemon's end of a connection.

    Attributes:
        heard: What the client has said, in order.
        chunks: How much of it came at a time.
        lost: Whether the connection is lost.
        on_hear: Called with each message.
    """

    def __init__(self, *, welcome: Welcome | None = WELCOME) -> None:
        self.heard: list[Message] = []
        self.chunks: list[int] = []
        self.lost = False
        self.on_hear: Callable[[Message], object] = lambda _: None
        self.welcomes = welcome is not None
        self._welcome = welcome
        self._connection = ServerConnection()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        before = len(self.heard)
        self._connection.receive_data(data)
        while (message := self._connection.next_message()) is not None:
            self.heard.append(message)
            if isinstance(message, Hello) and self._welcome is not None:
                self.say(self._welcome)
            self.on_hear(message)
        self.chunks.append(len(self.heard) - before)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True

    def say(self, *messages: DaemonMessage) -> None:
        self.transport.write(b"".join(map(self._connection.send, messages)))

    def of(self, kind: type[MessageT]) -> list[MessageT]:
        """Return what was heard of one kind."""
        return [message for message in self.heard if isinstance(message, kind)]


class Reports:
    """What a connection reports to, and what it has reported."""

    def __init__(self) -> None:
        self.opened_channels: list[Channel] = []
        self.errors: list[Exception] = []

    def opened(self, channel: Channel) -> None:
        self.opened_channels.append(channel)

    def closed(self, channel: Channel, error: Exception) -> None:
        assert not channel.open
        self.errors.append(error)


async def begin(
    rig: Rig, script: Script, handlers: dict[type[Message], Handler] | None = None
) -> tuple[Channel, Reports]:
    """Connect a client to a script, as far as the script lets it."""
    reports = Reports()
    rig.network.listen(ADDRESS, lambda _: script)
    channel = Channel(Hello(1, 1, "client", 0, 2), reports, handlers or {}, ADDRESS, rig.loop.time)
    await rig.network.connect(ADDRESS, lambda: channel)
    if script.welcomes:
        await until(lambda: channel.open)
    return channel, reports


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so; in a virtual loop that costs no time."""
    while not condition():  # noqa: ASYNC110 - whatever it is
        await asyncio.sleep(0.001)
