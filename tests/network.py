"""Connections in memory, in a virtual loop, as bad as connections are.

Each direction keeps its order.  What is sent is cut in pieces and comes late; a
link can be stalled, and it can be cut: then each end learns of it at a time of its
own, and what was on its way may be lost.  A process that is killed loses what its
transport had not given to the system yet; what had, arrives, and then the end.

The transports do what those of asyncio do on a socket, in the context of the
process whose they are: one that is stopped reads and writes nothing meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from random import Random
from typing import Final, NamedTuple, Protocol, TypeVar

import anyio

from tests.virtual import PROCESS, VirtualLoop, VirtualProcess

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)

HIGH_WATER: Final = 65_536
"""Bytes in a transport above which its protocol is told to pause, as in asyncio."""

CUTS: Final = 8
"""Most pieces of what is sent at once: a byte at a time would make a long message cost thousands of callbacks."""


class Quality(NamedTuple):
    """How bad a link is, in one direction.

    Attributes:
        delay: Longest time that a piece takes, in seconds.
        piece: Largest piece, in bytes; 0 for no pieces.
        window: Most bytes on their way and not read.
        learn: Longest time until an end learns that the link was cut, in seconds.
    """

    delay: float = 0.001
    piece: int = 0
    window: int = 65_536
    learn: float = 1.0


class Accept(Protocol):
    """Makes what serves a connection."""

    def __call__(self, peer: VirtualProcess | None, /) -> asyncio.Protocol:
        """Return the protocol of a connection that a process made."""
        ...


class Network:
    """Where processes of one loop meet.

    Args:
        loop: The loop.
        dice: Decides what happens to each piece.

    Attributes:
        quality: How bad the links are that are made from now on.
        links: Those on which something can still happen.
    """

    def __init__(self, loop: VirtualLoop, dice: Random, quality: Quality | None = None) -> None:
        self.loop = loop
        self.dice = dice
        self.quality = quality or Quality()
        self.links: dict[Link, None] = {}
        self._listeners: dict[str, tuple[Accept, VirtualProcess | None]] = {}

    def listen(self, address: str, accept: Accept) -> None:
        """Serve the connections to an address, in the process that calls this, until that is killed."""
        process = PROCESS.get()
        self._listeners[address] = accept, process
        if process is not None:
            process.at_end.append(lambda: self.stop_listening(address, accept))

    def stop_listening(self, address: str, accept: Accept | None = None) -> None:
        """Serve no new connections at an address."""
        if address in self._listeners and accept in {None, self._listeners[address][0]}:
            del self._listeners[address]

    async def connect(self, address: str, make: Callable[[], ProtocolT]) -> tuple["VirtualTransport", ProtocolT]:
        """Connect the process that calls this, as `asyncio.loop.create_connection` does.

        Raises:
            ConnectionRefusedError: Nobody listens there.
        """
        await anyio.sleep(self.dice.uniform(0, self.quality.delay))
        if address not in self._listeners:
            raise ConnectionRefusedError(111, f"nobody listens at {address}")
        accept, server = self._listeners[address]
        client = PROCESS.get()
        link = Link(self, client, server)
        there, here = link.ends
        there.call(lambda: there.accept(lambda: accept(client)))
        protocol = make()
        here.begin(protocol)
        return here, protocol

    def later(self, delay: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        """Have the system do something, which no process can hold up."""
        return self.loop.call_later(delay, call, context=Context())


class Link:
    """One connection.

    Attributes:
        ends: The transport of who accepted, and of who connected.
        pipes: What the one sends, and what the other.
        cut: Whether it was cut.
    """

    def __init__(self, network: Network, client: VirtualProcess | None, server: VirtualProcess | None) -> None:
        self.network = network
        self.cut = False
        self._lessons: list[asyncio.TimerHandle] = []
        self.pipes = Pipe(self), Pipe(self)
        self.ends = (
            VirtualTransport(self, *self.pipes, server),
            VirtualTransport(self, self.pipes[1], self.pipes[0], client),
        )
        for pipe, sender, receiver in zip(self.pipes, self.ends, self.ends[::-1], strict=True):
            pipe.sender, pipe.receiver = sender, receiver
        network.links[self] = None

    def stall(self, seconds: float) -> None:
        """Let nothing arrive for a while."""
        for pipe in self.pipes:
            pipe.stall(seconds)

    def cut_off(self) -> None:
        """Cut it: some of what is on its way is lost, and each end learns of it sooner or later."""
        if self.cut:
            return
        self.cut = True
        dice, quality = self.network.dice, self.network.quality
        for pipe in self.pipes:
            pipe.lose(dice.randint(0, pipe.on_its_way))
        self._lessons = [self.network.later(dice.uniform(0, quality.learn), end.learn_of_cut) for end in self.ends]

    def forget(self) -> None:
        """Leave the network once both ends are closed."""
        if all(end.closed for end in self.ends):
            for pipe in self.pipes:
                pipe.forget()
            for lesson in self._lessons:
                lesson.cancel()
            self.network.links.pop(self, None)


class Pipe:
    """One direction of a link: what the system has of what was sent.

    Attributes:
        sender: The transport that sends.
        receiver: The transport that receives.
        arrived: What can be read.
        end: What comes behind that: nothing yet, the end, or an error.
    """

    sender: "VirtualTransport"
    receiver: "VirtualTransport"

    def __init__(self, link: Link) -> None:
        self.arrived = bytearray()
        self.end: Exception | bool = False
        self._link = link
        self._flying: deque[tuple[float, bytes | Exception | bool]] = deque()
        self._bytes = 0
        self._free = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def room(self) -> int:
        """How many bytes the system takes."""
        return max(0, self._link.network.quality.window - self._bytes - len(self.arrived))

    @property
    def on_its_way(self) -> int:
        """How many pieces there are that have not arrived."""
        return len(self._flying)

    def put(self, data: bytes) -> None:
        """Send bytes."""
        network = self._link.network
        if self._link.cut:
            return
        if network.quality.piece:
            for piece in pieces(data, network.quality.piece, network.dice):
                self._put(piece)
        else:
            self._put(data)

    def finish(self, end: Exception | bool = True) -> None:
        """Say that nothing more comes."""
        if not self._link.cut:
            self._put(end)

    def stall(self, seconds: float) -> None:
        """Let nothing arrive for a while."""
        self._free = max(self._free, self._link.network.loop.time() + seconds)

    def lose(self, count: int) -> None:
        """Lose the last pieces that are on their way."""
        for _ in range(count):
            self._count(self._flying.pop()[1], -1)

    def forget(self) -> None:
        """Let nothing arrive any more."""
        self.lose(len(self._flying))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _put(self, piece: bytes | Exception | bool) -> None:
        network = self._link.network
        when = network.loop.time() + network.dice.uniform(0, network.quality.delay)
        if self._flying:
            when = max(when, self._flying[-1][0])
        self._flying.append((when, piece))
        self._count(piece, 1)
        self._wait()

    def _count(self, piece: bytes | Exception | bool, sign: int) -> None:
        if isinstance(piece, bytes):
            self._bytes += sign * len(piece)

    def _wait(self) -> None:
        if self._timer is None and self._flying:
            network = self._link.network
            when = max(self._flying[0][0], self._free)
            self._timer = network.later(max(0.0, when - network.loop.time()), self._arrive)

    def _arrive(self) -> None:
        now = self._link.network.loop.time()
        self._timer = None
        while self._flying and max(self._flying[0][0], self._free) <= now:
            _, piece = self._flying.popleft()
            self._count(piece, -1)
            if isinstance(piece, bytes):
                self.arrived += piece
            else:
                self.end = piece
        self._wait()
        self.receiver.read_soon()


def pieces(data: bytes, most: int, dice: Random) -> Iterable[bytes]:
    """Cut bytes in a few pieces; how long they are is up to the dice, but for the last one."""
    for _ in range(CUTS):
        if not data:
            return
        size = dice.randint(1, most)
        yield data[:size]
        data = data[size:]
    if data:
        yield data


class VirtualTransport(asyncio.Transport):
    """One end of a link, to its protocol.

    Attributes:
        closed: Whether it is closed.
    """

    def __init__(self, link: Link, out: Pipe, into: Pipe, process: VirtualProcess | None) -> None:
        super().__init__(extra={"peername": None, "sockname": None})
        self.closed = False
        self._link = link
        self._out = out
        self._in = into
        self._process = process
        self._context = Context() if process is None else process.context
        self._protocol: asyncio.Protocol | None = None
        self._buffer = bytearray()
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._pausing = False  # the protocol, which is not to write
        self._paused = False  # reading
        self._reading = False  # soon
        self._closing = False
        self._eof = False  # was written
        self._told = False  # that the connection is lost
        if process is not None:
            process.at_end.append(self._kill)

    def call(self, act: Callable[[], object]) -> None:
        """Have the process do something."""
        self._link.network.loop.call_soon(act, context=self._context)

    def accept(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Begin, if it is not closed yet."""
        if not self.closed:
            self.begin(make())

    def begin(self, protocol: asyncio.Protocol) -> None:
        """Give it the protocol, and say that it is connected."""
        self._protocol = protocol
        protocol.connection_made(self)
        self.read_soon()

    # -- what a protocol uses -----------------------------------------------------

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return whom it tells."""
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another one from now on."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Say whether it is closed, or will be once what was written has left."""
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes; they wait here while the system takes no more."""
        assert not self._eof, "written behind the end"
        if self.closed or not data:
            return
        self._buffer += data
        self._push()
        if len(self._buffer) > self._high and not self._pausing:
            self._pausing = True
            self.get_protocol().pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write bytes one after the other."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Say that it can."""
        return True

    def write_eof(self) -> None:
        """Say behind what was written that nothing more comes."""
        self._eof = True
        self._push()

    def close(self) -> None:
        """Close it once what was written has left."""
        if not self._closing:
            self._closing = True
            self._push()
        elif self.closed:
            self._tell(None)

    def abort(self) -> None:
        """Close it now; what was not taken by the system yet is lost."""
        if self.closed:
            self._tell(None)
        else:
            self._lose(None)

    def pause_reading(self) -> None:
        """Read nothing until told to."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read again."""
        self._paused = False
        self.read_soon()

    def is_reading(self) -> bool:
        """Say whether it would."""
        return not self._paused and not self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when its protocol pauses, and when it goes on."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return when its protocol goes on, and when it pauses."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait here."""
        return len(self._buffer)

    # -- what the system does -------------------------------------------------------

    def read_soon(self) -> None:
        """Have the process read what has arrived."""
        if not self._reading and not self.closed and (self._in.arrived or self._in.end):
            self._reading = True
            self.call(self._read)

    def learn_of_cut(self) -> None:
        """Have the process see that the link was cut."""
        if not self.closed:
            self._in.end = ConnectionResetError(104, "the link was cut")
            self.call(lambda: self._lose(self._error()))

    def _error(self) -> Exception | None:
        return self._in.end if isinstance(self._in.end, Exception) else None

    def _read(self) -> None:
        self._reading = False
        if self._paused or self._closing or self._protocol is None:
            return
        if self._in.arrived:
            data = bytes(self._in.arrived)
            self._in.arrived.clear()
            self._in.sender.write_soon()
            self._protocol.data_received(data)
            self.read_soon()
        elif isinstance(self._in.end, Exception):
            self._lose(self._in.end)
        elif self._in.end and not self._protocol.eof_received():
            self.close()

    def write_soon(self) -> None:
        """Have the process write what waits, now that there is room."""
        if self._buffer and not self.closed:
            self.call(self._push)

    def _push(self) -> None:
        """Give the system what it takes; then do what was to be done behind it."""
        if self.closed:
            return
        if self._buffer and self._out.receiver.closed:
            self._lose(BrokenPipeError(32, "the other end is closed"))
            return
        taken = bytes(self._buffer[: self._out.room])
        if taken:
            del self._buffer[: len(taken)]
            self._out.put(taken)
        if self._pausing and len(self._buffer) <= self._low and self._protocol is not None:
            self._pausing = False
            self._protocol.resume_writing()
        if self._buffer:
            return
        if self._closing:
            self._lose(None)
        elif self._eof:
            self._out.finish()

    def _lose(self, error: Exception | None) -> None:
        """Close it, and tell the protocol."""
        if not self.closed:
            self._shut()
            self._tell(error)

    def _tell(self, error: Exception | None) -> None:
        """Tell the protocol, once.  In a killed process nobody hears it, until the dead are buried."""
        if self._protocol is not None and not self._told:
            self._told = True
            protocol = self._protocol
            self.call(lambda: protocol.connection_lost(error))

    def _kill(self) -> None:
        """Close it as the system does for a process that has ended."""
        if not self.closed:
            self._shut()

    def _shut(self) -> None:
        self._closing = self.closed = True
        reset = ConnectionResetError(104, "the other end closed it and left something unread")
        end = reset if self._in.arrived else True
        self._buffer.clear()
        self._in.arrived.clear()
        self._out.finish(end)
        self._link.forget()
