"""Messages of other people's protocols arrive whole, each with its own descriptors, and leave in order."""

import os
import socket
from array import array
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from random import Random
from typing import Any

import anyio
import pytest

from iommubus.abi import vhost_user
from iommubus.abi.vhost_user import U64, Empty, Message, Request, VringFd
from iommubus.bridging.messages import OUTGOING_LIMIT, MessageSocket
from iommubus.errors import AbiError, PeerBroke, PeerLeft
from iommubus.transport.descriptors import close_all
from tests.loops import every_loop
from tests.peers import open_descriptors

FEATURES = vhost_user.encode(Message(Request.SET_FEATURES, U64(1 << 30)))
OWNER = vhost_user.encode(Message(Request.SET_OWNER, Empty()))
KICK = vhost_user.encode(Message(Request.SET_VRING_KICK, VringFd(0)))


class Pair:
    """A connection, and the raw socket at its other end, which can send anything."""

    def __init__(self, stack: ExitStack, descriptor_limit: int = vhost_user.DESCRIPTOR_LIMIT) -> None:
        own, self.raw = socket.socketpair()
        stack.enter_context(self.raw)
        self.own = stack.enter_context(
            MessageSocket(own, vhost_user.splitter(), descriptor_limit=descriptor_limit, peer="the peer")
        )
        self.fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        stack.callback(close_all, self.fds)

    def put(self, data: bytes, count: int = 0) -> None:
        """Send bytes, and so many descriptors with the first of them."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", self.fds[:count]))] if count else []
        assert self.raw.sendmsg([data], rights) == len(data)


def on_a_pair(case: Callable[[Pair], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test that is given a pair, and leaves no descriptor behind."""

    async def run() -> None:
        before = open_descriptors()
        with ExitStack() as stack:
            await case(Pair(stack))
        assert open_descriptors() == before

    run.__name__, run.__doc__ = case.__name__, case.__doc__
    return every_loop(run)


async def received(pair: Pair) -> tuple[bytes, int]:
    """Return the next message, and how many descriptors came with it."""
    data, fds = await pair.own.receive()
    close_all(fds)
    return data, len(fds)


# -- receiving -----------------------------------------------------------------


@on_a_pair
async def test_each_message_has_its_own_descriptors(pair: Pair) -> None:
    """Several lie in the socket at once; the kernel would give a descriptor to whoever reads past it."""
    pair.put(FEATURES)
    pair.put(KICK, 1)
    pair.put(OWNER)
    pair.put(KICK, 2)

    assert [await received(pair) for _ in range(4)] == [(FEATURES, 0), (KICK, 1), (OWNER, 0), (KICK, 2)]


@on_a_pair
async def test_a_message_may_come_in_any_pieces(pair: Pair) -> None:
    for cut in range(1, len(KICK)):
        pair.put(KICK[:cut], 1)
        pair.put(KICK[cut:])

        assert await received(pair) == (KICK, 1)


@on_a_pair
async def test_a_cancelled_receive_loses_nothing(pair: Pair) -> None:
    pair.put(KICK[:5], 1)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pair.own.receive)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    pair.put(KICK[5:])

    assert await received(pair) == (KICK, 1)


@on_a_pair
async def test_the_end_is_said(pair: Pair) -> None:
    pair.put(KICK[:5], 1)
    pair.raw.close()

    with pytest.raises(PeerLeft, match="the peer is gone: it closed the connection"):
        await pair.own.receive()


@on_a_pair
async def test_more_descriptors_than_may_come_are_refused(pair: Pair) -> None:
    pair.put(KICK, vhost_user.DESCRIPTOR_LIMIT + 1)

    with pytest.raises(PeerBroke, match="more than 8 descriptors"):
        await pair.own.receive()


@on_a_pair
async def test_descriptors_add_up_over_the_pieces_of_one_message(pair: Pair) -> None:
    pair.put(KICK[:4], vhost_user.DESCRIPTOR_LIMIT)
    pair.put(KICK[4:], 1)

    with pytest.raises(PeerBroke, match="more than 8 descriptors"):
        await pair.own.receive()


@every_loop
async def test_where_no_descriptors_come_all_that_is_there_is_read_at_once() -> None:
    before = open_descriptors()
    with ExitStack() as stack:
        pair = Pair(stack, descriptor_limit=0)
        pair.put((FEATURES + OWNER) * 100 + KICK[:5])
        assert [await received(pair) for _ in range(200)] == [(FEATURES, 0), (OWNER, 0)] * 100
        pair.put(KICK[5:])
        assert await received(pair) == (KICK, 0)

        pair.put(OWNER, 1)
        with pytest.raises(PeerBroke, match="more than 0 descriptors"):
            await received(pair)
    assert open_descriptors() == before


@on_a_pair
async def test_a_header_that_cannot_be_is_refused(pair: Pair) -> None:
    pair.put(bytes(12))

    with pytest.raises(AbiError):
        await pair.own.receive()


# -- sending -------------------------------------------------------------------


@on_a_pair
async def test_what_is_put_leaves_in_order(pair: Pair) -> None:
    """Also what the socket does not take at once, and with its descriptors, which may be closed meanwhile."""
    random = Random(1)  # noqa: S311 - a script, no secret
    wanted, came = b"", b""
    total = count = 0
    pair.raw.setblocking(False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pair.own.pump)
        for _ in range(4000):
            data = FEATURES if random.random() < 0.9 else KICK
            fd = [os.dup(pair.fds[0])] if data is KICK else []
            pair.own.put(data, fd)
            close_all(fd)
            wanted += data
            total += len(fd)
        while len(came) < len(wanted):
            try:
                data, fds, _, _ = socket.recv_fds(pair.raw, 4096, 8)
            except BlockingIOError:
                await anyio.wait_readable(pair.raw)
                continue
            came += data
            count += len(fds)
            close_all(fds)
        tasks.cancel_scope.cancel()

    assert (came, count) == (wanted, total)


@on_a_pair
async def test_who_reads_nothing_is_given_up(pair: Pair) -> None:
    def put_without_end() -> None:
        for _ in range(2 * OUTGOING_LIMIT // len(OWNER)):
            pair.own.put(OWNER)

    pair.put(FEATURES)  # what the peer says can be read all the same
    with pytest.raises(PeerLeft, match=f"it has not read the last {OUTGOING_LIMIT // len(OWNER) * len(OWNER)} bytes"):
        put_without_end()
    assert await received(pair) == (FEATURES, 0)


@on_a_pair
async def test_nothing_can_be_put_after_the_end(pair: Pair) -> None:
    pair.raw.close()

    with pytest.raises(PeerLeft):
        pair.own.put(OWNER)


@on_a_pair
async def test_a_peer_that_never_pauses_does_not_keep_the_loop_to_itself(pair: Pair) -> None:
    """Somebody else has his turn before all of it is read."""
    pair.put(OWNER * 1000)
    turned = anyio.Event()

    async def turn() -> None:
        turned.set()

    count = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turn)
        while not turned.is_set():
            await pair.own.receive()
            count += 1
    assert count < 1000
