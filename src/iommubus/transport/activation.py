"""Listening sockets that the service manager opened and handed over.

What a connection proves depends on its kind, so every socket has to be of a
kind that is known.  A Unix socket says so itself.  One of TCP is what its name
says: ``FileDescriptorName=tls`` in the socket unit, or ``tcp``, which has to be
on loopback.  Their files belong to the service manager and are left alone.

Source: ``sd_listen_fds(3)``.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from typing import Final

from ..errors import AddressError, BadActivation
from .address import Address, TcpAddress, TlsAddress, UnixAddress, check_listener
from .listeners import Listener

FIRST: Final = 3
"""The first descriptor handed over (``SD_LISTEN_FDS_START``)."""

VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

INTERNET: Final[Mapping[str, type[TcpAddress | TlsAddress]]] = {"tcp": TcpAddress, "tls": TlsAddress}
"""What the names of sockets of TCP mean."""


def inherited(environ: MutableMapping[str, str] | None = None) -> list[Listener]:
    """Return the sockets that were handed over to this process; none if none were.

    The variables are removed, and no child inherits the sockets.

    Raises:
        BadActivation: One cannot be used; all are closed.
    """
    variables = os.environ if environ is None else environ
    names = announced(variables, os.getpid())
    for name in VARIABLES:
        variables.pop(name, None)
    with ExitStack[None]() as stack:
        listeners = [stack.enter_context(_take(fd, name)) for fd, name in enumerate(names, FIRST)]
        stack.pop_all()
        return listeners


def announced(environ: Mapping[str, str], pid: int) -> list[str]:
    """Return the names of the sockets announced to process ``pid``, in the order of their descriptors.

    Raises:
        BadActivation: What is announced cannot be.
    """
    if environ.get("LISTEN_PID", "") != str(pid):
        return []  # meant for another process: the variables were inherited from it
    count = environ.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit()):
        raise BadActivation(f"LISTEN_FDS is {count!r}, which is no number")
    names = environ["LISTEN_FDNAMES"].split(":") if environ.get("LISTEN_FDNAMES") else ["unknown"] * int(count)
    if len(names) != int(count):
        raise BadActivation(f"LISTEN_FDNAMES has {len(names)} names for {count} sockets")
    return names


def _take(fd: int, name: str) -> Listener:
    with ExitStack[None]() as stack:
        stack.callback(_close, fd)
        try:
            sock = socket.socket(fileno=fd)
        except OSError as failure:
            raise BadActivation(f"descriptor {fd} ({name}) is no socket: {failure.strerror}") from failure
        stack.pop_all()
        stack.enter_context(sock)
        address = _address(sock, name)
        sock.set_inheritable(False)
        sock.setblocking(False)
        return Listener(address, sock, stack.pop_all())


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # it was never open, which is what the error says that is being raised


def _address(sock: socket.socket, name: str) -> Address:
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise BadActivation(f"descriptor {sock.fileno()} ({name}) is no stream socket that listens")
    if sock.family == socket.AF_UNIX:
        return _unix(sock.getsockname(), name)
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or name not in INTERNET:
        raise BadActivation(f"descriptor {sock.fileno()} ({name}) has no FileDescriptorName=tls or tcp")
    host, port = sock.getsockname()[:2]
    try:
        address = INTERNET[name](host, port)
        check_listener(address)
    except AddressError as wrong:
        raise BadActivation(str(wrong)) from wrong
    return address


def _unix(path: str | bytes, name: str) -> UnixAddress:
    if isinstance(path, bytes):
        raise BadActivation(f"{name} is an abstract socket, which anybody may connect to")
    return UnixAddress(path)
