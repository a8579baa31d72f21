"""One connection to a back end, from its first word to the proof that it has stopped."""

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
from msgspec import Struct

from ...abi.vhost_user import U64, Empty, Request, splitter
from ...bridging.messages import MessageSocket
from ...bridging.telling import Lack, Negotiated, Notice, Tell
from ...bus.abc import EventBus, Subscription
from ...caps import Cap
from ...errors import (
    AbiError,
    BadMemory,
    IommubusError,
    NoCredentials,
    PeerBroke,
    PeerGone,
    PeerLeft,
    PeerRefused,
    TranslationFault,
    UnknownMemory,
)
from ...events import Memory
from ...transport.credentials import Process, sender_of
from .agreement import Agreement, agree, check_features
from .answering import IN_FLIGHT, Answering
from .asking import Asking, Ending
from .counts import Counts
from .lending import Lending
from .questions import BACKLOG, Miss, Questions
from .revoking import Revoking
from .rings import USED_INDEX, Ring, resumed, steps
from .stopping import UNSEEN, Stopping

GREETING: Final = 10.0
"""Seconds that a back end has to agree: as many as the bus's daemon has to let a client in."""

GOODBYE: Final = 2.0
"""Seconds that a back end has to stop when the bridge is told to end; after that its
own end is the proof, and the bus waits for it."""

LOOK: Final = 0.1
"""Seconds between two looks whether the addresses of a ring are mapped yet."""


Work = Callable[[], Awaitable[object]]
"""A part of the work, in a task of its own."""


class Terms(Struct, frozen=True):
    """What one connection is for.

    Attributes:
        space: The endpoint that is subscribed to.
        name: What reports call the subscription.
        rings: The rings of the device.
        memories: Those that the back end is given before it asks.
        features: Bits of the device's own features.
        peer: What errors call the back end.
    """

    space: str
    name: str
    rings: Sequence[Ring]
    memories: Sequence[Memory]
    features: int
    peer: str


class Session:
    """A connection.

    Args:
        bus: Where the space is.
        terms: What it is for.
        sock: The connection, of which `ask_for_sender` was asked; this object closes it.
        counts: Where everything is counted.
        tell: Told of what happens.
    """

    def __init__(self, bus: EventBus, terms: Terms, sock: socket.socket, *, counts: Counts, tell: Tell) -> None:
        self._bus = bus
        self._terms = terms
        self._peer = terms.peer
        self._counts = counts
        self._tell = tell
        ours, self._theirs = socket.socketpair()
        self._main = MessageSocket(sock, splitter(), descriptor_limit=0, peer=self._peer)
        self._back = MessageSocket(ours, splitter(), descriptor_limit=0, peer=self._peer)
        self._line = Ending()  # of the connection; nothing can be asked afterwards
        self._asking = Asking(self._main, self._peer, self._line)
        self._over = Ending()  # of the work, which may leave the connection to stop the back end by
        self._stopping = Stopping(self._asking, self._line, self._peer)
        self._given = False
        self._line.then(self._hang_up)

    @property
    def settled(self) -> bool:
        """Whether the back end was given nothing, or is proven stopped."""
        return not self._given or self._stopping.proven

    @property
    def rings(self) -> tuple[Ring, ...]:
        """Its rings as the next back end gets them."""
        return resumed(self._terms.rings, self._stopping.bases)

    async def run(self, started: Callable[[], object]) -> None:
        """Serve the back end until the stream of the space ends.

        Args:
            started: Called when it is registered, and the back end may ask.

        Raises:
            PeerLeft, PeerBroke: The connection is over; the back end is proven stopped.
            Fenced: The subscription was fenced; the same.
            PeerCannot: The back end will not do.
            PeerRefused: It refused a ring or its memory.
        """
        try:
            failure = await self._run(started)
        finally:
            process = self._stopping.process
            if process is not None and self.settled:  # else whoever asks for the proof still needs it
                process.close()
        if failure is not None:
            raise failure

    # -- inside ----------------------------------------------------------------

    async def _run(self, started: Callable[[], object]) -> IommubusError | None:
        """Serve the back end, and return what ended that: out of the group it would come in a group."""
        failure: IommubusError | None = None
        lines = {work: anyio.CancelScope(shield=True) for work in (self._read, self._main.pump, self._back.pump)}
        with self._main, self._back, self._theirs:
            async with anyio.create_task_group() as tasks:
                for work, scope in lines.items():
                    tasks.start_soon(self._hold, work, scope)
                try:
                    await self._serve(await self._agree(), started)
                except IommubusError as reason:
                    failure = reason
                finally:
                    for scope in lines.values():
                        scope.cancel()
        return failure

    async def _read(self) -> None:
        """Take answers, and learn with the first who gives them."""
        self._stopping.process = await self._look()
        await self._asking.read()

    async def _look(self) -> Process | None:
        """Return the back end's process, which need not be the one that listens; `None` if it cannot be seen."""
        try:
            return await sender_of(self._main.sock)
        except NoCredentials:
            return None
        except (PeerGone, OSError) as failure:
            raise PeerLeft(self._peer, str(failure)) from failure

    async def _hold(self, work: Work, scope: anyio.CancelScope) -> None:
        """Keep the connection at work, also when the bridge is cancelled: the back end is still to be stopped."""
        with scope:
            await self._watch(work, self._line)

    async def _watch(self, work: Work, ending: Ending) -> None:
        """Do a part of the work; what keeps it from going on ends something larger."""
        try:
            await work()
        except AbiError as wrong:
            ending.say(PeerBroke(self._peer, str(wrong)))
        except IommubusError as failure:
            ending.say(failure)
        except anyio.ClosedResourceError:  # hung up, for a reason that was said
            return

    def _hang_up(self) -> None:
        self._main.close()
        self._back.close()
        self._over.say(self._line.reason)

    # -- inside: the beginning -------------------------------------------------

    async def _agree(self) -> Agreement:
        with anyio.move_on_after(GREETING):
            agreement = await self._negotiate()
            self._counts.connections += 1
            unseen = () if self._stopping.process is not None else (Lack("SCM_CREDENTIALS", UNSEEN),)
            self._tell(Negotiated(self._peer, agreement.names, (*agreement.lacks, *unseen)))
            return agreement
        raise PeerLeft(self._peer, f"it has agreed to nothing for {GREETING:g} s")

    async def _negotiate(self) -> Agreement:
        ask = self._asking.number
        offered = await ask(Request.GET_FEATURES)
        check_features(self._peer, offered)
        agreement = agree(self._peer, offered, await ask(Request.GET_PROTOCOL_FEATURES), self._terms.features)
        self._asking.tell(Request.SET_PROTOCOL_FEATURES, U64(int(agreement.protocol)))
        await self._insist(Request.SET_OWNER, Empty())
        await self._insist(Request.SET_FEATURES, U64(agreement.features))
        await self._insist(Request.SET_BACKEND_REQ_FD, Empty(), (self._theirs.fileno(),))
        self._theirs.close()
        return agreement

    async def _insist(self, request: Request, body: Empty | U64, fds: tuple[int, ...] = ()) -> None:
        status = await self._asking.number(request, body, fds)
        if status:
            raise PeerRefused(self._peer, request.name, status)

    # -- inside: the middle ----------------------------------------------------

    async def _serve(self, agreement: Agreement, started: Callable[[], object]) -> None:
        slots = await self._asking.number(Request.GET_MAX_MEM_SLOTS) if agreement.slots else 0
        process = self._stopping.process
        subscription = self._bus.subscribe(
            self._terms.space,
            Cap.UNMAP,
            ack="manual",
            stops="exit",
            on_fence=self._stopping.prove,
            holder=None if process is None else process.pid,
            name=self._terms.name,
        )
        cancelled: BaseException | None = None
        try:
            async with subscription as events:
                self._given = True
                try:
                    await self._work(events, slots, started)
                except anyio.get_cancelled_exc_class() as told:
                    if not await self._stop_soon():
                        raise
                    cancelled = told
        except IommubusError as failure:
            if self._given:
                await self._see_it_stopped(failure)
                await subscription.close()
            raise
        if cancelled is not None:
            raise cancelled

    async def _work(self, events: Subscription, slots: int, started: Callable[[], object]) -> None:
        send, receive = anyio.create_memory_object_stream[Miss](BACKLOG)
        lending = Lending(self._asking, events, slots, self._counts, tell=self._tell, peer=self._peer)
        questions = Questions(self._back, send, self._counts, tell=self._tell, peer=self._peer)
        answering = Answering(events, self._asking, lending, questions, receive, counts=self._counts)
        revoking = Revoking(events, self._asking, self._counts, peer=self._peer)

        async def revoke() -> None:
            await revoking.run()
            self._over.say(None)

        async def set_up() -> None:
            for memory in self._terms.memories:
                await lending.lend(memory)
            started()
            for ring in self._terms.rings:
                await self._set_up_ring(ring, events, lending)

        with send, receive:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, questions.read, self._line)
                for work in (revoke, answering.look_again, set_up, *[answering.work] * IN_FLIGHT):
                    tasks.start_soon(self._watch, work, self._over)
                await self._over.wait()
                tasks.cancel_scope.cancel()
        if self._over.reason is not None:
            raise self._over.reason

    async def _set_up_ring(self, ring: Ring, events: Subscription, lending: Lending) -> None:
        """Have the back end serve a ring, as soon as its parts are mapped."""
        for part in ring.parts:
            while not await self._is_there(part, events, lending):  # noqa: ASYNC110 - nobody is told of MAPs here
                await anyio.sleep(LOOK)
        base = await self._used(ring, events) if ring.base is None else ring.base
        if not self._stopping.give(ring.index):
            return
        for request, body, fds in steps(ring, base):
            if self._stopping.begun:  # behind GET_VRING_BASE, which proves that it has stopped, a kick would start it
                return
            status = await self._asking.number(request, body, fds)
            if status:
                raise PeerRefused(self._peer, f"{request.name} of ring {ring.index}", status)
        self._tell(Notice(f"{self._peer} serves ring {ring.index}"))

    async def _is_there(self, part: int, events: Subscription, lending: Lending) -> bool:
        try:
            found = await events.translate(part)
        except TranslationFault:
            return False
        return await lending.address_of(found.mapping) is not None

    async def _used(self, ring: Ring, events: Subscription) -> int:
        """Return how far a ring was used, as its memory has it; 0 if that cannot be looked at."""
        try:
            mapping = (await events.translate(ring.used)).mapping
            if mapping.memory is None:
                return 0
            at = mapping.target + ring.used - mapping.first + USED_INDEX
            return int.from_bytes(events.backing(mapping.memory)[at : at + 2], "little")
        except (TranslationFault, UnknownMemory, BadMemory):
            return 0

    # -- inside: the end -------------------------------------------------------

    async def _stop_soon(self) -> bool:
        """Stop the back end within a short time, whoever cancels; say whether it has."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE):
            try:
                await self._stopping.prove()
            except PeerLeft:
                return False
        return self._stopping.proven

    async def _see_it_stopped(self, failure: IommubusError) -> None:
        """Wait until the back end has stopped, however long that takes.

        Raises:
            PeerLeft: Nobody will know.
        """
        self._tell(
            Notice(f"{failure}; whatever {self._peer} was given counts as in use until it has stopped", trouble=True)
        )
        await self._stopping.prove()
        self._tell(Notice(f"{self._peer} has stopped"))
