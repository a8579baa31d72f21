"""The bare hub: the floor.  Length framing, a mask check on each frame, backpressure, and nothing else.

``python -m bench.daemon.hub SOCKET`` serves.  The first byte on a connection is the mask
of what it wants to get.  A frame is the length of what follows (four bytes, little
endian), a mask, and anything; it goes to every other connection whose mask has one of
its bits.  What is said in one read leaves in one write.  While somebody is slow to
read, nobody is read from.

This file is what others are compared with: it does not change.
"""

import asyncio
import sys
from struct import Struct as Layout
from typing import Final, cast

import uvloop

FRAME: Final = Layout("<IB")
"""The head of a frame: how much follows it after the length, and its mask."""

LENGTH: Final = 4
"""Bytes of the length."""

ROOM: Final = 1 << 18
"""Bytes that may wait for one connection before nobody is read from."""


class Hub:
    """All connections."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.slow: set[Connection] = set()

    def others(self, one: "Connection") -> list["Connection"]:
        """Return everybody else."""
        return [connection for connection in self.connections if connection is not one]

    def write(self) -> None:
        """Write what has come together, in one piece for each."""
        for connection in self.connections:
            if connection.out:
                connection.transport.write(b"".join(connection.out))
                connection.out.clear()

    def wait_for(self, one: "Connection") -> None:
        """Read from nobody until a connection has room again."""
        self.slow.add(one)
        for connection in self.connections:
            connection.transport.pause_reading()

    def go_on(self, one: "Connection") -> None:
        """Read again, if nobody is slow any more."""
        self.slow.discard(one)
        if not self.slow:
            for connection in self.connections:
                connection.transport.resume_reading()


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        hub: All of them.
    """

    transport: asyncio.Transport

    def __init__(self, hub: Hub) -> None:
        self.mask = 0
        self.out: list[bytes] = []
        self._hub = hub
        self._rest = b""
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=ROOM)
        self._hub.connections.append(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - it is gone
        """Forget it."""
        self._hub.connections.remove(self)
        self._hub.go_on(self)

    def pause_writing(self) -> None:
        """Have everybody wait for it."""
        self._hub.wait_for(self)

    def resume_writing(self) -> None:
        """Have everybody go on."""
        self._hub.go_on(self)

    def data_received(self, data: bytes) -> None:
        """Pass frames on to whoever wants them."""
        if self._rest:
            data = self._rest + data
        at = 0
        if not self._greeted:
            self.mask, self._greeted, at = data[0], True, 1
        others, size, unpack = self._hub.others(self), len(data), FRAME.unpack_from
        while at + FRAME.size <= size:
            length, mask = unpack(data, at)
            end = at + LENGTH + length
            if end > size:
                break
            frame = data[at:end]
            for other in others:
                if other.mask & mask:
                    other.out.append(frame)
            at = end
        self._rest = data[at:]
        self._hub.write()


async def serve(path: str) -> None:
    """Serve at a Unix socket until killed."""
    hub = Hub()
    server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(hub), path)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
