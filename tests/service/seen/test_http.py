"""Pages over real sockets; and nothing that anybody sends does more than end its own connection."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import anyio
import pytest
from hypothesis import given, strategies as st

from iommubus.service.seen import http
from iommubus.service.seen.http import CONNECTIONS, REQUEST, Page, Pages, respond, serve_pages
from iommubus.transport.address import Address, TcpAddress, UnixAddress
from iommubus.transport.listeners import listen
from tests.loops import every_loop

PAGES: Pages = {"/metrics": lambda: Page(HTTPStatus.OK, b"a 1\n", "text/x")}


def get(path: str, version: str = "HTTP/1.1") -> bytes:
    return f"GET {path} {version}\r\nHost: here\r\n\r\n".encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get("/metrics"), 200),
        (get("/metrics", "HTTP/1.0"), 200),
        (get("/metrics?x=1"), 200),
        (get("/"), 404),
        (get("/metrics/"), 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"", 400),
    ],
)
def test_a_request_gets_its_page_or_the_reason(request_: bytes, expected: int) -> None:
    assert status(respond(request_, PAGES)) == expected


def test_an_answer_is_whole() -> None:
    assert respond(get("/metrics"), PAGES) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 4\r\nConnection: close\r\n\r\na 1\n"
    )


@given(st.binary(max_size=100))
def test_whatever_is_asked_there_is_an_answer(data: bytes) -> None:
    assert status(respond(data, PAGES)) in {200, 400, 404, 405}
    assert status(respond(b"GET " + data + b" HTTP/1.1\r\n\r\n", PAGES)) in {200, 400, 404}


@asynccontextmanager
async def serving(address: Address, pages: Pages = PAGES) -> AsyncGenerator[Address]:
    """Serve pages, and give where."""
    with listen(address) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_pages, listener.sock, pages)
            yield listener.address
            tasks.cancel_scope.cancel()


async def connect(address: Address) -> anyio.abc.ByteStream:
    if isinstance(address, UnixAddress):
        return await anyio.connect_unix(address.path)
    return await anyio.connect_tcp(address.host, address.port)


async def ask(address: Address, data: bytes) -> bytes:
    """Send bytes one by one, and return all that comes back."""
    answer = b""
    async with await connect(address) as stream:
        for byte in data:
            await stream.send(bytes([byte]))
        while True:
            try:
                answer += await stream.receive()
            except anyio.EndOfStream:
                return answer


@every_loop
async def test_a_page_can_be_had_at_either_kind_of_socket(tmp_path: Path) -> None:
    for address in TcpAddress("127.0.0.1", 0), UnixAddress(str(tmp_path / "metrics.sock")):
        async with serving(address) as actual:
            for _ in range(3):
                assert await ask(actual, get("/metrics")) == respond(get("/metrics"), PAGES)
    assert not (tmp_path / "metrics.sock").exists()


@every_loop
async def test_a_request_that_never_ends_is_refused(tmp_path: Path) -> None:
    async with serving(UnixAddress(str(tmp_path / "sock"))) as address, await connect(address) as stream:
        await stream.send(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * REQUEST)
        assert status(await stream.receive()) == 400


@every_loop
async def test_who_says_nothing_is_closed_and_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are served at once hang; when their deadline has passed, the next one is served."""
    async with serving(UnixAddress(str(tmp_path / "sock"))) as address:
        with monkeypatch.context() as patch:
            patch.setattr(http, "DEADLINE", 0.01)
            mute = [await connect(address) for _ in range(CONNECTIONS + 1)]
            for stream in mute:
                async with stream:
                    with pytest.raises(anyio.EndOfStream):
                        await stream.receive()
        assert status(await ask(address, get("/metrics"))) == 200


@every_loop
async def test_who_leaves_in_the_middle_takes_nobody_along(tmp_path: Path) -> None:
    large: Pages = {"/metrics": lambda: Page(HTTPStatus.OK, b"x" * 10_000_000)}
    path = str(tmp_path / "sock")
    async with serving(UnixAddress(path), large) as address:
        for data in b"", b"GET", get("/metrics"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.send(data)
        assert status(await ask(address, get("/other"))) == 404
