"""The two ends of a tap: who connects to it, and where it connects to."""

import socket
from typing import Final

import anyio

ATTEMPT: Final = 0.1
"""Seconds between two attempts to reach a back end that is not there yet."""


async def accept(listening: socket.socket) -> socket.socket:
    """Wait for the next connection."""
    while True:
        try:
            return listening.accept()[0]
        except BlockingIOError:
            await anyio.wait_readable(listening)


async def reach(path: str, patience: float) -> socket.socket:
    """Connect to a Unix socket; who is not there yet is tried again.

    Args:
        path: Its path.
        patience: Seconds for which it is tried.

    Raises:
        OSError: Nobody takes the connection.
    """
    end = anyio.current_time() + patience
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.connect(path)
        except OSError:
            sock.close()
            if anyio.current_time() >= end:
                raise
            await anyio.sleep(ATTEMPT)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
