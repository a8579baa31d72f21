"""Where a daemon is: ``unix:PATH``, ``tls:HOST:PORT``, ``tcp:HOST:PORT``.

Whoever can open a connection is asked who they are: over a Unix socket the
kernel says it, over TLS a certificate does.  A plain TCP connection says
nothing, so it has to be asked for by name, and listens on loopback only.

An IPv6 address stands in brackets: ``tls:[2001:db8::1]:7411``.
"""

import os
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from msgspec import Struct

from ..errors import AddressError

PATH_LIMIT: Final = 107
"""Most bytes of a socket's path: ``sun_path`` has 108, and ends with a zero (`unix(7)`)."""

PORTS: Final = range(65_536)
"""Ports of TCP; to a listener, 0 is any one that is free."""

ADDRESS_VARIABLE: Final = "IOMMUBUS_ADDRESS"
"""The variable that says to clients where the daemon is; a daemon listens where its settings say."""

RUNTIME: Final = "/run"
"""Where sockets of the system are; a user's own are in ``$XDG_RUNTIME_DIR``."""


class UnixAddress(Struct, frozen=True):
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class TcpAddress(Struct, frozen=True):
    """A host and a port, without any protection."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:{bracketed(self.host)}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether nobody outside this machine can reach it."""
        return self.host == "localhost" or is_loopback(self.host)


class TlsAddress(Struct, frozen=True):
    """A host and a port, where both sides show a certificate."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tls:{bracketed(self.host)}:{self.port}"


Address = UnixAddress | TcpAddress | TlsAddress


def parse_address(text: str) -> Address:
    """Return the address that ``text`` writes.

    Raises:
        AddressError: It writes none.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in PARSERS:
        raise AddressError(text, f"an address is {FORMS}")
    return PARSERS[scheme](text, rest)


def default_address(environ: Mapping[str, str] = os.environ) -> UnixAddress:
    """Return where a daemon is if nobody says otherwise: the user's own, else the system's."""
    return UnixAddress(str(Path(environ.get("XDG_RUNTIME_DIR") or RUNTIME, "iommubus", "bus.sock")))


def check_listener(address: Address) -> None:
    """Check that a daemon may listen there.

    Raises:
        AddressError: It is plain TCP, and others than this machine could reach it.
    """
    if isinstance(address, TcpAddress) and not address.loopback:
        raise AddressError(str(address), "plain TCP listens on loopback only; others come over tls")


def bracketed(host: str) -> str:
    """Return a host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Say whether this is the number of a loopback address; a name is none."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_unix(text: str, rest: str) -> UnixAddress:
    if not rest.startswith("/"):
        raise AddressError(text, "the path of a socket begins with /, so that it is the same one for everybody")
    if "\0" in rest or rest.endswith("/"):
        raise AddressError(text, "the path names no file")
    if len(os.fsencode(rest)) > PATH_LIMIT:
        raise AddressError(text, f"the path of a socket has at most {PATH_LIMIT} bytes")
    return UnixAddress(rest)


def _parse_host(text: str, rest: str) -> tuple[str, int]:
    host, colon, port = rest.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) in PORTS):
        raise AddressError(text, "a host is followed by : and a port, 0 to 65535")
    return _parse_name(text, host), int(port)


def _parse_name(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return _parse_ipv6(text, host[1:-1])
    if not host or ":" in host or not host.isprintable() or " " in host:
        raise AddressError(text, "a host is a name, a number, or an IPv6 address in [brackets]")
    return host


def _parse_ipv6(text: str, host: str) -> str:
    try:
        return str(IPv6Address(host))
    except ValueError as wrong:
        raise AddressError(text, f"{host!r} is no IPv6 address") from wrong


PARSERS: Final[Mapping[str, Callable[[str, str], Address]]] = {
    "unix": _parse_unix,
    "tls": lambda text, rest: TlsAddress(*_parse_host(text, rest)),
    "tcp": lambda text, rest: TcpAddress(*_parse_host(text, rest)),
}
"""What reads the rest of an address, by what it begins with."""

FORMS: Final = "unix:/PATH, tls:HOST:PORT or tcp:HOST:PORT"
"""How addresses are written."""
