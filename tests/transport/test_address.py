"""Addresses are read, written as they were, and refused with the reason."""

import pytest
from hypothesis import given, strategies as st

from iommubus.errors import AddressError
from iommubus.transport.address import (
    PATH_LIMIT,
    Address,
    TcpAddress,
    TlsAddress,
    UnixAddress,
    check_listener,
    default_address,
    parse_address,
)

WRITTEN: list[tuple[str, Address]] = [
    ("unix:/run/iommubus/bus.sock", UnixAddress("/run/iommubus/bus.sock")),
    ("unix:/home/a:b c", UnixAddress("/home/a:b c")),
    ("unix:/" + "x" * (PATH_LIMIT - 1), UnixAddress("/" + "x" * (PATH_LIMIT - 1))),
    ("tcp:127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
    ("tcp:[::1]:65535", TcpAddress("::1", 65535)),
    ("tls:bus.example:7411", TlsAddress("bus.example", 7411)),
    ("tls:[2001:db8::1]:7411", TlsAddress("2001:db8::1", 7411)),
]

REFUSED = [
    ("", "unix:/PATH, tls:HOST:PORT or tcp:HOST:PORT"),
    ("/run/bus.sock", "an address is"),
    ("udp:host:1", "an address is"),
    ("unix:", "begins with /"),
    ("unix:bus.sock", "begins with /"),
    ("unix:@abstract", "begins with /"),
    ("unix:/run/", "names no file"),
    ("unix:/a\0b", "names no file"),
    ("unix:/" + "x" * PATH_LIMIT, "at most 107 bytes"),
    ("unix:/" + "\u00e4" * 54, "at most 107 bytes"),
    ("tcp:host", "followed by"),
    ("tcp:host:", "followed by"),
    ("tcp:host:65536", "followed by"),
    ("tcp:host:-1", "followed by"),
    ("tcp:host:\u0663", "followed by"),
    ("tcp::1", "a host is"),
    ("tls:a b:1", "a host is"),
    ("tls:a\n:1", "a host is"),
    ("tls:::1:1", "a host is"),
    ("tls:[]:1", "'' is no IPv6 address"),
    ("tls:[127.0.0.1]:1", "'127.0.0.1' is no IPv6 address"),
    ("tls:[::1:1", "a host is"),
]


@pytest.mark.parametrize(("text", "address"), WRITTEN)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_is_no_address_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(AddressError) as refused:
        parse_address(text)

    assert refused.value.address == text
    assert reason in refused.value.reason


@given(st.text(max_size=30) | st.builds("{}:{}".format, st.sampled_from(["unix", "tls", "tcp"]), st.text(max_size=30)))
def test_whatever_is_read_is_written_and_read_again(text: str) -> None:
    """And nothing else is raised than what was promised."""
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000/iommubus/bus.sock"),
        ({"XDG_RUNTIME_DIR": ""}, "/run/iommubus/bus.sock"),
        ({}, "/run/iommubus/bus.sock"),
    ],
)
def test_the_default_is_the_users_own_else_the_systems(environ: dict[str, str], path: str) -> None:
    assert default_address(environ) == UnixAddress(path)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_plain_tcp_may_listen_on_loopback(host: str) -> None:
    check_listener(TcpAddress(host, 1))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.example.org"])  # noqa: S104
def test_plain_tcp_may_listen_nowhere_else(host: str) -> None:
    with pytest.raises(AddressError, match="loopback only"):
        check_listener(TcpAddress(host, 1))


def test_what_proves_who_comes_may_listen_anywhere() -> None:
    check_listener(TlsAddress("::", 1))
    check_listener(UnixAddress("/run/bus.sock"))
