"""Listening sockets, and that of two daemons only one has each.

Beside a Unix socket lies a lock file, held as long as the daemon lives.  Who
has the lock may take away the socket file that an earlier daemon left, bind its
own, and remove that at the end; nobody else does, so no two can do it at once.
(The other way, to bind beside and rename, leaves both of two daemons that start
together in the belief that they serve, and one of them unreachable.)  A socket
that somebody answers at is never taken away, lock or not: it may belong to a
daemon that knows no lock, or to the service manager.

Source: ``unix(7)``; ``unix_bind_bsd`` in Linux, which gives the file the mode
that the socket had, so that it never is more open than it will be.
"""

import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from msgspec.structs import replace

from ..errors import AddressTaken, CannotListen, NotSocket
from .address import Address, TcpAddress, TlsAddress, UnixAddress, check_listener
from .credentials import peer_of
from .lock import Lock

MODE: Final = 0o660
"""Who may connect: the daemon's user and group."""

BACKLOG: Final = 128
"""Connections that wait to be accepted: as many clients as reconnect at once when
the daemon restarts wait in turn, and the next is told to try again."""


class Listener:
    """A listening socket.

    Args:
        address: Where it listens.
        sock: The socket, which does not block.
        stack: What is undone at the end, closing the socket among it.

    Attributes:
        address: Where it listens; a port of 0 was replaced by the one it got.
        sock: The socket, which does not block.
    """

    __slots__ = ("_stack", "address", "sock")

    def __init__(self, address: Address, sock: socket.socket, stack: ExitStack[None]) -> None:
        self.address = address
        self.sock = sock
        self._stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; a socket file is removed if it is still this socket's."""
        self._stack.close()


def listen(address: Address, mode: int = MODE) -> Listener:
    """Listen at an address.

    Args:
        address: Where; what TLS needs beyond a socket is in `tls`.
        mode: Who may connect to a Unix socket.

    Raises:
        AddressError: It is plain TCP, and others than this machine could reach it.
        ListenError: There is no place: somebody answers there, another daemon
            has the lock, something else is in the way, or the system refuses.
    """
    check_listener(address)
    try:
        return _listen_unix(address, mode) if isinstance(address, UnixAddress) else _listen_tcp(address)
    except OSError as failure:
        raise CannotListen(str(address), failure.strerror or str(failure)) from failure


def _listen_unix(address: UnixAddress, mode: int) -> Listener:
    Path(address.path).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack[None]() as stack:
        stack.enter_context(Lock(address.path))
        _clear(address.path)
        sock = stack.enter_context(_unix_socket())
        os.fchmod(sock.fileno(), mode)
        sock.bind(address.path)
        stack.callback(_remove, address.path, _identity(address.path))
        Path(address.path).chmod(mode)  # the bits that the umask took
        sock.listen(BACKLOG)
        return Listener(address, sock, stack.pop_all())


def _listen_tcp(address: TcpAddress | TlsAddress) -> Listener:
    family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    if isinstance(address, TcpAddress):  # a name leads where the resolver says
        check_listener(TcpAddress(str(place[0]), address.port))
    with ExitStack[None]() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whose last connections still time out
        sock.bind(place)
        sock.listen(BACKLOG)
        return Listener(replace(address, port=sock.getsockname()[1]), sock, stack.pop_all())


def _unix_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def _clear(path: str) -> None:
    """Take away a socket file at which nobody answers.

    Raises:
        AddressTaken: Somebody does.
        NotSocket: It is none.
    """
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise NotSocket(path)
    with _unix_socket() as probe:
        if _answers(probe, path):
            raise AddressTaken(path, peer_of(probe).pid)
    Path(path).unlink()


def _answers(probe: socket.socket, path: str) -> bool:
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        return False
    except BlockingIOError:  # so many wait to be accepted that there is no room for another
        return True
    return True


def _identity(path: str) -> tuple[int, int]:
    """Return what tells one file from all others that had its name."""
    found = Path(path).lstat()
    return found.st_dev, found.st_ino


def _remove(path: str, identity: tuple[int, int]) -> None:
    with suppress(FileNotFoundError):
        if _identity(path) == identity:
            Path(path).unlink()
