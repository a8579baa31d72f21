"""Connections to peers over Unix sockets, on any loop."""

import socket
from errno import ECONNABORTED, EMFILE, ENFILE
from typing import Final

import anyio

from ..transport.credentials import ask_for_sender

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


def connected(path: str, *, sender: bool = False) -> socket.socket:
    """Return a connection to whoever listens at a path; there is one attempt, and it does not wait.

    Args:
        path: The path.
        sender: Whether `sender_of` will be asked who answers.

    Raises:
        OSError: Nobody takes connections there now.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        if sender:
            ask_for_sender(sock)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
