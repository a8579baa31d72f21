"""ZeroMQ: PUB and SUB, and a proxy between them, as many publishers and subscribers need one.

``python -m bench.daemon.peers.zeromq DIRECTORY`` is the proxy.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import zmq
import zmq.asyncio

from ..check import Take
from ..peer import Channel, Client, Peer
from ..subject import Server

TOPICS: Final = {Channel.EVENTS: b"e", Channel.ACKS: b"a", Channel.NOTHING: b"n"}
"""What messages begin with."""


def open_socket(context: "zmq.Context[Any]", kind: int, address: str) -> Any:
    """Return a socket that drops nothing, connected."""
    socket = context.socket(kind)
    socket.set_hwm(0)
    socket.connect(address)
    return socket


class AsyncioClient(Client):
    """Two sockets on an event loop.

    Args:
        publish: Sends.
        sends: What messages begin with.
    """

    def __init__(self, publish: zmq.asyncio.Socket, sends: bytes) -> None:
        self._publish = publish
        self._sends = sends

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Send each."""
        send, topic = self._publish.send, self._sends
        for payload in payloads:
            await send(topic + payload)

    async def receive(self, subscription: zmq.asyncio.Socket, take: Take) -> None:
        """Receive until cancelled."""
        while True:
            answer = take(memoryview(await subscription.recv())[1:])
            if answer is not None:
                await self.send((answer,))


class BlockingClient(Client):
    """Two sockets, and no event loop.

    Args:
        publish: Sends.
        subscription: Receives.
        sends: What messages begin with.
        take: Takes what arrives.
    """

    def __init__(
        self, publish: "zmq.Socket[bytes]", subscription: "zmq.Socket[bytes]", sends: bytes, take: Take
    ) -> None:
        self._publish = publish
        self._subscription = subscription
        self._sends = sends
        self._take = take

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Send each; a thread of the library does the rest."""
        send, topic = self._publish.send, self._sends
        for payload in payloads:
            send(topic + payload)

    def pump(self, seconds: float) -> bool:
        """Receive all that there is."""
        if not self._subscription.poll(int(seconds * 1000)):
            return False
        receive, take = self._subscription.recv, self._take
        while True:
            try:
                message = receive(zmq.NOBLOCK)
            except zmq.Again:
                return True
            answer = take(memoryview(message)[1:])
            if answer is not None:
                self._publish.send(self._sends + answer)


class ZeroMq(Peer):
    """ZeroMQ with asyncio, as its documentation has it."""

    name = "ZeroMQ, asyncio"
    lacks = "no table, no replay, no completion, no filter by range; past its high water mark messages are dropped"
    has_server = False
    libraries = ("pyzmq",)

    def server(self, place: Path) -> Server:
        """Start a proxy at two Unix sockets."""
        return Server([sys.executable, "-m", "bench.daemon.peers.zeromq", str(place)], place / "out.sock")

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect a PUB and a SUB."""
        context = zmq.asyncio.Context()
        publish = open_socket(context, zmq.PUB, f"ipc://{place}/in.sock")
        subscription = open_socket(context, zmq.SUB, f"ipc://{place}/out.sock")
        subscription.subscribe(TOPICS[receives])
        client = AsyncioClient(publish, TOPICS[sends])
        receiving = asyncio.create_task(client.receive(subscription, take))
        yield client
        receiving.cancel()
        context.destroy(linger=0)


class BlockingZeroMq(ZeroMq):
    """ZeroMQ as it is fastest: sockets that are drained without an event loop."""

    name = "ZeroMQ, drained without asyncio"
    blocking = True

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect a PUB and a SUB."""
        context = zmq.Context()
        publish = open_socket(context, zmq.PUB, f"ipc://{place}/in.sock")
        subscription = open_socket(context, zmq.SUB, f"ipc://{place}/out.sock")
        subscription.subscribe(TOPICS[receives])
        yield BlockingClient(publish, subscription, TOPICS[sends], take)
        context.destroy(linger=0)


def serve(place: str) -> None:
    """Pass everything on until killed."""
    context = zmq.Context()
    publishers, subscribers = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for socket, name in ((publishers, "in"), (subscribers, "out")):
        socket.set_hwm(0)
        socket.bind(f"ipc://{place}/{name}.sock")
    zmq.proxy(publishers, subscribers)


if __name__ == "__main__":
    serve(sys.argv[1])
