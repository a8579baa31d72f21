"""The bare hub's clients."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

from ..check import Take
from ..hub import FRAME, LENGTH
from ..peer import Channel, Client, Peer
from ..subject import Server

MASKS: Final = {Channel.EVENTS: 1, Channel.ACKS: 2, Channel.NOTHING: 4}


class HubClient(Client, asyncio.Protocol):
    """One connection.

    Args:
        take: Takes what arrives.
        receives: Mask of what is to be received.
        sends: Mask of what is sent.
    """

    _transport: asyncio.Transport

    def __init__(self, take: Take, receives: int, sends: int) -> None:
        self._take = take
        self._receives = receives
        self._sends = sends
        self._rest = b""
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what is wanted."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(bytes([self._receives]))

    def pause_writing(self) -> None:
        """Wait: the hub is behind."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._room.set()

    def data_received(self, data: bytes) -> None:
        """Take what arrived, frame by frame."""
        if self._rest:
            data = self._rest + data
        at, size, unpack, take = 0, len(data), FRAME.unpack_from, self._take
        while at + FRAME.size <= size:
            length, _ = unpack(data, at)
            end = at + LENGTH + length
            if end > size:
                break
            answer = take(data[at + FRAME.size : end])
            if answer is not None:
                self._transport.write(FRAME.pack(len(answer) + 1, self._sends) + answer)
            at = end
        self._rest = data[at:]

    async def send(self, payloads: Iterable[bytes]) -> None:
        """Send frames in one write, and wait while the hub is behind."""
        pack, mask = FRAME.pack, self._sends
        self._transport.write(b"".join([pack(len(payload) + 1, mask) + payload for payload in payloads]))
        await asyncio.sleep(0)
        await self._room.wait()

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


class BareHub(Peer):
    """The floor, in Python on uvloop as the daemon is."""

    name = "bare hub"
    lacks = "keeps nothing: no table, no order checks, no replay, no filter by range, no acknowledgement, no limits"

    def ahead(self, batch: int) -> int:  # noqa: ARG002 - for others it matters
        """Return 0: the hub reads no faster than everybody takes it."""
        return 0

    def server(self, place: Path) -> Server:
        """Start ``python -m bench.daemon.hub``."""
        path = place / "hub.sock"
        return Server([sys.executable, "-m", "bench.daemon.hub", str(path)], path)

    @asynccontextmanager
    async def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AsyncGenerator[Client]:
        """Connect by a Unix socket."""
        _, client = await asyncio.get_running_loop().create_unix_connection(
            lambda: HubClient(take, MASKS[receives], MASKS[sends]), str(place / "hub.sock")
        )
        yield client
        client.close()
