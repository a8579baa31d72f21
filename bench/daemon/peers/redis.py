"""Redis pub/sub: its server from Debian, and its own client for Python with the parser in C."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis as Connection
from redis.asyncio.client import PubSub

from ..check import Take
from ..debian import program
from ..peer import Channel, Client, Peer
from ..subject import Server


class RedisClient(Client):
    """One connection.

    Args:
        connection: The library's.
        sends: The channel that is sent to.
    """

    def __init__(self, connection: Connection, sends: str) -> None:
        self._connection = connection
        self._sends = sends

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Publish in a pipeline: one by one each would wait for its answer."""
        pipeline = self._connection.pipeline(transaction=False)
        publish, channel = pipeline.publish, self._sends
        for payload in payloads:
            publish(channel, payload)
        await pipeline.execute()


class Redis(Peer):
    """Redis pub/sub, nothing saved."""

    name = "Redis pub/sub"
    lacks = "no table, no replay, no completion, no filter by range; a subscriber that is slow is cut off"
    libraries = ("redis", "hiredis")
    program = ("redis-server", "redis-server")

    def server(self, place: Path) -> Server:
        """Start ``redis-server`` at a Unix socket."""
        found = program(*self.program)
        path = place / "redis.sock"
        config = place / "redis.conf"
        config.write_text(
            f'port 0\nunixsocket {path}\ndir {place}\nsave ""\nappendonly no\n'
            f"client-output-buffer-limit pubsub 0 0 0\nlogfile {place / 'redis.log'}\n"
        )
        return Server([found.path, str(config)], path, found.environment)

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect by a Unix socket, once to send and once to receive, as the protocol wants it."""
        async with (
            Connection(unix_socket_path=str(place / "redis.sock")) as connection,
            connection.pubsub(ignore_subscribe_messages=True) as subscription,
        ):
            await subscription.subscribe(receives)
            client = RedisClient(connection, sends)
            receiving = asyncio.create_task(self._receive(subscription, client, take))
            yield client
            receiving.cancel()

    async def _receive(self, subscription: PubSub, client: Client, take: Take) -> None:
        async for message in subscription.listen():
            answer = take(message["data"])
            if answer is not None:
                await client.send((answer,))
