"""Connections as they arrive: who is at the other end, and the protocol that serves them.

They are counted before any TLS handshake, so that nobody who shows no certificate
takes the place of many.
"""

import asyncio
import socket
import ssl
from logging import getLogger
from typing import Final

from ..errors import NoCredentials, PeerGone
from ..transport.address import TlsAddress, UnixAddress
from ..transport.credentials import Peer, Process, peer_of, process_of, ticks_now, tls_peer
from ..transport.listeners import Listener
from .daemon import Daemon

SPARE: Final = 16
"""Connections past the limit that are told why they are not let in; more are closed at once."""

PAUSE: Final = 0.1
"""Seconds after which it is tried again to accept where the system refused: descriptors
or memory ran out, and come back as connections end."""

LOGGER: Final = getLogger("iommubus.service")


class Acceptor:
    """Accepts the connections of one listener.

    Args:
        daemon: Whom they are for.
        listener: Where they arrive.
        context: How TLS is spoken, where it is.
    """

    def __init__(self, daemon: Daemon, listener: Listener, context: ssl.SSLContext | None) -> None:
        self._daemon = daemon
        self._listener = listener
        self._context = context if isinstance(listener.address, TlsAddress) else None
        self._opening = 0  # connections in their TLS handshake

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener.sock)
            except OSError as failure:
                self._daemon.lines.warn("accept", str(self._listener.address), f"cannot accept: {failure}")
                await asyncio.sleep(PAUSE)
                continue
            if self._opening + self._daemon.counts.connections >= self._daemon.config.limits.connections + SPARE:
                sock.close()
                continue
            self._opening += 1
            self._daemon.tasks.start_soon(self._open, sock)

    # -- inside ----------------------------------------------------------------

    async def _open(self, sock: socket.socket) -> None:
        try:
            await self._connect(sock)
        except (OSError, NoCredentials, PeerGone) as failure:  # of TLS, too
            self._daemon.lines.warn("connection", str(self._listener.address), f"not let in: {failure}")
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            self._opening -= 1

    async def _connect(self, sock: socket.socket) -> None:
        """Find out who it is, and have it served.

        Raises:
            NoCredentials, PeerGone: It cannot be said who it is.
            OSError: It is gone, or its TLS handshake failed.
        """
        loop, daemon, hello = asyncio.get_running_loop(), self._daemon, self._daemon.config.deadlines.hello
        if self._context is not None:
            await loop.connect_accepted_socket(
                lambda: daemon.session_of(by_certificate),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=hello,
                ssl_shutdown_timeout=hello,
            )
        elif isinstance(self._listener.address, UnixAddress):
            peer, process = peer_of(sock), visible_process(sock)
            await loop.connect_accepted_socket(lambda: daemon.session(peer, process), sock)
        else:
            await loop.connect_accepted_socket(lambda: daemon.session(Peer()), sock)


def by_certificate(transport: asyncio.Transport) -> tuple[Peer, Process | None]:
    """Return who is at the other end of a TLS connection.

    Raises:
        NoCredentials: Its certificate has no name.
    """
    return tls_peer(transport.get_extra_info("ssl_object")), None


def visible_process(sock: socket.socket) -> Process | None:
    """Return the process that connected to a Unix socket; `None` if it cannot be seen from here.

    Raises:
        PeerGone: It has ended.
    """
    try:
        return process_of(sock, ticks_now())
    except NoCredentials:
        return None
