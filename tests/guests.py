"""A scripted front end of vhost-user and the guest behind it: memory, an IOMMU's page table, and drivers of rings.

The guest's physical memory is a memfd; its IOMMU leads pages of I/O virtual addresses
into it.  Everything that is said on the two channels is what QEMU says, unless a test
says otherwise.
"""

import mmap
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from msgspec import Struct

from iommubus.abi.vhost import VringFlags
from iommubus.abi.vhost_user import (
    DESCRIPTOR_LIMIT,
    U64,
    BackendRequest,
    Body,
    Channel,
    Empty,
    Features,
    Flags,
    IotlbMsg,
    IotlbType,
    MemTable,
    Message,
    Opaque,
    ProtocolFeatures,
    Region,
    Request,
    VringAddr,
    VringFd,
    VringState,
    acknowledge,
    decode,
    encode,
    splitter,
)
from iommubus.bridging.messages import MessageSocket
from iommubus.bridging.vring import Ring
from iommubus.caps import Perm
from iommubus.errors import PeerLeft
from iommubus.transport.descriptors import close_all

PAGE: Final = 0x1000
PAGES: Final = 64
"""Pages of a guest's memory."""

USER: Final = 0x7F00_0000_0000
"""Where the front end has the guest's memory."""

FEATURES: Final = int(Features.PROTOCOL_FEATURES | Features.VERSION_1 | Features.ACCESS_PLATFORM)
PROTOCOL: Final = int(ProtocolFeatures.MQ | ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ)

PLAIN: Final = Flags(0)
"""The flags of a request that needs no acknowledgement."""


class Expected(Struct, eq=False):
    """A reply that has not come yet."""

    came: anyio.Event
    body: Body | None = None


class Guest:
    """A front end that is connected, and its guest.

    Args:
        path: Where the back end listens.

    Attributes:
        page_table: Where its IOMMU leads each page: an offset in memory, and what is allowed.
        asked: The misses that came: address, and access.
        memory: The bytes of its memory.
        answering: Whether misses are answered as QEMU does; a test that sets it to false answers by itself.
        left: Set when the back end has closed the connection.
        owned: Descriptors that are closed at the end.
    """

    def __init__(self, path: str) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        self.main = MessageSocket(sock, splitter(), descriptor_limit=DESCRIPTOR_LIMIT, peer="the back end")
        own, self._theirs = socket.socketpair()
        self.channel = MessageSocket(own, splitter(), descriptor_limit=DESCRIPTOR_LIMIT, peer="the back end")
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, PAGES * PAGE)
        self.memory = mmap.mmap(self.fd, PAGES * PAGE)
        self.page_table: dict[int, tuple[int, Perm]] = {}
        self.asked: list[tuple[int, Perm]] = []
        self.answering = True
        self.left = anyio.Event()
        self.owned: list[int] = []
        self._expected: deque[Expected] = deque()
        self._asked_more = anyio.Event()

    # -- the main channel --------------------------------------------------------

    def say(self, request: int, body: Body | None = None, fds: Sequence[int] = (), *, flags: Flags = PLAIN) -> None:
        """Send a request that has no reply."""
        self.main.put(encode(Message(request, Empty() if body is None else body, flags)), fds)

    def expect(self) -> Expected:
        """Take it that one more reply comes, behind those that were expected before."""
        expected = Expected(anyio.Event())
        self._expected.append(expected)
        return expected

    async def ask(self, request: int, body: Body | None = None) -> Any:
        """Send a request that has a reply of its own, and return that."""
        expected = self.expect()
        self.say(request, body)
        await expected.came.wait()
        return expected.body

    def tell(self, request: int, body: Body | None = None, fds: Sequence[int] = ()) -> Expected:
        """Send a request that is to be acknowledged."""
        expected = self.expect()
        self.say(request, body, fds, flags=Flags.NEED_REPLY)
        return expected

    async def told(self, request: int, body: Body | None = None, fds: Sequence[int] = ()) -> int:
        """Send a request, and return the status with which it was acknowledged."""
        return await status(self.tell(request, body, fds))

    async def run(self) -> None:
        """Take replies, until the back end closes the connection."""
        try:
            while True:
                data, fds = await self.main.receive()
                assert not fds
                message = decode(data)
                assert message.flags & Flags.REPLY, message
                expected = self._expected.popleft()
                expected.body = message.body
                expected.came.set()
        except (PeerLeft, anyio.ClosedResourceError):
            self.left.set()
            for expected in self._expected:  # whoever waits is told that nothing came
                expected.came.set()

    # -- its memory and its IOMMU ------------------------------------------------

    def region(self, first: int = 0, pages: int = PAGES) -> Region:
        """Return a region of its memory, as a memory table has it."""
        return Region(first * PAGE, pages * PAGE, USER + first * PAGE, first * PAGE)

    async def set_memory(self, *regions: Region) -> int:
        """Send a memory table, by default of all its memory, and return the status."""
        table = regions or (self.region(),)
        return await self.told(Request.SET_MEM_TABLE, MemTable(table), [self.fd] * len(table))

    def map(self, iova: int, offset: int, perm: Perm = Perm.RW, pages: int = 1) -> None:
        """Map pages in its IOMMU; nobody is told."""
        for page in range(0, pages * PAGE, PAGE):
            self.page_table[iova + page] = offset + page, perm

    def unmap(self, iova: int, pages: int = 1) -> Expected:
        """Unmap pages, and tell the back end; the guest goes on once that was acknowledged."""
        for page in range(0, pages * PAGE, PAGE):
            self.page_table.pop(iova + page, None)
        return self.invalidate(iova, pages * PAGE)

    def invalidate(self, iova: int, size: int) -> Expected:
        """Send an INVALIDATE."""
        return self.tell(Request.IOTLB_MSG, IotlbMsg(iova, size, 0xDEAD_BEEF, 0x77, IotlbType.INVALIDATE))

    def update(self, iova: int, perm: Perm | None = None) -> Expected:
        """Send an UPDATE of the page of an address, as the page table has it."""
        offset, allowed = self.page_table[iova & -PAGE]
        body = IotlbMsg(iova & -PAGE, PAGE, USER + offset, int(allowed if perm is None else perm), IotlbType.UPDATE)
        return self.tell(Request.IOTLB_MSG, body)

    # -- the back-end channel ----------------------------------------------------

    async def open_channel(self) -> int:
        """Give the back end its channel."""
        status = await self.told(Request.SET_BACKEND_REQ_FD, None, [self._theirs.fileno()])
        self._theirs.close()
        return status

    async def answer_misses(self) -> None:
        """Take misses, and answer them: an UPDATE, its acknowledgement, and then the reply."""
        try:
            while True:
                data, fds = await self.channel.receive()
                assert not fds
                message = decode(data, Channel.BACK_END)
                assert message.request == BackendRequest.IOTLB_MSG
                assert isinstance(message.body, IotlbMsg)
                assert message.body.type is IotlbType.MISS
                self.asked.append((message.body.iova, Perm(message.body.perm)))
                asked, self._asked_more = self._asked_more, anyio.Event()
                asked.set()
                if self.answering:
                    await self._answer(message, message.body)
        except (PeerLeft, anyio.ClosedResourceError):
            return

    async def _answer(self, message: Message, miss: IotlbMsg) -> None:
        offset, allowed = self.page_table.get(miss.iova & -PAGE, (0, Perm(0)))
        found = bool(allowed) and not miss.perm & ~int(allowed)
        if found and not message.flags & Flags.NEED_REPLY:
            self.say(
                Request.IOTLB_MSG,
                IotlbMsg(miss.iova & -PAGE, PAGE, USER + offset, int(allowed), IotlbType.UPDATE),
            )
        elif found:
            assert await status(self.update(miss.iova)) == 0
        if message.flags & Flags.NEED_REPLY:
            self.reply_to_miss(0 if found else 1)

    def reply_to_miss(self, status: int = 0) -> None:
        """Reply to the miss that came first, of those that were not replied to."""
        message = Message(BackendRequest.IOTLB_MSG, Empty(), PLAIN, Channel.BACK_END)
        self.channel.put(encode(acknowledge(message, status)))

    async def wait_asked(self, count: int) -> None:
        """Wait until so many misses have come."""
        while len(self.asked) < count:
            await self._asked_more.wait()

    # -- all of it -----------------------------------------------------------------

    async def negotiate(self, features: int = FEATURES, protocol: int = PROTOCOL) -> None:
        """Agree with the back end, as QEMU does."""
        offered = (await self.ask(Request.GET_FEATURES)).value
        assert not features & ~offered
        offered = (await self.ask(Request.GET_PROTOCOL_FEATURES)).value
        assert not protocol & ~offered
        self.say(Request.SET_PROTOCOL_FEATURES, U64(protocol))
        self.say(Request.SET_OWNER)
        if protocol & ProtocolFeatures.BACKEND_REQ:
            flags = Flags.NEED_REPLY if protocol & ProtocolFeatures.REPLY_ACK else PLAIN
            expected = self.expect() if flags else None
            self.say(Request.SET_BACKEND_REQ_FD, None, [self._theirs.fileno()], flags=flags)
            self._theirs.close()
            if expected is not None:
                assert await status(expected) == 0
        self.say(Request.SET_FEATURES, U64(features))

    async def begin(self, features: int = FEATURES, protocol: int = PROTOCOL) -> None:
        """Agree, and give the memory table."""
        await self.negotiate(features, protocol)
        if protocol & ProtocolFeatures.REPLY_ACK:
            assert await self.set_memory() == 0
        else:
            self.say(Request.SET_MEM_TABLE, MemTable((self.region(),)), [self.fd])
            await self.ask(Request.GET_QUEUE_NUM)  # all before was handled

    def close(self) -> None:
        """Be gone, as a process that was killed is."""
        self.main.close()
        self.channel.close()
        self._theirs.close()

    def release(self) -> None:
        """Close everything that it has."""
        self.close()
        self.memory.close()
        close_all([self.fd, *self.owned])


async def status(expected: Expected) -> int:
    """Wait for an acknowledgement, and return its status."""
    await expected.came.wait()
    if isinstance(expected.body, Opaque):  # of a request that is not known
        return int.from_bytes(expected.body.data, sys.byteorder)
    assert isinstance(expected.body, U64)
    return expected.body.value


@asynccontextmanager
async def guest(path: str) -> AsyncGenerator[Guest]:
    """Give a front end that is connected; it has said nothing yet."""
    here = Guest(path)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.run)
            tasks.start_soon(here.answer_misses)
            yield here
            tasks.cancel_scope.cancel()
    finally:
        here.release()


# -- rings -------------------------------------------------------------------------


class Driver:
    """The driver's side of a ring in a guest's memory.

    Args:
        guest: Whose.
        index: Which ring.
        place: Where in memory it is put: four pages, descriptors, available ring, used ring, and one to spare.
        size: Descriptors.
        iova: Where the IOMMU shows it.

    Attributes:
        ring: Where it is, as the device is told.
    """

    def __init__(self, guest: Guest, index: int, *, place: int, iova: int, size: int = 8) -> None:
        self.guest = guest
        self.ring = Ring(index, size, iova, iova + PAGE, iova + 2 * PAGE)
        self._place = place
        self._available = 0
        self._seen = 0
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        guest.owned += [self.kick_fd, self.call_fd]
        guest.map(iova, place, Perm.RW, pages=3)

    async def start(self, base: int = 0) -> None:
        """Tell the back end of the ring, as QEMU does."""
        ring, say = self.ring, self.guest.say
        say(Request.SET_VRING_NUM, VringState(ring.index, ring.size))
        say(Request.SET_VRING_BASE, VringState(ring.index, base))
        say(Request.SET_VRING_ADDR, VringAddr(ring.index, VringFlags(0), ring.desc, ring.used, ring.avail, 0))
        say(Request.SET_VRING_CALL, VringFd(ring.index), [self.call_fd])
        say(Request.SET_VRING_ENABLE, VringState(ring.index, 1))
        await self.guest.told(Request.SET_VRING_KICK, VringFd(ring.index), [self.kick_fd])

    async def stop(self) -> int:
        """Stop the ring, and return where the device was."""
        answer = await self.guest.ask(Request.GET_VRING_BASE, VringState(self.ring.index, 0))
        assert answer.index == self.ring.index
        return int(answer.num)

    def put(self, offset: int, form: str, *values: int) -> None:
        """Write numbers into the ring's pages."""
        struct.pack_into(form, self.guest.memory, self._place + offset, *values)

    def get(self, offset: int, form: str) -> tuple[int, ...]:
        """Read numbers of them."""
        return struct.unpack_from(form, self.guest.memory, self._place + offset)

    def describe(self, at: int, iova: int, size: int, flags: int = 0, behind: int = 0) -> None:
        """Write a descriptor."""
        self.put(16 * at, "<QIHH", iova, size, flags, behind)

    def offer(self, *heads: int) -> None:
        """Make chains available, and kick."""
        for head in heads:
            self.put(PAGE + 4 + 2 * (self._available % self.ring.size), "<H", head)
            self._available = (self._available + 1) % 0x10000
        self.put(PAGE + 2, "<H", self._available)
        os.eventfd_write(self.kick_fd, 1)

    def send(self, packet: bytes, *, iova: int, place: int, at: int = 0, header: int = 12) -> None:
        """Send a packet, as a network driver does: its header and its bytes in one buffer."""
        data = bytes(header) + packet
        self.guest.memory[place : place + len(data)] = data
        self.describe(at, iova, len(data))
        self.offer(at)

    async def used(self) -> tuple[int, int]:
        """Wait for the next chain that is given back: its first descriptor, and how much was written into it."""
        while self.get(2 * PAGE + 2, "<H")[0] == self._seen:
            await anyio.wait_readable(self.call_fd)
            os.eventfd_read(self.call_fd)
        head, written = self.get(2 * PAGE + 4 + 8 * (self._seen % self.ring.size), "<II")
        self._seen = (self._seen + 1) % 0x10000
        return head, written
