"""The next connection to a listening socket, on any loop."""

import socket
from errno import ECONNABORTED, EMFILE, ENFILE
from typing import Final

import anyio

AGAIN: Final = 0.1
"""Seconds until the next attempt where no more descriptors can be open."""


async def accept(listening: socket.socket) -> socket.socket:
    """Wait for a connection to a socket that does not block.

    Raises:
        OSError: The socket cannot be used any more.
    """
    while True:
        await anyio.wait_readable(listening)
        try:
            return listening.accept()[0]
        except BlockingIOError:  # it was gone before it was accepted
            continue
        except OSError as failure:
            if failure.errno not in {ECONNABORTED, EMFILE, ENFILE}:
                raise
            await anyio.sleep(AGAIN)
