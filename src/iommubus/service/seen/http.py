"""Just enough HTTP to be asked for a page by a scraper, a probe or `curl`.

``GET`` alone, one request a connection, and nothing of the request but its first
line matters.  It listens on loopback or a Unix socket; even so, who asks gets
`DEADLINE` seconds and `REQUEST` bytes, and only `CONNECTIONS` are served at once.

Source: RFC 9110, RFC 9112.
"""

import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

import anyio
from anyio.abc import ByteStream, SocketListener

REQUEST: Final = 8192
"""Most bytes of a request: what common servers take for its head."""

DEADLINE: Final = 5.0
"""Seconds for one connection: a scrape of a busy bus takes milliseconds."""

CONNECTIONS: Final = 8
"""Connections at once: a scraper or two, a probe, and somebody who looks."""

END: Final = b"\r\n\r\n"

TEXT: Final = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """What is answered."""

    status: HTTPStatus
    body: bytes
    kind: str = TEXT


Pages = Mapping[str, Callable[[], Page]]
"""What makes a page, by its path."""


async def serve_pages(sock: socket.socket, pages: Pages) -> None:
    """Answer requests until cancelled.

    Args:
        sock: A listening socket, which is closed at the end.
        pages: What there is.
    """
    limit = anyio.Semaphore(CONNECTIONS)

    async def answer_one(stream: ByteStream) -> None:
        async with stream, limit:
            with anyio.move_on_after(DEADLINE):
                await _answer(stream, pages)

    async with await SocketListener.from_socket(sock) as listener:
        await listener.serve(answer_one)


def respond(request: bytes, pages: Pages) -> bytes:
    """Return the bytes of the answer to a request.

    Args:
        request: Its head, or what came of it.
        pages: What there is.
    """
    page = choose(request, pages)
    head = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.kind}",
        f"Content-Length: {len(page.body)}",
        "Connection: close",
    ]
    return "\r\n".join(head).encode() + END + page.body


def choose(request: bytes, pages: Pages) -> Page:
    """Return the page that a request asks for."""
    match request.partition(b"\r\n")[0].split(b" "):
        case [b"GET", target, version] if version.startswith(b"HTTP/1."):
            path = target.partition(b"?")[0].decode("latin-1")
            return pages[path]() if path in pages else error(HTTPStatus.NOT_FOUND)
        case [_, _, version] if version.startswith(b"HTTP/1."):
            return error(HTTPStatus.METHOD_NOT_ALLOWED)
        case _:
            return error(HTTPStatus.BAD_REQUEST)


def error(status: HTTPStatus) -> Page:
    """Return the page of a status, for people to read."""
    return Page(status, f"{status.phrase}\n".encode())


async def _answer(stream: ByteStream, pages: Pages) -> None:
    """Read a request and answer it; a peer that leaves meanwhile is left."""
    try:
        await stream.send(respond(await _head(stream), pages))
        await stream.send_eof()
    except (anyio.BrokenResourceError, anyio.EndOfStream):
        return


async def _head(stream: ByteStream) -> bytes:
    head = b""
    while END not in head and len(head) < REQUEST:
        head += await stream.receive(REQUEST - len(head))
    return head if END in head else b""
