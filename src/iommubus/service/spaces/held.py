"""The spaces and endpoints that clients made, and whose they are.

A space outlives the connection of its producer: it stays, with or without its
mappings, until somebody makes it again, or closes it.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol, TypeVar

import anyio

from ...bus.bus import Bus
from ...bus.endpoint import LocalEndpoint
from ...bus.publisher import Making
from ...bus.space import LocalSpace
from ...caps import check_mask
from ...errors import (
    LimitReached,
    NameTaken,
    NotProducer,
    NoTranslator,
    SpaceClosed,
    Stopping,
    TranslatorFailed,
    UnknownName,
)
from ...events import Memory
from ...mapping import Mapping
from ...ranges import IovaRange
from ...shape import Shape
from ...transport.credentials import Peer
from ...transport.tasks import Tasks
from ...wire.messages.greeting import Feature
from ...wire.messages.publishing import Answer, Ask
from ...wire.messages.queries import SpaceInfo
from ...wire.messages.spaces import CreateSpace
from ..clients import Client, same_user
from ..settings.config import Config
from .applying import Named
from .closed import Closed
from .demand import Demand

CheckMemory = Callable[[Memory, Peer], None]
Thing = TypeVar("Thing")

US: Final = 1_000_000
"""Microseconds in a second, the unit of the wire."""

LONGEST_ANSWER: Final = 60.0
"""Most seconds that the producer of a pull space is waited for, whatever it asks for:
a guest has reported its device dead long before."""


class Held:
    """One space.

    Args:
        making: What its producer asked for.
        producer: That producer.
        epoch: Its epoch.
        tasks: Where the producer is asked about its demand.
        check_memory: Raises if a peer must not lead mappings into a memory.

    Attributes:
        making: What its present, or last, producer asked for.
        producer: Who publishes it; `None` while that one is lost.
        peer: Who the producer is, or was.
        epoch: Its epoch.
        space: The space itself.
        demand: What is asked of it.
        taken: Number of the last hand-over of the producer that was taken.
        told: The last one that the producer was told of.
        begun: The last one of which something was taken.
        index: Events of the next one that were taken already.
        more: Whether that goes on in the next message.
        emptied: Whether its mappings were taken away because its producer is lost.
        named: Notes of what the producer names since it is back; `None` if it need not.
        resuming: Whether it has begun to name it.
        sweeping: Whether it has named all, and what it has not is being taken away.
        settled: Set unless it is still to be named, or swept.
        earlier: Closed ones in whose place it came: its `sync` covers them.
        timer: Takes its mappings away.
    """

    space: LocalSpace

    def __init__(
        self, making: CreateSpace, producer: Client, epoch: int, tasks: Tasks, check_memory: CheckMemory
    ) -> None:
        self._check_memory = check_memory
        self.making = making
        self.producer: Client | None = producer
        self.peer = producer.peer
        self.epoch = epoch
        self.demand = Demand(tasks)
        self.taken = self.told = self.begun = self.index = 0
        self.more = False
        self.emptied = False
        self.named: Named | None = None
        self.resuming = self.sweeping = False
        self.settled = anyio.Event()
        self.settled.set()
        self.earlier: tuple[LocalSpace, ...] = ()
        self.timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.making.space

    @property
    def info(self) -> SpaceInfo:
        """What it is."""
        space, producer = self.space, self.producer
        return SpaceInfo(
            self.name,
            self.epoch,
            space.shape.granule,
            space.shape.last,
            int(space.offers),
            int(space.routes.demand),
            space.mappings,
            space.seq,
            "" if producer is None else producer.name,
        )

    @property
    def synced(self) -> tuple[LocalSpace, ...]:
        """What a `sync` of it covers."""
        self.earlier = tuple(space for space in self.earlier if space.counting())
        return (self.space, *self.earlier)

    @property
    def at_rest(self) -> bool:
        """Whether its producer has named all that it has, if it has to."""
        return self.named is None

    def meet(self, making: CreateSpace, producer: Client, epoch: int, *, resumed: bool) -> None:
        """Go on with a producer that is back, or with another one."""
        self.making, self.producer, self.peer, self.epoch = making, producer, producer.peer, epoch
        self.taken = self.told = self.begun = self.index = 0
        self.more = self.emptied = self.resuming = self.sweeping = False
        self.stop_timer()
        if resumed:
            self.begin_naming()

    def begin_naming(self) -> None:
        """Take notes of what the producer names from now on; a `sync` waits until it has named all."""
        self.named, self.sweeping = Named(), False
        if self.settled.is_set():
            self.settled = anyio.Event()

    def part(self) -> None:
        """Take it that the producer is lost."""
        self.producer = None
        self.demand.part()
        self.settle()

    def settle(self) -> None:
        """Take it that nothing is still to be named, or swept."""
        self.named, self.sweeping = None, False
        self.settled.set()

    def empty(self) -> None:
        """Take everything away from everybody: the producer is not back in time."""
        self.stop_timer()
        if not self.emptied:
            self.emptied = True
            self.space.take_all()
            self.space.forget_old()  # which may have been very much

    def stop_timer(self) -> None:
        """Take nothing away by itself any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    async def translate(self, iova: int, perm: int) -> Mapping | None:
        """Ask the producer of a pull space where an address leads."""
        producer, name, epoch = self.producer, self.name, self.epoch
        if not self.making.answers:
            raise NoTranslator(name, iova)
        if producer is None:
            raise TranslatorFailed(name, iova, "its producer is lost")
        answer = await producer.ask(lambda number: Ask(number, name, epoch, iova, int(perm)))
        if not isinstance(answer, Answer) or answer.piece is None:
            return None
        mapping = answer.piece.mapping
        if mapping.memory is not None:
            self._check_memory(mapping.memory, self.peer)
            self.space.surroundings.memories.check(mapping.memory, mapping.target, mapping.size)
        return mapping


class HeldEndpoint:
    """One endpoint that was made by itself.

    Attributes:
        endpoint: The endpoint.
        producer: Who made it; `None` while that one is lost.
        peer: Who that is, or was.
    """

    def __init__(self, endpoint: LocalEndpoint, producer: Client) -> None:
        self.endpoint = endpoint
        self.producer: Client | None = producer
        self.peer = producer.peer


class Follower(Protocol):
    """Somebody who is told of spaces."""

    def opened(self, held: Held, /) -> None:
        """Hear that one was made, or has a new producer."""
        ...

    def gone(self, held: Held, /) -> None:
        """Hear that one was closed, or its producer has another one in its place."""
        ...


class Fate(Enum):
    """What becomes of the space that has the name of one that is to be made."""

    REFUSE = "its producer is there"
    DISPLACE = "its producer is back, and its old connection only seems to be there"
    REPLACE = "it is another kind of space"
    EMPTY = "it goes on, with nothing in it"
    RESUME = "it goes on with what it has"


def judge(held: Held, wanted: CreateSpace, peer: Peer, *, resumes: bool) -> Fate:
    """Decide what becomes of a space whose name is asked for again.

    Args:
        held: The space.
        wanted: What is asked for.
        peer: By whom.
        resumes: Whether the connection can resume.
    """
    known = wanted.epoch == held.epoch
    if held.producer is not None:
        return Fate.DISPLACE if known and peer == held.peer else Fate.REFUSE
    if not alike(held.making, wanted):
        return Fate.REPLACE
    if known and resumes and not held.emptied and same_user(peer, held.peer):
        return Fate.RESUME
    return Fate.EMPTY


def alike(one: CreateSpace, other: CreateSpace) -> bool:
    """Say whether two spaces are the same to their subscribers."""
    return (one.granule, one.last, one.offers) == (other.granule, other.last, other.offers) and (
        sorted((window.first, window.last) for window in one.reserved)
        == sorted((window.first, window.last) for window in other.reserved)
    )


class Spaces:
    """Those of a daemon.

    Args:
        bus: Where they are.
        config: How many there may be, and how long those of a lost producer keep their mappings.
        new_id: Gives epochs.

    Attributes:
        open: The open spaces, by name.
        endpoints: The endpoints that were made by themselves, by name.
        closed: Those that were closed and somebody may still use.
        followers: Who is told of spaces.
        tasks: Where producers are asked.
        check_memory: Raises if a peer must not lead mappings into a memory.
    """

    tasks: Tasks
    check_memory: CheckMemory

    def __init__(self, bus: Bus, config: Config, new_id: Callable[[], int]) -> None:
        self._bus = bus
        self._limits = config.limits
        self._grace = config.producer_grace
        self._new_id = new_id
        self.open: dict[str, Held] = {}
        self.endpoints: dict[str, HeldEndpoint] = {}
        self.closed = Closed()
        self.followers: dict[Follower, None] = {}
        self._draining = ""  # why none is made any more
        self._arrival: anyio.Event | None = None  # what everybody waits for who waits for a space

    # -- spaces ------------------------------------------------------------------

    def create(self, wanted: CreateSpace, producer: Client) -> tuple[Held, bool]:
        """Make a space, or go on with one; return it, and whether it has what it had.

        Raises:
            NameTaken: Somebody has it.
            LimitReached: The producer has too many.
            BadName, BadShape, SubscribeError: It cannot be.
        """
        self._check_limit(wanted.space, producer)
        held = self.open.get(wanted.space)
        earlier: tuple[LocalSpace, ...] = ()
        if held is not None:
            fate = self._judge(held, wanted, producer)
            if fate is not Fate.REPLACE:
                return self._go_on(held, wanted, producer, resumed=fate is Fate.RESUME)
            making_of(wanted, held)  # first: what cannot be replaces nothing
            earlier = held.synced
            self.close(held)
        held = Held(wanted, producer, self._new_id(), self.tasks, self.check_memory)
        held.space = self._bus.open_space(making_of(wanted, held))
        held.earlier = earlier
        self.open[held.name] = held
        return held, False

    def ready(self, held: Held) -> None:
        """Tell everybody of a space whose producer knows its epoch."""
        if held.producer is not None:
            held.demand.meet(held.space, held.producer, held.epoch, asks=held.making.asks_demand)
        self._tell_waiting()
        for follower in list(self.followers):
            follower.opened(held)

    def drain(self, reason: str) -> None:
        """Have nobody wait for a space any more: none is made."""
        self._draining = reason
        self._tell_waiting()

    async def wait(self, name: str) -> Held:
        """Wait until a space of this name is open.

        Raises:
            Stopping: None will be.
        """
        while name not in self.open:
            if self._draining:
                raise Stopping(self._draining)
            self._arrival = self._arrival or anyio.Event()
            await self._arrival.wait()
        return self.open[name]

    def find(self, name: str, epoch: int, producer: Client) -> Held:
        """Return a space of a producer.

        Raises:
            SpaceClosed: There is none of this name and epoch.
            NotProducer: It is another producer's.
        """
        held = self.open.get(name)
        if held is None or held.epoch != epoch:
            raise SpaceClosed(name)
        if held.producer is not producer:
            raise NotProducer(name)
        return held

    def close(self, held: Held) -> None:
        """Close a space: everybody sees the UNMAP, then the end."""
        held.stop_timer()
        held.settle()
        held.demand.part()
        del self.open[held.name]
        held.space.shut()
        self.closed.add(held.epoch, held.synced, held.peer)
        self._tell_gone(held)

    # -- endpoints ---------------------------------------------------------------

    def create_endpoint(self, name: str, producer: Client, *, resume: bool) -> None:
        """Make an endpoint, or go on with one.

        Raises:
            NameTaken: Somebody has it.
            LimitReached: The producer has too many.
            BadName: It cannot be called so.
        """
        held = self.endpoints.get(name)
        if held is not None and held.producer is not None:
            if not resume or held.producer is producer or held.peer != producer.peer:
                raise NameTaken(name)
            held.producer.close("its client is back on another connection")
        own = sum(1 for each in self.endpoints.values() if each.producer is producer)
        if own >= self._limits.endpoints:
            raise LimitReached("limits.endpoints", self._limits.endpoints)
        held = self.endpoints.get(name)
        if held is None:
            self.endpoints[name] = HeldEndpoint(self._bus.open_endpoint(name), producer)
            return
        if not (resume and same_user(held.peer, producer.peer)):
            held.endpoint.detach()
        held.producer, held.peer = producer, producer.peer

    def endpoint(self, name: str, producer: Client) -> LocalEndpoint:
        """Return an endpoint of a producer.

        Raises:
            UnknownName: There is none of this name.
            NotProducer: It is another producer's.
        """
        held = self.endpoints.get(name)
        if held is None:
            raise UnknownName(name, ())
        if held.producer is not producer:
            raise NotProducer(name)
        return held.endpoint

    def close_endpoint(self, name: str) -> None:
        """Close an endpoint: its subscribers see everything go, then the end."""
        self.endpoints.pop(name).endpoint.shut()

    # -- lost producers ------------------------------------------------------------

    def lose(self, producer: Client) -> None:
        """Take it that a producer is lost: its spaces are emptied, at once or once it is not back in time."""
        resumes = producer.agreement is not None and bool(producer.agreement.features & Feature.RESUME)
        for held in [each for each in self.open.values() if each.producer is producer]:
            held.part()
            if resumes and self._grace > 0:
                held.timer = asyncio.get_running_loop().call_later(self._grace, held.empty)
            else:
                held.empty()
        for endpoint in self.endpoints.values():
            if endpoint.producer is producer:
                endpoint.producer = None
        self._thin(producer.peer)

    def stop(self) -> None:
        """Take nothing away by itself any more: the daemon ends."""
        for held in self.open.values():
            held.stop_timer()

    # -- inside --------------------------------------------------------------------

    def _judge(self, held: Held, wanted: CreateSpace, producer: Client) -> Fate:
        """Decide what becomes of a space; raises as `create`."""
        resumes = producer.agreement is not None and bool(producer.agreement.features & Feature.RESUME)
        fate = judge(held, wanted, producer.peer, resumes=resumes)
        if fate is Fate.DISPLACE and held.producer is not None and held.producer is not producer:
            held.producer.close("its client is back on another connection")
            fate = judge(held, wanted, producer.peer, resumes=resumes)
        if fate in (Fate.REFUSE, Fate.DISPLACE):
            raise NameTaken(wanted.space)
        return fate

    def _go_on(self, held: Held, wanted: CreateSpace, producer: Client, *, resumed: bool) -> tuple[Held, bool]:
        making_of(wanted, held)  # what cannot be changes nothing
        if not resumed:
            held.empty()
        self._tell_gone(held)
        held.meet(wanted, producer, self._new_id(), resumed=resumed)
        return held, resumed

    def _tell_waiting(self) -> None:
        if self._arrival is not None:
            arrival, self._arrival = self._arrival, None
            arrival.set()

    def _tell_gone(self, held: Held) -> None:
        for follower in list(self.followers):
            follower.gone(held)

    def _check_limit(self, name: str, producer: Client) -> None:
        own = sum(1 for held in self.open.values() if held.producer is producer and held.name != name)
        if own >= self._limits.spaces:
            raise LimitReached("limits.spaces", self._limits.spaces)

    def _thin(self, peer: Peer) -> None:
        """Close the oldest of one user's spaces and endpoints without a producer, where there are too many."""
        lost = [held for held in self.open.values() if held.producer is None and same_user(held.peer, peer)]
        for held in surplus(lost, self._limits.spaces):
            self.close(held)
        names = [name for name, each in self.endpoints.items() if each.producer is None and same_user(each.peer, peer)]
        for name in surplus(names, self._limits.endpoints):
            self.close_endpoint(name)


def surplus(things: list[Thing], limit: int) -> list[Thing]:
    """Return the first of more things than there may be."""
    return things[: max(len(things) - limit, 0)]


def making_of(wanted: CreateSpace, held: Held) -> Making:
    """Return what a space is made of.

    Raises:
        BadShape: The addresses contradict each other.
        SubscribeError: It offers what cannot be.
    """
    reserved = tuple(IovaRange(window.first, window.last) for window in wanted.reserved)
    return Making(
        wanted.space,
        Shape(wanted.granule, wanted.last, reserved),
        offers=check_mask(wanted.offers),
        straddle="refuse",
        demand_changed=held.demand.changed,
        translate=held.translate,
        answer_timeout=min(wanted.answer_us / US, LONGEST_ANSWER),
    )
