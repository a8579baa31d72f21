"""NATS: its server from Debian, and its own client for Python."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

from ..check import Take
from ..debian import program
from ..peer import Channel, Client, Peer
from ..servers import free_port, port_of
from ..subject import Server


class NatsClient(Client):
    """One connection.

    Args:
        connection: The library's.
        sends: The subject that is sent to.
    """

    def __init__(self, connection: Connection, sends: str) -> None:
        self._publish = connection.publish
        self._sends = sends

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Publish each; the client flushes by itself."""
        publish, subject = self._publish, self._sends
        for payload in payloads:
            await publish(subject, payload)


class Nats(Peer):
    """NATS without JetStream: at most once."""

    name = "NATS"
    lacks = "no table, no replay, no completion, no filter by range; a subscriber that is slow is cut off"
    libraries = ("nats-py",)
    program = ("nats-server", "nats-server")

    def server(self, place: Path) -> Server:
        """Start ``nats-server`` on loopback; it has no Unix sockets."""
        found = program(*self.program)
        port = free_port(place)
        config = place / "nats.conf"
        config.write_text(f"host: 127.0.0.1\nport: {port}\nmax_pending: 256MB\nwrite_deadline: 30s\nlogtime: false\n")
        return Server([found.path, "--config", str(config), "--log", str(place / "nats.log")], port, found.environment)

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect over TCP."""
        connection = await nats.connect(f"nats://127.0.0.1:{port_of(place)}")

        async def receive(message: Msg) -> None:
            answer = take(message.data)
            if answer is not None:
                await connection.publish(sends, answer)

        await connection.subscribe(receives, cb=receive)
        await connection.flush()
        yield NatsClient(connection, sends)
        await connection.close()
