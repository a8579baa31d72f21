"""D-Bus signals: the reference daemon from Debian, and dbus-fast."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from dbus_fast.aio import MessageBus
from dbus_fast.message import Message

from ..check import Take
from ..debian import program
from ..peer import Channel, Client, Peer
from ..subject import Missing, Server

PATH: Final = "/bench"
INTERFACE: Final = "org.example.Bench"

CONFIGURATION: Final = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <limit name="max_incoming_bytes">1000000000</limit>
  <limit name="max_outgoing_bytes">1000000000</limit>
  <limit name="max_message_size">1000000000</limit>
</busconfig>
"""


class DbusClient(Client):
    """One connection.

    Args:
        bus: The library's.
        sends: The signal that is sent.
        receives: The signal that is received.
        take: Takes what arrives.
    """

    def __init__(self, bus: MessageBus, sends: str, receives: str, take: Take) -> None:
        self._bus = bus
        self._sends = sends
        self._receives = receives
        self._take = take

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Send a signal for each, and wait until they are written."""
        send, signal, member = self._bus.send, Message.new_signal, self._sends
        written: asyncio.Future[None] | None = None
        for payload in payloads:
            written = send(signal(PATH, INTERFACE, member, "ay", [payload]))
        if written is not None:
            await written

    def receive(self, message: Message) -> None:
        """Take a message."""
        if message.member == self._receives:
            answer = self._take(message.body[0])
            if answer is not None:
                self._bus.send(Message.new_signal(PATH, INTERFACE, self._sends, "ay", [answer]))


class Dbus(Peer):
    """D-Bus signals."""

    name = "D-Bus signals"
    lacks = "no table, no replay, no completion, no filter by range; a subscriber that is slow is cut off"
    libraries = ("dbus-fast",)
    program = ("dbus-daemon", "dbus-daemon")

    def ahead(self, batch: int) -> int:
        """Return how many messages may be on their way: the client gives up when its socket takes no more."""
        return 128 if batch == 1 else 32  # it takes some 270 small ones, or 45 of 64 events

    def server(self, place: Path) -> Server:
        """Start ``dbus-daemon`` at a Unix socket."""
        found = program(*self.program)
        path, config = place / "bus.sock", place / "bus.conf"
        config.write_text(CONFIGURATION.format(path=path))
        return Server([found.path, "--nofork", "--nopidfile", "--config-file", str(config)], path, found.environment)

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect by a Unix socket, and ask for one signal."""
        bus = await MessageBus(f"unix:path={place / 'bus.sock'}").connect()
        client = DbusClient(bus, sends.title(), receives.title(), take)
        bus.add_message_handler(client.receive)
        rule = f"type='signal',interface='{INTERFACE}',member='{receives.title()}'"
        asked = Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="AddMatch",
            signature="s",
            body=[rule],
        )
        if await bus.call(asked) is None:
            raise Missing("the D-Bus daemon does not answer")
        yield client
        bus.disconnect()
        await bus.wait_for_disconnect()
