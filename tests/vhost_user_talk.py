"""Front ends and back ends of vhost-user, as tests play them: messages are made and read with `struct` alone."""

import os
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("=III")

RAM: Final = 0x10_0000
"""Bytes of a front end's memory."""

BASE: Final = 0x7F00_0000_0000
"""Where it is in the front end's process."""

NEED_REPLY: Final = 9
PLAIN: Final = 1


class Said(NamedTuple):
    """One message.

    Attributes:
        data: Its bytes.
        files: How many descriptors go with it.
    """

    data: bytes
    files: int = 0

    @property
    def request(self) -> int:
        """What it asks."""
        return int(HEADER.unpack_from(self.data)[0])

    @property
    def needs_reply(self) -> bool:
        """Whether the back end answers."""
        return bool(HEADER.unpack_from(self.data)[1] & 8)


def message(request: int, body: bytes = b"", flags: int = PLAIN, files: int = 0) -> Said:
    """Return a message."""
    return Said(HEADER.pack(request, flags, len(body)) + body, files)


def iotlb(kind: int, iova: int, size: int = 0x1000, uaddr: int = BASE, perm: int = 3, flags: int = NEED_REPLY) -> Said:
    """Return an IOTLB_MSG of a front end."""
    return message(22, struct.pack("=QQQBB6x", iova, size, uaddr, perm, kind), flags)


def update(iova: int, size: int = 0x1000, uaddr: int = BASE, perm: int = 3) -> Said:
    """Return an UPDATE."""
    return iotlb(2, iova, size, uaddr, perm)


def invalidate(iova: int, size: int = 0x1000) -> Said:
    """Return an INVALIDATE; what means nothing in it is not zero."""
    return iotlb(3, iova, size, 0xDEAD, 0x77)


def miss(iova: int) -> Said:
    """Return a MISS of a back end."""
    return message(1, struct.pack("=QQQBB6x", iova, 0, 0, 1, 1), NEED_REPLY)


def table(*regions: tuple[int, int, int, int]) -> Said:
    """Return a SET_MEM_TABLE of regions: guest address, size, address of the front end, offset in the file."""
    body = struct.pack("=II", len(regions), 0) + b"".join(struct.pack("=QQQQ", *region) for region in regions)
    return message(5, body, NEED_REPLY, len(regions))


def ram_table() -> Said:
    """Return the memory table of a front end with one region."""
    return table((0, RAM, BASE, 0))


def reply(request: int, value: int = 0) -> bytes:
    """Return an answer."""
    return HEADER.pack(request, 5, 8) + struct.pack("=Q", value)


def features(value: int) -> Said:
    """Return a SET_FEATURES."""
    return message(2, struct.pack("=Q", value))


def protocol_features(value: int) -> Said:
    """Return a SET_PROTOCOL_FEATURES."""
    return message(16, struct.pack("=Q", value))


def ring(request: int, index: int, number: int = 0, flags: int = PLAIN, files: int = 0) -> Said:
    """Return a message about a ring; the number of those that come with a descriptor is the index, in 64 bits."""
    return message(request, struct.pack("=II", index, number), flags, files)


KICK, CALL, GET_BASE = 12, 13, 11


def conversation(chance: random.Random, length: int = 40) -> list[Said]:
    """Return what some front end might say: valid, in any order, with the descriptors that belong to it."""
    page = 0x1000
    makers: list[Callable[[], Said]] = [
        lambda: update(chance.randrange(8) * page, chance.randrange(1, 4) * page, BASE + chance.randrange(16) * page),
        lambda: update(chance.randrange(8) * page, page, chance.choice([BASE - page, BASE + RAM, BASE + RAM - page])),
        lambda: update(chance.randrange(8) * page, perm=chance.randrange(4)),
        lambda: invalidate(chance.randrange(8) * page, chance.randrange(1, 4) * page),
        lambda: invalidate(chance.randrange(8) * page, chance.choice([0, page, 2**63])),
        lambda: ring(KICK, chance.randrange(2), files=1),
        lambda: ring(CALL, 0x100 + chance.randrange(2)),
        lambda: ring(GET_BASE, chance.randrange(2)),
        ram_table,
        lambda: table((0, RAM // 2, BASE, RAM // 2), (RAM, RAM // 2, BASE + RAM, 0)),
        lambda: message(15),
        lambda: message(40, flags=chance.choice([PLAIN, NEED_REPLY])),
        lambda: message(99, chance.randbytes(chance.randrange(60)), files=chance.randrange(3)),
        lambda: message(34),
    ]  # fmt: skip
    weights = [8, 2, 2, 8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    return [make() for make in chance.choices(makers, weights, k=length)]


def memfd(size: int = RAM) -> int:
    """Return a descriptor of new memory."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return fd


def inode(fd: int) -> int:
    """Return what tells a file from others."""
    return os.fstat(fd).st_ino


class Talker:
    """One end of a connection; it owns the socket.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        self.sock = sock

    def __enter__(self) -> "Talker":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def say(self, said: Said | bytes, *fds: int) -> None:
        """Send a message with descriptors, which are closed here."""
        socket.send_fds(self.sock, [said.data if isinstance(said, Said) else said], list(fds))
        for fd in fds:
            os.close(fd)

    def hear(self) -> tuple[bytes, list[int]]:
        """Return the next message and its descriptors, as programs read it: the header first; b"" at the end.

        They are the caller's.
        """
        data, fds = self._some(HEADER.size)
        if len(data) == HEADER.size:
            rest, more = self._some(HEADER.unpack(data)[2])
            data, fds = data + rest, fds + more
        return data, fds

    def hear_data(self) -> bytes:
        """Return the next message, which has no descriptors."""
        data, fds = self.hear()
        assert not fds
        return data

    def ask(self, said: Said, *fds: int) -> bytes:
        """Send a message, and return the answer."""
        self.say(said, *fds)
        return self.hear_data()

    def gone(self) -> bool:
        """Say whether the other end has left; what it said before is passed over."""
        with suppress(ConnectionResetError):
            while self.sock.recv(1 << 16):
                pass
        return True

    def _some(self, size: int) -> tuple[bytes, list[int]]:
        data, fds = b"", list[int]()
        while len(data) < size:
            part, came, _, _ = socket.recv_fds(self.sock, size - len(data), 16)
            if not part:
                break
            data += part
            fds += came
        return data, fds
