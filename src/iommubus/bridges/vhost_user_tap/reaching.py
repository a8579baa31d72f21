"""The end of a tap that it connects to."""

import socket
from typing import Final

import anyio

from ...bridging.sockets import connected

ATTEMPT: Final = 0.1
"""Seconds between two attempts to reach a back end that is not there yet."""


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
        try:
            return connected(path)
        except OSError:
            if anyio.current_time() >= end:
                raise
        await anyio.sleep(ATTEMPT)
