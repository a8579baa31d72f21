"""Descriptors arrive with their message, whole or not at all, and none is left behind."""

import os
import socket
from array import array
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from iommubus.errors import DescriptorsRefused, TokenRefused
from iommubus.transport.credentials import Peer
from iommubus.transport.descriptors import (
    LIMIT,
    PAYLOAD,
    TOKEN,
    DescriptorChannel,
    Incoming,
    Tokens,
    close_all,
)
from iommubus.wire.framing import frame
from tests.loops import every_loop
from tests.peers import open_descriptors


class Pair:
    """A channel, and the raw socket at its other end, which can send anything."""

    def __init__(self, stack: ExitStack) -> None:
        own, self.raw = socket.socketpair()
        stack.enter_context(self.raw)
        self.own = own
        self.fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        stack.callback(close_all, self.fds)

    def put(self, data: bytes, count: int = 0) -> None:
        """Send bytes, and so many descriptors with the first of them."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", self.fds[:count]))] if count else []
        assert self.raw.sendmsg([data], rights) == len(data)


@pytest.fixture
def pair() -> Generator[Pair]:
    before = open_descriptors()
    with ExitStack() as stack:
        pair = Pair(stack)
        with pair.own:
            yield pair
    assert open_descriptors() == before


async def cancel(action: Callable[[], Awaitable[object]]) -> None:
    """Cancel an action once it waits."""

    async def act() -> None:
        await action()
        raise AssertionError("it did not wait")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(act)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


@every_loop
async def test_a_message_arrives_with_its_descriptors(pair: Pair) -> None:
    """Several, of different sizes, one behind the other: each has its own."""
    with DescriptorChannel(pair.own) as receiver, DescriptorChannel(pair.raw) as sender:
        sizes = [(0, 0), (5, 1), (PAYLOAD, LIMIT), (0, 1), (3, 0), (7, 1)]
        async with anyio.create_task_group() as tasks:

            async def send_all() -> None:
                for size, count in sizes:
                    await sender.send(frame(b"x" * size), pair.fds[:count])

            tasks.start_soon(send_all)
            for size, count in sizes:
                received = await receiver.receive()
                assert received is not None
                payload, fds = received
                assert (payload, len(fds)) == (frame(b"x" * size), count)
                assert not any(map(os.get_inheritable, fds))
                assert {open_descriptors()[str(fd)] for fd in fds} <= {os.devnull}
                close_all(fds)
        sender.close()
        assert await receiver.receive() is None


@every_loop
async def test_what_cannot_be_sent_at_once_is_sent_bit_by_bit(pair: Pair) -> None:
    """Buffers are full; every descriptor still comes with its own message, once."""
    pair.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with DescriptorChannel(pair.own) as receiver, DescriptorChannel(pair.raw) as sender:
        async with anyio.create_task_group() as tasks:

            async def send_all() -> None:
                for number in range(20):
                    await sender.send(frame(bytes([number]) * PAYLOAD), pair.fds[: number % 2])

            tasks.start_soon(send_all)
            for number in range(20):
                received = await receiver.receive()
                assert received is not None
                assert (received[0], len(received[1])) == (frame(bytes([number]) * PAYLOAD), number % 2)
                close_all(received[1])


class OneByteSocket(socket.socket):
    """A socket that takes one byte at a time."""

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:  # noqa: ARG002
        return super().sendmsg([bytes(buffers[0])[:1]], ancdata, flags)


@every_loop
async def test_descriptors_go_with_the_first_byte_only(pair: Pair) -> None:
    """However little the socket takes at once."""
    slow = OneByteSocket(fileno=pair.raw.detach())
    with DescriptorChannel(pair.own) as receiver, DescriptorChannel(slow) as sender:
        await sender.send(frame(b"name"), pair.fds[:1])
        received = await receiver.receive()
        assert received is not None
        payload, fds = received
        assert (payload, len(fds)) == (frame(b"name"), 1)
        close_all(fds)


def test_a_message_that_is_refused_closes_its_descriptors() -> None:
    before = open_descriptors()
    incoming = Incoming()
    with pytest.raises(DescriptorsRefused):
        incoming.feed(frame(b""), [os.open(os.devnull, os.O_RDONLY) for _ in range(LIMIT + 1)])
    assert open_descriptors() == before
    assert not incoming.begun


@every_loop
async def test_a_message_in_pieces_is_put_together(pair: Pair) -> None:
    """Cut behind every byte; a `receive` that is cancelled meanwhile loses nothing."""
    with DescriptorChannel(pair.own) as receiver:
        whole = frame(b"name")
        for cut in range(1, len(whole)):
            pair.put(whole[:cut], 1)
            await cancel(receiver.receive)
            pair.put(whole[cut:])
            received = await receiver.receive()
            assert received is not None
            payload, fds = received
            assert (payload, len(fds)) == (frame(b"name"), 1)
            close_all(fds)


@pytest.mark.parametrize(
    ("data", "count", "reason"),
    [
        (frame(b""), LIMIT + 1, f"{LIMIT + 1} descriptors, at most {LIMIT} is taken"),
        (frame(b""), LIMIT + 2, "left out"),
        (frame(b"name"), 20, "left out"),
        (frame(b"")[:1], 20, "left out"),
        ((PAYLOAD + 1).to_bytes(4, "little"), 1, f"at most {PAYLOAD} are taken"),
    ],
)
@every_loop
async def test_what_does_not_fit_is_refused_and_nothing_leaks(pair: Pair, data: bytes, count: int, reason: str) -> None:
    """The fixture counts the descriptors; the channel is closed."""
    pair.put(data, count)
    receiver = DescriptorChannel(pair.own)
    with pytest.raises(DescriptorsRefused) as refused:
        await receiver.receive()
    assert reason in refused.value.reason
    assert pair.own.fileno() == -1


@every_loop
async def test_descriptors_in_the_middle_of_a_message_are_refused(pair: Pair) -> None:
    whole = frame(b"name")
    pair.put(whole[:5], 1)
    pair.put(whole[5:], 1)
    with pytest.raises(DescriptorsRefused, match="2 descriptors"):
        await DescriptorChannel(pair.own).receive()


@every_loop
async def test_a_message_that_is_cut_leaves_nothing(pair: Pair) -> None:
    """The peer was killed behind any byte."""
    whole = frame(b"name")
    for cut in range(1, len(whole)):
        own, raw = socket.socketpair()
        with raw:
            raw.sendmsg([whole[:cut]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", pair.fds[:1]))])
        with pytest.raises(DescriptorsRefused, match="in the middle"):
            await DescriptorChannel(own).receive()


@every_loop
async def test_closing_with_a_half_message_leaves_nothing(pair: Pair) -> None:
    pair.put(frame(b"name")[:4], 1)
    with DescriptorChannel(pair.own) as receiver:
        await cancel(receiver.receive)


@every_loop
async def test_who_waits_is_told_of_the_end(pair: Pair) -> None:
    """Closing in one task ends a `receive` in another."""
    receiver = DescriptorChannel(pair.own)

    async def receive() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await receiver.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        receiver.close()


@every_loop
async def test_what_is_too_large_is_not_sent(pair: Pair) -> None:
    with DescriptorChannel(pair.own) as sender:
        with pytest.raises(DescriptorsRefused, match=f"{PAYLOAD + 1} bytes"):
            await sender.send(frame(b"x" * (PAYLOAD + 1)))
        with pytest.raises(DescriptorsRefused, match=f"{LIMIT + 1} descriptors"):
            await sender.send(frame(b""), pair.fds[: LIMIT + 1])
        await sender.send(frame(b"x"), pair.fds[:1])
        assert pair.raw.recv(100) == frame(b"x")


@every_loop
async def test_a_peer_that_is_gone_is_an_error_to_who_sends(pair: Pair) -> None:
    sender = DescriptorChannel(pair.own)
    pair.raw.close()
    with pytest.raises(BrokenPipeError):
        await sender.send(frame(b"x"))
    assert pair.own.fileno() == -1


@every_loop
async def test_a_send_that_was_cancelled_closes(pair: Pair) -> None:
    """A part may be out, and the rest would be read as the next message."""
    sender = DescriptorChannel(pair.own)

    async def send_all() -> None:
        while True:
            await sender.send(frame(b"x" * PAYLOAD))

    await cancel(send_all)
    assert pair.own.fileno() == -1


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_however_it_is_cut_the_same_messages_come(payloads: list[bytes], data: st.DataObject) -> None:
    frames = [frame(payload) for payload in payloads]
    stream, incoming = b"".join(frames), Incoming()
    seen: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, incoming.wanted))
        incoming.feed(stream[:size], [])
        stream = stream[size:]
        if not incoming.wanted:
            seen.append(incoming.take()[0])
    assert seen == frames
    assert not incoming.begun


# -- tokens ------------------------------------------------------------------

PEER = Peer(7, 1000, (1000,))


def test_a_token_works_once() -> None:
    tokens = Tokens[str]()
    token = tokens.issue("first", PEER)
    assert len(token) == TOKEN
    assert tokens.redeem(token, PEER) == "first"
    with pytest.raises(TokenRefused):
        tokens.redeem(token, PEER)


def test_a_token_belongs_to_whom_it_was_given() -> None:
    """Another process of the same user is another peer; and the token is burnt, for it was seen."""
    tokens = Tokens[str]()
    token = tokens.issue("first", PEER)
    with pytest.raises(TokenRefused):
        tokens.redeem(token, Peer(8, 1000, (1000,)))
    with pytest.raises(TokenRefused):
        tokens.redeem(token, PEER)


def test_each_owner_has_one_token() -> None:
    tokens = Tokens[str]()
    old, other, new = tokens.issue("a", PEER), tokens.issue("b", PEER), tokens.issue("a", PEER)
    assert len({old, other, new}) == 3
    with pytest.raises(TokenRefused):
        tokens.redeem(old, PEER)
    assert tokens.redeem(other, PEER) == "b"
    assert tokens.redeem(new, PEER) == "a"


def test_a_token_ends_with_its_owner() -> None:
    tokens = Tokens[str]()
    token = tokens.issue("a", PEER)
    tokens.revoke("a")
    tokens.revoke("nobody")
    with pytest.raises(TokenRefused):
        tokens.redeem(token, PEER)


@given(st.binary(max_size=2 * TOKEN))
def test_what_was_not_given_out_is_refused(token: bytes) -> None:
    tokens = Tokens[str]()
    tokens.issue("a", PEER)
    with pytest.raises(TokenRefused):
        tokens.redeem(token, PEER)
