"""A front end in plain code: blocking sockets, one page at a time, and nothing in between.

What the bridge does is measured beside it.
"""

import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from iommubus.abi.vhost import VringFlags
from iommubus.abi.vhost_user import (
    HEADER,
    NO_DESCRIPTOR,
    U64,
    Body,
    Channel,
    Empty,
    Features,
    Flags,
    IotlbMsg,
    IotlbType,
    MemTable,
    Message,
    ProtocolFeatures,
    Region,
    Request,
    VringAddr,
    VringFd,
    VringState,
    decode,
    encode,
)
from iommubus.bridges.vhost_user_frontend import Ring

UADDR: Final = 1 << 40
PATIENCE: Final = 10.0


class Plain:
    """A front end with one memory, which addresses lead into as they are told.

    Args:
        path: Where the back end listens.
        memory: The memory's descriptor.
        size: Its length in bytes.
    """

    def __init__(self, path: Path, memory: int, size: int) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(str(path))
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(PATIENCE)
        wanted = Features.PROTOCOL_FEATURES | Features.ACCESS_PLATFORM | Features.VERSION_1
        self.ask(Request.GET_FEATURES, Empty(), own=True)
        self.ask(Request.GET_PROTOCOL_FEATURES, Empty(), own=True)
        protocol = ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ
        self._sock.sendall(encode(Message(Request.SET_PROTOCOL_FEATURES, U64(int(protocol)))))
        self.ask(Request.SET_OWNER, Empty())
        self.ask(Request.SET_FEATURES, U64(int(wanted)))
        with theirs:
            self.ask(Request.SET_BACKEND_REQ_FD, Empty(), [theirs.fileno()])
        self.ask(Request.SET_MEM_TABLE, MemTable((Region(0, size, UADDR, 0),)), [memory])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._sock.close()
        self._ours.close()

    def serve(self, rings: Sequence[Ring], size: int) -> None:
        """Have the back end serve rings, in the first ``size`` bytes of the space and of the memory."""
        for ring in rings:
            self.ask(Request.SET_VRING_NUM, VringState(ring.index, ring.size))
            self.ask(Request.SET_VRING_BASE, VringState(ring.index, 0))
            addresses = VringAddr(ring.index, VringFlags(0), ring.desc, ring.used, ring.avail, 0)
            self.ask(Request.SET_VRING_ADDR, addresses)
            self.ask(Request.SET_VRING_CALL, VringFd(ring.index | NO_DESCRIPTOR))
            self.ask(Request.SET_VRING_KICK, VringFd(ring.index | NO_DESCRIPTOR))
            self.ask(Request.SET_VRING_ENABLE, VringState(ring.index, 1))
        while select.select([self._ours], [], [], 0.5)[0]:
            self.missed()
            self.update(0, size, 0)

    def missed(self) -> int:
        """Wait for a MISS, and return its address."""
        body = self._receive(self._ours, Channel.BACK_END).body
        assert isinstance(body, IotlbMsg)
        return body.iova

    def update(self, iova: int, size: int, offset: int) -> None:
        """Have an address lead to an offset of the memory."""
        self.ask(Request.IOTLB_MSG, IotlbMsg(iova, size, UADDR + offset, 3, IotlbType.UPDATE))

    def invalidate(self, iova: int, size: int) -> None:
        """Have it lead nowhere."""
        self.ask(Request.IOTLB_MSG, IotlbMsg(iova, size, 0, 0, IotlbType.INVALIDATE))

    def ask(self, request: Request, body: Body, fds: Sequence[int] = (), *, own: bool = False) -> Message:
        """Ask something, and wait for the answer, which has to be a good one."""
        message = Message(request, body, Flags(0) if own else Flags.NEED_REPLY)
        socket.send_fds(self._sock, [encode(message)], fds) if fds else self._sock.sendall(encode(message))
        reply = self._receive(self._sock, Channel.FRONT_END)
        assert reply.request == request
        assert own or reply.body == U64(0), f"{message} was refused: {reply}"
        return reply

    def _receive(self, sock: socket.socket, channel: Channel) -> Message:
        head = sock.recv(HEADER.size, socket.MSG_WAITALL)
        size = int.from_bytes(head[8:12], "little")
        return decode(head + (sock.recv(size, socket.MSG_WAITALL) if size else b""), channel)


def memory(size: int) -> int:
    """Return a descriptor of new memory."""
    fd = os.memfd_create("plain")
    os.ftruncate(fd, size)
    return fd
