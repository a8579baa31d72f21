"""Spaces and endpoints of a bus in a daemon: those that are published here, and those of others."""

from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import NoReturn

from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from ..bus.abc import SYNC_TIMEOUT, AddressSpace, Endpoint, Subscription
from ..bus.bus import Bus
from ..bus.endpoint import LocalEndpoint
from ..bus.publisher import Making, Surroundings
from ..bus.reports import SpaceStatistics, SyncReport
from ..bus.space import LocalSpace
from ..caps import Cap, Perm
from ..errors import Disconnected, NotProducer, SyncFailed
from ..events import Memory
from ..mapping import Mapping
from ..ranges import IovaRange
from ..wire.failures import to_failure
from ..wire.messages import Message
from ..wire.messages.publishing import Answer, Ask
from ..wire.messages.queries import SpaceInfo
from ..wire.messages.replies import Refused
from ..wire.messages.spaces import Attach, CloseEndpoint, CreateEndpoint, Detach
from ..wire.messages.syncing import Drain, Fence, FenceJudged, SpaceEpoch, Sync
from ..wire.messages.values import Piece
from .channel import Channel
from .link import Link
from .reconnect import Keeper
from .syncing import sync_over, wait_drained


class RemoteSpace(LocalSpace):
    """A space that is published here: its table is in this process, its audience is the daemon's.

    Notifiers run in this process; the demand is that of the daemon's subscribers alone.

    Args:
        making: What it is made of.
        around: What it shares with other spaces.
        on_close: Called when it is closed.
        link: Its way to the daemon.
        keeper: Keeps the connection.
    """

    def __init__(
        self,
        making: Making,
        around: Surroundings,
        on_close: Callable[[LocalSpace], None],
        link: Link,
        keeper: Keeper,
    ) -> None:
        super().__init__(replace(making, demand_changed=None), around, on_close)
        self.link = link
        self._keeper = keeper

    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        self._check_thread()
        return await sync_spaces(self._keeper, (self,), self._words, timeout)

    async def drain(self) -> None:
        self._check_thread()
        await checkpoint()
        await wait_drained(self._keeper, (self.link,), lambda number: Drain(number, self.name, self.link.epoch))

    async def fence(self, subscription: Subscription | str) -> bool:
        self._check_thread()
        return await fence(self._keeper, self.name, subscription)

    async def close(self) -> None:
        self._check_thread()
        self.shut()
        await checkpoint()
        await self.link.wait_closed()

    def shut(self) -> None:
        try:
            super().shut()
        finally:
            if not self.link.closed:
                self.link.close()

    def statistics(self) -> SpaceStatistics:
        """Return its counters, as far as they are known here: who subscribes, the daemon knows."""
        own = super().statistics()
        return own._replace(demand=self.link.demand, subscriptions=MappingProxyType({}), leaving=(), unproven=())

    def __repr__(self) -> str:
        state = f"{len(self._table)} mappings, seq {self.seq}" if self._open_in else "closed"
        return f"<space {self.name} {self.offers!r} of a daemon, {state}, {self.link!r}>"

    async def answer(self, channel: Channel, message: Ask) -> None:
        """Tell the daemon where an address leads, as the producer says."""
        try:
            found = await self.questions.ask(message.iova, message.perm)
            channel.send(Answer(message.request, None if found is None else Piece.of(found)))
        except Exception as failure:  # noqa: BLE001 - told to who asked
            channel.send(Refused(message.request, to_failure(failure)))

    def _words(self, request: int, left: int) -> Sync:
        return Sync(request, left, [], [self.link.words])


class ForeignSpace(AddressSpace):
    """A space that another client publishes: it can be waited for, and not changed.

    Args:
        info: What the daemon says of it.
        keeper: Keeps the connection.
        check_thread: Raises if the caller is not the thread of the bus.
    """

    def __init__(self, info: SpaceInfo, keeper: Keeper, check_thread: Callable[[], None]) -> None:
        self.name = info.space
        self.offers = Cap(info.offers & int(Cap.ALL))
        self.info = info
        self._keeper = keeper
        self._check_thread = check_thread

    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> NoReturn:
        raise self._refusal()

    def unmap(self, iova: int, size: int) -> NoReturn:
        raise self._refusal()

    def unmap_all(self) -> NoReturn:
        raise self._refusal()

    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> NoReturn:
        raise self._refusal()

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> NoReturn:
        raise self._refusal()

    def invalidate_device(self, iova: int, size: int) -> NoReturn:
        raise self._refusal()

    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        self._check_thread()
        spaces = [SpaceEpoch(self.name, self.info.epoch)]
        return await sync_over(self._keeper, (), lambda number, left: Sync(number, left, [], spaces), timeout)

    async def drain(self) -> None:
        self._check_thread()
        await checkpoint()
        await wait_drained(self._keeper, (), lambda number: Drain(number, self.name, self.info.epoch))

    async def fence(self, subscription: Subscription | str) -> bool:
        self._check_thread()
        return await fence(self._keeper, self.name, subscription)

    async def close(self) -> NoReturn:
        self._check_thread()
        await checkpoint()
        raise self._refusal()

    def statistics(self) -> SpaceStatistics:
        """Return what the daemon said when it told of the space."""
        info = self.info
        nothing: MappingProxyType[str, int] = MappingProxyType({})
        return SpaceStatistics(
            mappings=info.mappings,
            seq=info.seq,
            published=MappingProxyType({}),
            demand=Cap(info.demand & int(Cap.ALL)),
            subscriptions=MappingProxyType({}),
            leaving=(),
            unproven=(),
            old_pieces=0,
            syncs=0,
            failed_syncs=0,
            questions=nothing,
        )

    def __repr__(self) -> str:
        return f"<space {self.name} {self.offers!r} of {self.info.producer or 'nobody'}, in a daemon>"

    def _refusal(self) -> NotProducer:
        self._check_thread()
        return NotProducer(self.name)


class OwnSpaces(Bus):
    """The bus of what one client publishes; its audience is the daemon's.

    Args:
        keeper: Keeps the connection.
        links: By name, the links of the spaces that are going to be made.
    """

    def __init__(self, keeper: Keeper, links: dict[str, Link]) -> None:
        super().__init__()
        self._keeper = keeper
        self._links = links

    def check_open(self) -> None:
        """Check that the bus can be used; raises as everything does."""
        self._check_open()

    def check_thread(self) -> None:
        """Check that this is the thread of the bus."""
        self._check_thread()

    def check_new(self, name: str) -> None:
        """Check a name for a space or an endpoint that is going to be made."""
        self._check_new(name)

    def shut(self) -> None:
        """Close without waiting; raises as `Bus.close`."""
        self._shut()

    def _build_space(self, making: Making) -> RemoteSpace:
        return RemoteSpace(making, self._around, self._forget, self._links[making.name], self._keeper)


class RemoteEndpoint(Endpoint):
    """An endpoint that this client has made.

    Args:
        local: What it is here.
        keeper: Keeps the connection.
        check_shared: Raises `MustShare` if a subscription of this client needs it elsewhere.
        on_gone: Called when it is closed.
    """

    def __init__(
        self,
        local: LocalEndpoint,
        keeper: Keeper,
        check_shared: Callable[["RemoteEndpoint", RemoteSpace], None],
        on_gone: Callable[["RemoteEndpoint"], None],
    ) -> None:
        self.name = local.name
        self._local = local
        self._keeper = keeper
        self._check_shared = check_shared
        self._on_gone = on_gone
        self._channel: Channel | None = keeper.channel  # on which the daemon has it
        self._closed = False

    @property
    def space(self) -> AddressSpace | None:
        return self._local.space

    @property
    def place(self) -> RemoteSpace | None:
        """The space it is attached to."""
        place = self._local.place
        return place if isinstance(place, RemoteSpace) else None

    def attach(self, space: AddressSpace) -> None:
        if isinstance(space, ForeignSpace):
            raise NotProducer(space.name)
        before = self.place
        if isinstance(space, RemoteSpace) and self._local.made:
            self._check_shared(self, space)
        self._local.attach(space)
        if self.place is not before:
            self.say_place()

    def detach(self) -> None:
        before = self.place
        self._local.detach()
        if before is not None:
            self.say_place()

    async def close(self) -> None:
        self.shut()
        await self._local.close()

    def shut(self) -> None:
        """Close it in the daemon."""
        if self._local.made and not self._closed:
            self._closed = True
            if self._channel is not None:
                self._channel.ask(lambda number: CloseEndpoint(number, self.name), lambda _: None)
            self._on_gone(self)

    # -- connections ---------------------------------------------------------------------

    def attached(self, channel: Channel) -> None:
        """Have the daemon make it again, where it is."""
        if channel is self._channel:
            return
        self._channel = channel
        channel.ask(lambda number: CreateEndpoint(number, self.name, resume=True), self._answered)
        self.say_place()

    def lost(self, reason: str) -> None:
        """Wait for the next connection."""
        self._channel = None

    def ended(self, error: Exception) -> None:
        """Do nothing: nobody waits for an endpoint."""

    def say_place(self) -> None:
        """Say where it is, as soon as the daemon has that space."""
        channel, place = self._channel, self.place
        if channel is None:
            return
        if place is None:
            channel.ask(lambda number: Detach(number, self.name), self._answered)
        elif place.link.channel is channel:
            words = place.link.words
            channel.ask(lambda number: Attach(number, self.name, words.space, words.epoch), self._answered)

    def _answered(self, answer: Message | Exception) -> None:
        """Have the next `sync` of its space raise what the daemon refused."""
        if isinstance(answer, Exception) and not isinstance(answer, Disconnected) and self.place is not None:
            self.place.link.fail_whole(answer)

    def __repr__(self) -> str:
        return f"<{self._local!r} of a daemon>"


async def sync_spaces(
    keeper: Keeper,
    spaces: Sequence[RemoteSpace],
    words: Callable[[int, int], Sync],
    timeout: float,
) -> SyncReport:
    """Do `sync_over` for spaces of this client, which count how it ended."""
    try:
        report = await sync_over(keeper, [space.link for space in spaces], words, timeout)
    except SyncFailed as failure:
        for space in spaces:
            space.synced(failure)
        raise
    for space in spaces:
        space.synced(None)
    return report


async def fence(keeper: Keeper, space: str, subscription: Subscription | str) -> bool:
    """Have the daemon stop a subscriber for good; return whether it is proven stopped.

    Raises:
        UnknownName: No live or unproven subscription of the space has this name.
        Disconnected: There is no connection, or it was lost.
        IommubusError: The daemon refuses; why.
    """
    name = subscription if isinstance(subscription, str) else subscription.name
    await checkpoint()
    if keeper.channel is None:
        raise keeper.disconnected()
    answer = await keeper.channel.request(lambda number: Fence(number, space, name))
    return isinstance(answer, FenceJudged) and answer.proven
