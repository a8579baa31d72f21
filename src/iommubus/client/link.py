"""The link of a space: what is published in this process, on its way to the daemon.

To the space it is one more subscriber, with a mailbox: so publishing never waits,
and memory is bounded.  What the mailbox gives is said at the end of an iteration of
the loop, as long as the daemon has taken most of what was said before.

To the ledger of the space a hand-over is acknowledged once a `sync` has succeeded
that covers it.  So what was removed since the last one is remembered here, with
its old targets, for as long as the daemon is away.

A new connection goes on with what the daemon still has, if it has anything: that
is marked, the whole table is said again, and what was not named is unmapped.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from msgspec import Struct

from ..bus.buried import Buried
from ..bus.failures import MapFailures
from ..bus.member import Member, Terms
from ..bus.publisher import Making
from ..bus.reports import MapFailure, Missing
from ..bus.space import LocalSpace
from ..caps import Cap
from ..contract import Contract
from ..errors import Disconnected, IommubusError
from ..events import DevIotlbUnmap, Event, Unmap
from ..mailbox import CAPACITY, Turn
from ..wire.failures import to_error, to_failure
from ..wire.messages import Message
from ..wire.messages.greeting import Feature
from ..wire.messages.publishing import BeginResume, DemandChanged, EndResume, Publish, Published, PublishFailed
from ..wire.messages.replies import Done, Refused
from ..wire.messages.rows import EVENT_LIMIT
from ..wire.messages.spaces import CloseSpace, CreateSpace, SpaceCreated
from ..wire.messages.syncing import SpaceEpoch
from ..wire.messages.values import Range
from ..wire.runs import to_rows
from .channel import MICROSECONDS, Channel
from .reconnect import Keeper, Rank

LINK_WINDOW: Final = 1 << 19
"""Bytes of `Publish` that a daemon may have to take in before a space says more: some
15,000 events, more than it takes in between two answers on one machine.  What waits
longer waits in the mailbox, where it is conflated."""

DAEMON: Final = "the daemon"
"""What the daemon is called where subscribers have names."""


class Said(Struct):
    """A hand-over that was said, and not taken in yet.

    Attributes:
        number: Its number.
        size: Its length on the wire, in bytes.
        events: Its events.
    """

    number: int
    size: int
    events: list[Event]


class Waiting(Struct, eq=False):
    """Somebody who waits until what was published has been said.

    Attributes:
        turn: The turn of the mailbox that ends it.
        done: Set to the connection on which it was said.
    """

    turn: Turn
    done: "asyncio.Future[Channel]"


class LinkMember(Member):
    """The subscription that a link is to its space.

    Args:
        making: What the space is made of.
        on_overrun: Called when more changed than a mailbox remembers.
    """

    def __init__(self, making: Making, on_overrun: Callable[[], None]) -> None:
        whole = ((0, making.shape.last),)
        terms = Terms(DAEMON, making.offers, whole, CAPACITY, Contract(), "lease", None)
        super().__init__(terms, Buried(lambda _: None), lambda _: None)
        self._on_overrun = on_overrun

    def _overrun(self) -> None:
        """Have everything said anew, where another subscriber would be fenced."""
        self._on_overrun()


class Link:
    """What one space of this client is to the daemon.

    Args:
        making: What the space is made of.
        keeper: Keeps the connection.
        on_created: Called whenever the daemon has the space.

    Attributes:
        name: Name of the space.
        epoch: Its epoch; 0 as long as the daemon never had it.
        channel: The connection on which it can be published; `None` while there is none.
        member: The subscription that it is to its space.
        demand: OR of the masks of all subscriptions, as far as the daemon has said it.
        error: Why the daemon does not take it any more.
        closed: Whether it was closed here.
        gone: Whether the daemon has closed it, too.
        on_gone: Called when that is so.
    """

    def __init__(self, making: Making, keeper: Keeper, on_created: Callable[["Link"], None]) -> None:
        self.name = making.name
        self.epoch = 0
        self.channel: Channel | None = None
        self.member = LinkMember(making, self._overrun)
        self.demand = Cap(0)
        self.error: Exception | None = None
        self.closed = False
        self.gone = False
        self.on_gone: Callable[[], object] = lambda: None
        self._making = making
        self._keeper = keeper
        self._on_created = on_created
        self._said: deque[Said] = deque()
        self._open_bytes = 0
        self._waiting: list[Waiting] = []
        self._failures = MapFailures()
        self._begin = False  # the daemon is to mark what it has before more is said
        self._end: Turn | None = None  # the turn after which it is to remove what is still marked
        self._ending = False  # it does
        self._overran = False
        self._demanded = False  # the daemon has said on this connection what is asked for
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected" if self.channel is not None else "not connected"
        return f"{state}, {len(self._said)} hand-overs not taken in"

    # -- its beginning and its end -----------------------------------------------------

    async def create(self, make: Callable[[], LocalSpace]) -> LocalSpace:
        """Have the daemon make the space.

        Args:
            make: Makes it here, at the moment at which the daemon has it.

        Raises:
            Disconnected: There is no connection, or it was lost.
            IommubusError: The daemon refuses; why.
        """
        channel = self._keeper.channel
        if channel is None:
            self._finish()
            raise self._keeper.disconnected()
        made: asyncio.Future[LocalSpace] = asyncio.get_running_loop().create_future()

        def answered(answer: Message | Exception) -> None:
            if isinstance(answer, SpaceCreated):
                self.epoch, self.channel = answer.epoch, channel
                self._keeper.join(Rank.LINKS, self)
            else:
                self._finish()
            if made.cancelled():  # nobody will use it
                self.close()
            elif isinstance(answer, Exception):
                made.set_exception(answer)
            else:
                made.set_result(self._begin_with(make()))

        channel.ask(self._create_words, answered)
        return await made

    def close(self) -> None:
        """Take it that the space was closed here, and have the daemon close it."""
        self.closed = True
        if self.channel is not None and not self.gone:
            self._say_close(self.channel)

    async def wait_closed(self) -> None:
        """Wait until the daemon has closed it, too, or there is no connection on which it could say so."""
        while not self.gone and self.channel is not None:
            await self._changed.wait()

    async def wait_change(self) -> None:
        """Wait until the daemon has made it, closed it, or was lost."""
        await self._changed.wait()

    @property
    def words(self) -> SpaceEpoch:
        """What names the space in a `Sync`."""
        return SpaceEpoch(self.name, self.epoch)

    # -- connections ---------------------------------------------------------------------

    def attached(self, channel: Channel) -> None:
        """Have the new connection go on where the last one ended."""
        if channel is not self.channel:  # else it was made on this one
            self._create_again(channel)

    def lost(self, reason: str) -> None:  # noqa: ARG002 - the keeper has it
        """Forget what was under way: all of the table is said again.

        What the daemon has handed out may be in use until a `sync` says otherwise.
        """
        self.member.where.hold_back()
        self.channel = self._end = None
        self._begin = self._ending = self._overran = False
        self._said.clear()
        self._open_bytes = 0
        self._read_anew()  # now: what changes until then needs no room
        self._change()
        if self._keeper.error is not None:
            self._give_up(self._keeper.error)

    def ended(self, error: Exception) -> None:
        """Take it that there will be no other connection, and that nobody should wait for one."""
        if self.channel is None:
            self._give_up(error)

    # -- publishing ------------------------------------------------------------------------

    def flush(self, channel: Channel) -> None:
        """Say what the mailbox has, as much as the daemon has room for."""
        member = self.member
        if channel is not self.channel:
            return
        if self.closed or (self._overran and self._ending):
            return
        self._begin_anew(channel)
        while member.ready and self._open_bytes < LINK_WINDOW:
            events = member.take()
            if events:
                self._publish(channel, member.handed, events)
        self._end_anew(channel)
        self._look()
        if not member.ready:
            member.tell_ready(self._flush_soon)

    def published(self, message: Published) -> None:
        """Take it that the daemon has taken in what was said up to a hand-over."""
        while self._said and self._said[0].number <= message.number:
            self._open_bytes -= self._said.popleft().size
        if self.member.ready:
            self._flush_soon()

    def failed(self, message: PublishFailed) -> None:
        """Take it that an event could not be put into the daemon's table."""
        for said in self._said:
            if said.number == message.number and message.index < len(said.events):
                self._fail(said.events[message.index], to_error(message.failure))

    def demand_changed(self, channel: Channel, message: DemandChanged) -> None:
        """Tell the producer of a demand, which it may refuse."""
        self._demanded = True
        try:
            self._change_demand(Cap(message.new))
        except Exception as refusal:  # noqa: BLE001 - told to who subscribes
            channel.send(Refused(message.request, to_failure(refusal)))
        else:
            channel.send(Done(message.request))

    def fail_whole(self, error: Exception) -> None:
        """Have the next `sync` raise an error that is about all of the space."""
        self._fail(Unmap(self.name, 0, 0, self._making.shape.last), error)

    # -- for a sync --------------------------------------------------------------------------

    def say_all(self, channel: Channel) -> bool:
        """Say all that was published before; say whether the daemon has it all then, by this connection."""
        if channel is not self.channel or self.error is not None:
            return False
        turn = self.member.mailbox.turn
        channel.flush_now(self)
        return self._has_said(turn)

    async def flushed(self) -> Channel:
        """Wait until all that was published before was said, on a connection that has it all; return that one.

        Raises:
            BusClosed, IommubusError: There will not be one; why.
        """
        if self.channel is not None:
            self.channel.flush_now(self)
        waiting = Waiting(self.member.mailbox.turn, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._look()
        if self._keeper.error is not None:
            self._give_up(self._keeper.error)
        elif self.error is not None and self._keeper.channel is not None:  # it may have changed its mind
            self._create_again(self._keeper.channel)
        try:
            return await waiting.done
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def pop_failures(self) -> list[MapFailure]:
        """Return what could not be put into the daemon's table, once."""
        return self._failures.pop(self.name)

    def missing(self, reason: str, cause: Exception | None = None) -> Missing:
        """Return what says that the daemon could not be asked."""
        present = self.member.where.present
        assert present is not None  # noqa: S101 - nobody can sync what was not joined
        return Missing(DAEMON, self.name, reason, present.old_pieces(), cause)

    def cover(self, number: int) -> None:
        """Take it that nobody uses anything that was removed up to a hand-over."""
        self.member.where.release()
        self.member.acknowledge(number)

    # -- inside: connections -------------------------------------------------------------------

    def _begin_with(self, space: LocalSpace) -> LocalSpace:
        """Begin to say what is published in a space that the daemon has."""
        self.member.join(space)
        self.member.tell_ready(self._flush_soon)
        self._change()
        return space

    def _create_words(self, request: int) -> CreateSpace:
        making, shape = self._making, self._making.shape
        return CreateSpace(
            request,
            self.name,
            shape.granule,
            shape.last,
            [Range(window.first, window.last) for window in shape.reserved],
            int(making.offers),
            making.straddle,
            making.demand_changed is not None,
            making.translate is not None,
            round(making.answer_timeout * MICROSECONDS),
            self.epoch,
        )

    def _create_again(self, channel: Channel) -> None:
        """Have the daemon make the space, or go on with it."""
        self.error = None
        channel.ask(self._create_words, lambda answer: self._created(channel, answer))

    def _created(self, channel: Channel, answer: Message | Exception) -> None:
        """Go on: the daemon has the space, or refuses it."""
        if isinstance(answer, Disconnected):
            return
        if not isinstance(answer, SpaceCreated):
            self._refused(answer if isinstance(answer, IommubusError) else IommubusError(answer))
            return
        self._demanded = False
        self.epoch, self.channel = answer.epoch, channel
        if self.closed:
            self._say_close(channel)
            return
        if answer.resumed:
            self._begin, self._end = True, self.member.mailbox.turn
        self._on_created(self)
        self._flush_soon()

    def _refused(self, error: Exception) -> None:
        if self.closed:  # what the daemon does not have need not be closed
            self._finish()
        else:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Let nobody wait: it would be in vain."""
        self.error = error
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done.done():
                one.done.set_exception(error)

    def _say_close(self, channel: Channel) -> None:
        channel.ask(lambda number: CloseSpace(number, self.name, self.epoch), self._closed)
        self._look()

    def _closed(self, answer: Message | Exception) -> None:
        if not isinstance(answer, Disconnected):  # refused: it was not there any more
            self._finish()

    def _finish(self) -> None:
        if not self.gone:
            self.gone = True
            self._keeper.part(self)
            self.on_gone()
            self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _change_demand(self, wanted: Cap) -> None:
        """Tell the producer of a demand that is not what it was told last; raises what it raises."""
        old, self.demand = self.demand, wanted
        try:
            if self._making.demand_changed is not None and old != wanted:
                self._making.demand_changed(old, wanted)
        except BaseException:
            self.demand = old
            raise

    # -- inside: the mailbox -----------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if self.channel is not None:
            self.channel.flush_soon(self)

    def _publish(self, channel: Channel, number: int, events: list[Event]) -> None:
        size = 0
        for at in range(0, len(events), EVENT_LIMIT):
            rows, memories, _ = to_rows(events[at : at + EVENT_LIMIT])
            more = at + EVENT_LIMIT < len(events)
            size += channel.send(Publish(self.name, self.epoch, number, rows, memories, more))
        self._said.append(Said(number, size, events))
        self._open_bytes += size

    def _read_anew(self) -> None:
        """Throw away what waits, and have all of the space said: its table, or that everything is to be forgotten."""
        member = self.member
        mailbox, caps, last = member.mailbox, member.caps, self._making.shape.last
        member.take()
        mailbox.unshare()  # what is put into it alone is not in the feed
        seq = 0 if member.place is None else member.place.seq
        if caps & Cap.MAP:
            mailbox.replay(0, last)
        else:
            mailbox.put(Unmap(self.name, seq, 0, last))
        if caps & Cap.DEVIOTLB_UNMAP:
            mailbox.put(DevIotlbUnmap(self.name, seq, 0, last))
        for waiting in self._waiting:
            waiting.turn = mailbox.turn

    def _overrun(self) -> None:
        self._overran = True
        self._flush_soon()

    def _begin_anew(self, channel: Channel) -> None:
        """Say what comes before the table, if all of it is going to be said."""
        if self._overran and self._end is None:
            self._start_over(channel)
        if self._begin:
            self._begin = False
            channel.send(BeginResume(self.name, self.epoch))

    def _end_anew(self, channel: Channel) -> None:
        """Say what comes behind the table, if all of it was said."""
        if self._end is not None and self.member.mailbox.reached(self._end):
            self._end, self._ending = None, True
            channel.ask(lambda number: EndResume(number, self.name, self.epoch), self._resumed)

    def _start_over(self, channel: Channel) -> None:
        """Have everything said anew on the connection that there is: more changed than could be remembered."""
        self._overran = False
        self._read_anew()
        if channel.features & Feature.RESUME:
            self._begin, self._end = True, self.member.mailbox.turn
        else:  # what the daemon has cannot be compared, so it goes first
            whole = Unmap(self.name, 0, 0, self._making.shape.last)
            self._publish(channel, self.member.handed, [whole])

    def _resumed(self, answer: Message | Exception) -> None:
        """Take it that the daemon has what is here, and nothing else."""
        if isinstance(answer, Disconnected):
            return
        self._ending = False
        if isinstance(answer, Exception):
            self.fail_whole(answer)
        if not self._demanded:  # nobody subscribes any more
            with suppress(Exception):
                self._change_demand(Cap(0))
        self._look()
        self._flush_soon()

    def _has_said(self, turn: Turn) -> bool:
        """Say whether what there was at a turn of the mailbox was said, and the daemon has all of it."""
        return self._end is None and not self._ending and (self.closed or self.member.mailbox.reached(turn))

    def _look(self) -> None:
        """Let go on who waits for what has been said."""
        channel = self.channel
        if channel is None:
            return
        for waiting in self._waiting.copy():
            if self._has_said(waiting.turn):
                self._waiting.remove(waiting)
                if not waiting.done.done():
                    waiting.done.set_result(channel)

    def _fail(self, event: Event, error: Exception) -> None:
        self._failures.add(DAEMON, event, error)
