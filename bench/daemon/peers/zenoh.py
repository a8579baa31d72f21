"""zenoh: its own package for Python, whose sessions can be routers.

``python -m bench.daemon.peers.zenoh ADDRESS`` is the router: the same code as its
server ``zenohd``, which neither PyPI nor Debian has, in a process that does nothing else.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import zenoh

from ..check import Take
from ..peer import Channel, Client, Peer
from ..subject import Server

NO_SCOUTING: Final = {"multicast": {"enabled": False}, "gossip": {"enabled": False}}
"""Nobody is looked for, and nobody finds it."""


def configuration(mode: str, verb: str, address: str) -> zenoh.Config:
    """Return a configuration: of a ``router`` that is to ``listen``, or of a ``client`` that is to ``connect``."""
    return zenoh.Config.from_json5(json.dumps({"mode": mode, verb: {"endpoints": [address]}, "scouting": NO_SCOUTING}))


class ZenohClient(Client):
    """One session.

    Args:
        publisher: Sends.
    """

    def __init__(self, publisher: zenoh.Publisher) -> None:
        self._put = publisher.put

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Put each; blocks while the router is behind."""
        put = self._put
        for payload in payloads:
            put(payload)
        await asyncio.sleep(0)


class Zenoh(Peer):
    """zenoh through a router."""

    name = "zenoh"
    lacks = "no table, no replay, no completion, no filter by range"
    libraries = ("eclipse-zenoh",)
    threads = True

    def server(self, place: Path) -> Server:
        """Start a router at a Unix socket."""
        return Server([sys.executable, "-m", "bench.daemon.peers.zenoh", address_of(place)], place / "zenoh.sock")

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect by a Unix socket; what arrives is taken in a thread of the library's."""
        with zenoh.open(configuration("client", "connect", address_of(place))) as session:
            publisher = session.declare_publisher(f"bench/{sends}", congestion_control=zenoh.CongestionControl.BLOCK)

            def receive(sample: zenoh.Sample) -> None:
                answer = take(sample.payload.to_bytes())
                if answer is not None:
                    publisher.put(answer)

            subscription = session.declare_subscriber(f"bench/{receives}", receive)
            yield ZenohClient(publisher)
            subscription.undeclare()


def address_of(place: Path) -> str:
    """Return where the router is."""
    return f"unixsock-stream/{place / 'zenoh.sock'}"


def serve(address: str) -> None:
    """Be a router until killed."""
    with zenoh.open(configuration("router", "listen", address)):
        signal.pause()


if __name__ == "__main__":
    serve(sys.argv[1])
