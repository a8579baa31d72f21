"""Subscriptions over a connection: what is handed over, acknowledged, refused, fenced, left and lost."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from errno import ENOSPC
from pathlib import Path
from typing import Any, TypeVar

import pytest

from iommubus.bus.attachment import State
from iommubus.errors import (
    AccessDenied,
    BadHolder,
    BadName,
    CapabilityRefused,
    DemandRefused,
    EmptyMask,
    ExitRefused,
    LeasesUnwritable,
    LimitReached,
    MayNotSubscribe,
    NotMapped,
    OutsideRanges,
    SubscriptionClosed,
    TooManyMappings,
)
from iommubus.events import Map, Unmap
from iommubus.service.daemon import Daemon
from iommubus.service.proof.record import Disk, Granted, Record, load
from iommubus.service.settings.config import Config, Leases, Limits
from iommubus.service.settings.rules import Rule, Rules
from iommubus.transport.credentials import Peer, Process, peer_of, process_of, ticks_now
from iommubus.wire.failures import to_error, to_failure
from iommubus.wire.messages import DaemonMessage
from iommubus.wire.messages.greeting import Ping, Pong
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.publishing import Answer, Ask, DemandChanged
from iommubus.wire.messages.replies import Done, Refused
from iommubus.wire.messages.rows import MapRow, UnmapRow
from iommubus.wire.messages.spaces import Attach, CloseSpace, CreateEndpoint, Detach
from iommubus.wire.messages.subscribing import (
    Ack,
    AckWanted,
    Ended,
    Fail,
    Fenced,
    Leave,
    ReplayFailed,
    RunFence,
    Subscribe,
    Subscribed,
    Translate,
    Translated,
    Using,
)
from iommubus.wire.messages.syncing import Fence, FenceJudged, MapFailure, SpaceEpoch, Sync, Synced, SyncRefused
from iommubus.wire.messages.values import Piece, Range
from tests.talkers import OWN, PAGE, STRANGER, Talker, gone, greeted, page, publishing, settings, turns, until

pytestmark = pytest.mark.asyncio

Said = TypeVar("Said", bound=DaemonMessage)

EVERYWHERE = [Range(0, 2**64 - 1)]
SECOND = 1_000_000
NO_ROOM = to_failure(OSError(ENOSPC, "No space left on device"))


ROWS = 80
"""Events of one message: they fit the shortest frame that a setting can allow."""


class Consumer:
    """A client that keeps a copy, page by page, and says what a test has it say.

    Attributes:
        pages: Where each page leads to.
        last: Number of the last hand-over.
        current: Whether the first replay is through.
        ended: Whether the stream is.
        prompted: Whether somebody waits for an acknowledgement.
    """

    def __init__(self, talker: Talker) -> None:
        self.talker = talker
        self.number = 0
        self.name = ""
        self.pages: dict[int, int] = {}
        self.last = 0
        self.current = self.ended = self.prompted = False
        self.hears = True  # that it is confirmed, if it is to be stopped by the end of its process
        self.fails = 0
        self.delivered: list[DeliverHeard] = []

    async def subscribe(self, *endpoints: str, caps: int = 3, **more: Any) -> Subscribed:
        request = self.talker.request
        fields: dict[str, Any] = {"ranges": EVERYWHERE, **more}
        await self.talker.say(Subscribe(request, list(endpoints or ("vtd0",)), caps, **fields))
        subscribed = await self.talker.skip_to(Subscribed)
        assert subscribed.request == request
        self.number, self.name = subscribed.subscription, subscribed.name
        if more.get("stops") == "exit" and self.hears:
            ping = await self.talker.skip_to(Ping)
            await self.talker.say(Pong(ping.number))
        return subscribed

    async def refused(self, *endpoints: str, caps: int = 3, **more: Any) -> Exception:
        """Return why it is not let in."""
        fields: dict[str, Any] = {"ranges": EVERYWHERE, **more}
        await self.talker.say(Subscribe(self.talker.request, list(endpoints or ("vtd0",)), caps, **fields))
        return to_error((await self.talker.skip_to(Refused)).failure)

    async def deliver(self) -> DeliverHeard:
        """Take one message of a hand-over."""
        message = await self.talker.skip_to(DeliverHeard)
        self.apply(message)
        return message

    def apply(self, message: DeliverHeard) -> None:
        assert message.subscription == self.number
        self.delivered.append(message)
        self.last = message.number
        self.current |= message.current
        self.ended |= message.end
        self.prompted |= message.prompt
        for event in message.events:
            if isinstance(event, Map):
                self.map(event)
            else:
                self.pages = {at: target for at, target in self.pages.items() if not event.first <= at <= event.last}

    def map(self, event: Map) -> None:
        for at in range(event.first, event.last + 1, PAGE):
            assert at not in self.pages, "a MAP over a live mapping"
            self.pages[at] = event.target + at - event.first

    def catch_up(self) -> None:
        """Apply what was passed over."""
        heard, self.talker.heard = self.talker.heard, []
        for message in heard:
            if isinstance(message, DeliverHeard) and message.subscription == self.number:
                self.apply(message)

    async def until(self, *pages: int, ack: bool = True) -> None:
        """Take what comes until just these pages are there, and acknowledge it."""
        while set(self.pages) != {at * PAGE for at in pages}:
            message = await self.deliver()
            if ack and not message.more:
                await self.ack()
        if ack:
            await self.ack()

    async def ack(self, number: int | None = None) -> None:
        await self.talker.say(Ack(self.number, self.last if number is None else number))

    async def fail(self, number: int, index: int, failure: Any = NO_ROOM) -> None:
        self.fails += 1
        await self.talker.say(Fail(self.number, number, index, failure))

    async def leave(self, *, clean: bool = True, reason: str = "") -> None:
        request = self.talker.request
        await self.talker.say(Leave(request, self.number, clean, reason))
        assert (await self.talker.skip_to(Done)).request == request


class Producer:
    """A client that has a space."""

    def __init__(self, talker: Talker, epoch: int, name: str) -> None:
        self.talker = talker
        self.epoch = epoch
        self.name = name
        self._numbers = 0
        self._syncs: set[int] = set()

    @classmethod
    async def of(cls, talker: Talker, name: str = "vtd0", **options: object) -> "Producer":
        return cls(talker, await talker.space(name, **options), name)

    async def map(self, *pages: int, to: int = 0) -> None:
        await self.publish(*(page(at, at + to) for at in pages))

    async def unmap(self, *pages: int) -> None:
        await self.publish(*(gone(at) for at in pages))

    async def publish(self, *rows: MapRow | UnmapRow) -> None:
        for start in range(0, len(rows), ROWS):
            self._numbers += 1
            await self.talker.say(publishing(self.name, self.epoch, self._numbers, *rows[start : start + ROWS]))

    async def begin_sync(self, seconds: float = 30.0) -> int:
        """Ask for a sync, and see to it that it has begun."""
        request = self.talker.request
        await self.talker.say(Sync(request, int(seconds * SECOND), [self.name]), Ping(7))
        await self.talker.skip_to(Pong)
        await turns()
        return request

    async def end_sync(self, request: int) -> Synced | SyncRefused:
        while True:
            message = await self.talker.next()
            if isinstance(message, Synced | SyncRefused):
                assert message.request == request
                return message

    async def sync(self, seconds: float = 30.0) -> Synced | SyncRefused:
        request = self.talker.request
        await self.talker.say(Sync(request, int(seconds * SECOND), [self.name]))
        return await self.end_sync(request)

    async def missing(self, seconds: float = 0.05) -> list[str]:
        """Return whom a sync misses."""
        answer = await self.sync(seconds)
        assert isinstance(answer, SyncRefused)
        return [each.subscriber for each in answer.missing]


class Ends:
    """A process that ends when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        self.watched = Process(self.process.pid, 1, os.pidfd_open(self.process.pid))

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def visible(daemon: Daemon, process: Process, peer: Peer = OWN) -> AsyncGenerator[Talker]:
    """Give a connection whose process can be seen."""
    theirs, ours = socket.socketpair()
    session = daemon.session(peer, process.another())
    await asyncio.get_running_loop().connect_accepted_socket(lambda: session, theirs)
    talker = Talker(ours)
    await talker.greet("vfio")
    try:
        yield talker
    finally:
        ours.close()


@asynccontextmanager
async def scene(config: Config | None = None, **options: Any) -> AsyncGenerator[tuple[Daemon, Producer, Consumer]]:
    """Give a daemon, the producer of a space, and a client."""
    async with Daemon(config or Config(), **options) as daemon, greeted(daemon) as one, greeted(daemon) as other:
        yield daemon, await Producer.of(one), Consumer(other)


# -- hand-overs --------------------------------------------------------------------


async def test_a_newcomer_to_an_empty_table_is_current_at_once() -> None:
    async with scene() as (daemon, _, consumer):
        subscribed = await consumer.subscribe()
        assert subscribed.name == f"vtd0#{subscribed.subscription & 0xFFFF_FFFF}"
        assert (subscribed.lease_us, subscribed.window) == (10 * SECOND, daemon.config.limits.unacknowledged)
        first = await consumer.deliver()
        assert (first.number, first.events, first.current, first.prompt) == (0, [], True, True)
        await consumer.ack()
        assert all(watch.member.completion.current for watch in daemon.proof.watches)


async def test_replay_and_follow() -> None:
    async with scene() as (_, producer, consumer):
        await producer.map(*range(3000))
        await consumer.subscribe()
        await consumer.until(*range(3000))
        assert [each.current for each in consumer.delivered] == [False, False, True]
        assert consumer.prompted
        await producer.unmap(5)
        await producer.map(5, to=100)
        while consumer.pages.get(5 * PAGE) != 105 * PAGE:
            await consumer.deliver()
        assert not consumer.delivered[-1].prompt
        request = await producer.begin_sync()
        assert (await consumer.talker.skip_to(AckWanted)).subscription == consumer.number
        await consumer.ack()
        answer = await producer.end_sync(request)
        assert isinstance(answer, Synced)
        assert [each.subscriber for each in answer.outcomes] == [consumer.name]


async def test_a_hand_over_for_which_somebody_waits_says_so() -> None:
    async with scene(settings(limits=Limits(unacknowledged=4096, frame=4096))) as (_, producer, consumer):
        await consumer.subscribe()
        await consumer.deliver()
        await consumer.ack()
        await producer.map(*range(400))  # more than the window takes
        await consumer.until(*range(400), ack=False)
        await producer.map(500)
        request = await producer.begin_sync()
        await consumer.talker.skip_to(AckWanted)
        assert not any(isinstance(message, DeliverHeard) for message in consumer.talker.heard)
        assert not any(message.prompt for message in consumer.delivered[1:])
        await consumer.ack()
        await consumer.until(*range(400), 500)
        assert consumer.delivered[-1].prompt
        assert isinstance(await producer.end_sync(request), Synced)


async def test_what_is_not_acknowledged_is_bounded_and_nothing_is_lost() -> None:
    async with scene(settings(limits=Limits(unacknowledged=4096, frame=4096))) as (daemon, producer, consumer):
        await consumer.subscribe(capacity=100)
        for start in range(0, 6000, 100):
            await producer.map(*range(start, start + 100))
        await until(lambda: daemon.spaces.open["vtd0"].space.seq == 6000)
        await consumer.talker.say(Ping(1))
        await consumer.talker.skip_to(Pong)
        consumer.catch_up()
        assert 0 < len(consumer.pages) < 2500
        (watch,) = daemon.proof.watches
        assert watch.member.statistics().conflations
        await consumer.ack()
        await consumer.until(*range(6000))


async def test_a_hand_over_of_many_events_goes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that failed at the bus are many ranges at once; `index` counts over all pieces."""
    monkeypatch.setattr("iommubus.service.session.TURN", 1 << 20)  # all is published before anything is handed over
    async with scene(settings(limits=Limits(unacknowledged=4096, frame=4096))) as (_, producer, consumer):
        pages = range(0, 10_000, 2)
        await producer.map(*pages)
        await consumer.subscribe(capacity=1)
        while len(consumer.pages) < len(pages):
            await consumer.ack(consumer.last)  # but for the last piece, which fills the window
            await consumer.deliver()
        await producer.unmap(*pages)
        assert isinstance(await producer.sync(0.01), SyncRefused)
        await consumer.ack()
        number = 0
        while consumer.pages:
            message = await consumer.deliver()
            if message.more:
                number = message.number
            else:
                await consumer.ack()
        pieces = [each for each in consumer.delivered if each.number == number]
        assert [each.more for each in pieces] == [True, False]
        assert len(pieces[0].events) == 4096
        await consumer.talker.say(Ping(1))
        await consumer.talker.skip_to(Pong)


async def test_subscribers_of_the_same_are_given_the_same_bytes() -> None:
    async with scene() as (daemon, producer, consumer), greeted(daemon) as talker:
        other = Consumer(talker)
        for each in consumer, other:
            await each.subscribe()
            await each.deliver()
            await each.ack()
        await turns()
        await producer.map(*range(100))
        for each in consumer, other:
            await each.until(*range(100))
        assert daemon.packer.lengths.count(100) == 1


async def test_all_subscriptions_of_a_connection_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is held up by others goes on when those acknowledge, who are asked to."""
    monkeypatch.setattr("iommubus.service.handlers.following.WINDOWS", 1)
    async with scene(settings(limits=Limits(unacknowledged=4096, frame=4096))) as (_, producer, consumer):
        other = Consumer(consumer.talker)
        for each in consumer, other:
            await each.subscribe()
            await each.deliver()
            await each.ack()
        await producer.map(*range(400))
        wanted = await consumer.talker.skip_to(AckWanted)
        first = consumer if wanted.subscription == consumer.number else other
        second = other if first is consumer else consumer
        for message in consumer.talker.heard:
            assert not isinstance(message, DeliverHeard) or message.subscription == first.number
            if isinstance(message, DeliverHeard):
                first.apply(message)
        assert len(first.pages) == 400
        await first.ack()
        await second.until(*range(400))


# -- acknowledgements and failures -----------------------------------------------------


@pytest.mark.parametrize("words", ["ack", "fail", "fail after ack", "fail index"])
async def test_words_about_what_never_was_end_the_connection(words: str) -> None:
    """And so does a failure of what was acknowledged: somebody may have relied on that."""
    async with scene() as (daemon, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1, ack=words == "fail after ack")
        if words == "ack":
            await consumer.ack(consumer.last + 1)
        elif words == "fail":
            await consumer.fail(consumer.last + 1, 0)
        else:
            await consumer.fail(consumer.last, 0 if words == "fail after ack" else 1)
        bye = await consumer.talker.ended()
        assert bye is not None
        assert bye.failure is not None
        assert bye.failure.kind == "BadMessage"
        assert daemon.counts.protocol_errors == 1


async def test_words_about_a_subscription_that_is_over_came_too_late() -> None:
    async with scene() as (_, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1, ack=False)
        await consumer.leave()
        await consumer.ack()
        await consumer.fail(consumer.last, 0)
        await consumer.talker.say(Using(consumer.number, 1), Translate(99, consumer.number, PAGE, 1))
        assert isinstance(to_error((await consumer.talker.skip_to(Refused)).failure), SubscriptionClosed)
        await consumer.leave()
        assert isinstance(await producer.sync(), Synced)


async def test_a_map_that_failed_is_told_by_the_next_sync_once() -> None:
    async with scene() as (daemon, producer, consumer):
        await consumer.subscribe()
        await consumer.deliver()
        await consumer.ack()
        await producer.map(1, 2)
        await consumer.until(1, 2, ack=False)
        await consumer.fail(consumer.last, 1)
        await consumer.ack()
        answer = await producer.sync()
        assert isinstance(answer, SyncRefused)
        (failure,) = answer.failures
        assert (failure.subscriber, failure.first, failure.cause) == (consumer.name, 2 * PAGE, NO_ROOM)
        assert isinstance(await producer.sync(), Synced)
        assert daemon.counts.map_failures >= 1


async def test_a_map_of_the_first_replay_that_failed_is_known_to_its_subscriber_alone() -> None:
    async with scene() as (_, producer, consumer):
        await producer.map(1, 2)
        await consumer.subscribe()
        await consumer.until(1, 2, ack=False)
        await consumer.fail(consumer.last, 1)
        await consumer.ack()
        assert isinstance(await producer.sync(), Synced)
        assert not any(isinstance(message, ReplayFailed) for message in consumer.talker.heard)


async def test_an_unmap_that_failed_comes_again_with_what_was_behind_it() -> None:
    """Until it was applied every sync fails with the old target; what had been sent meanwhile is taken back, too."""
    async with scene() as (_, producer, consumer):
        await producer.map(1, 2, 3)
        await consumer.subscribe()
        await consumer.until(1, 2, 3)
        await producer.unmap(1, 3)  # and one that is applied
        first = await consumer.deliver()
        await producer.map(1, to=100)
        second = await consumer.talker.skip_to(DeliverHeard)  # not applied: it overlaps what is about to fail
        assert (first.fails, second.fails) == (0, 0)
        consumer.pages[PAGE] = PAGE  # it could not be removed
        await consumer.fail(first.number, 0)
        consumer.last = second.number
        await consumer.ack()
        request = await producer.begin_sync()
        third = await consumer.deliver()
        assert (third.fails, third.prompt) == (1, True)
        assert [type(event) for event in third.events] == [Unmap, Map]
        await consumer.fail(third.number, 0)
        consumer.pages[PAGE] = PAGE
        await consumer.ack()
        answer = await producer.end_sync(request)
        assert isinstance(answer, SyncRefused)
        (missing,) = answer.missing
        assert (missing.cause, missing.pieces[0].first, missing.pieces[0].target) == (NO_ROOM, PAGE, PAGE)
        request = await producer.begin_sync()
        assert (await consumer.deliver()).fails == 2
        await consumer.ack()
        assert isinstance(await producer.end_sync(request), Synced)
        assert consumer.pages == {PAGE: 101 * PAGE, 2 * PAGE: 2 * PAGE}


async def test_a_failure_of_what_was_taken_back_is_counted_and_no_more() -> None:
    async with scene() as (daemon, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1)
        await producer.unmap(1)
        first = await consumer.deliver()
        await producer.map(1, to=100)
        second = await consumer.talker.skip_to(DeliverHeard)
        await consumer.fail(first.number, 0)
        await consumer.fail(second.number, 0)  # said before its client knew better
        await consumer.fail(first.number, 0)  # and this twice
        await consumer.ack(second.number)
        (watch,) = daemon.proof.watches
        await until(lambda: watch.member.completion.acked == second.number)
        request = await producer.begin_sync()
        third = await consumer.talker.skip_to(DeliverHeard)
        assert third.fails == 3
        await consumer.ack(third.number)
        assert isinstance(await producer.end_sync(request), Synced)


# -- contracts -------------------------------------------------------------------------


async def test_what_of_the_first_replay_is_past_the_limit_is_told_before_it_is_through() -> None:
    async with scene() as (_, producer, consumer):
        await producer.map(*range(200))
        subscribed = await consumer.subscribe(limit=50)
        await consumer.until(*range(50))
        told = [message for message in consumer.talker.heard if isinstance(message, ReplayFailed)]
        failures: list[MapFailure] = [failure for message in told for failure in message.failures]
        assert [message.subscription for message in told] == [subscribed.subscription] * 2
        assert [failure.first // PAGE for failure in failures] == list(range(50, 200))
        assert isinstance(to_error(failures[0].cause), TooManyMappings)
        assert consumer.current
        await producer.map(300)
        answer = await producer.sync()
        assert isinstance(answer, SyncRefused)
        assert [failure.first for failure in answer.failures] == [300 * PAGE]


async def test_what_is_past_the_limit_before_the_first_acknowledgement_is_told_by_the_next_sync() -> None:
    async with scene() as (_, producer, consumer):
        await producer.map(0, 1)
        await consumer.subscribe(limit=2)
        await consumer.until(0, 1, ack=False)
        await producer.map(2)
        await producer.sync(0.01)
        await consumer.ack()
        answer = await producer.sync()
        assert isinstance(answer, SyncRefused)
        assert [failure.first for failure in answer.failures] == [2 * PAGE]


async def test_hand_overs_that_a_contract_makes_empty_need_no_word() -> None:
    """Also the one with which the first replay ends: it took two blocks where there is room for one."""
    async with scene() as (_, producer, consumer):
        await producer.publish(MapRow(1, PAGE, 4 * PAGE - 1, 0, 3))
        await consumer.subscribe(limit=1, pow2=True)
        first = await consumer.deliver()
        assert (first.number, first.events, first.current) == (0, [], True)
        assert [type(each) for each in consumer.talker.heard].count(ReplayFailed) == 1
        await producer.publish(MapRow(2, 5 * PAGE, 8 * PAGE - 1, 0, 3))
        answer = await producer.sync()
        assert isinstance(answer, SyncRefused)
        assert (answer.missing, [failure.first for failure in answer.failures]) == ([], [5 * PAGE])


# -- misses ------------------------------------------------------------------------------


async def test_a_miss_is_answered_from_the_table() -> None:
    async with scene() as (_, producer, consumer):
        await producer.publish(MapRow(1, PAGE, 3 * PAGE - 1, 9 * PAGE, 1))
        await consumer.subscribe(caps=1)
        await consumer.talker.say(Translate(50, consumer.number, 2 * PAGE, 1))
        answer = await consumer.talker.skip_to(Translated)
        assert answer == Translated(50, Piece(PAGE, 3 * PAGE - 1, 9 * PAGE, 1), 1, 0)
        await producer.unmap(1, 2)
        message = await consumer.deliver()
        for request, iova, perm, error in (51, PAGE, 1, NotMapped), (52, 2**63, 0, NotMapped):
            await consumer.talker.say(Translate(request, consumer.number, iova, perm))
            assert isinstance(to_error((await consumer.talker.skip_to(Refused)).failure), error)
        await producer.publish(MapRow(4, PAGE, 2 * PAGE - 1, 9 * PAGE, 1))
        await producer.talker.say(Ping(1))
        await producer.talker.skip_to(Pong)
        await consumer.talker.say(Translate(53, consumer.number, PAGE, 3))
        assert isinstance(to_error((await consumer.talker.skip_to(Refused)).failure), AccessDenied)
        await consumer.talker.say(Translate(54, consumer.number, PAGE, 0))
        assert (await consumer.talker.skip_to(Translated)).number == message.number


async def test_a_miss_in_a_pull_space_is_answered_by_its_producer() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as one, greeted(daemon) as other:
        await one.space(offers=1, answers=True)
        consumer = Consumer(other)
        assert isinstance(await consumer.refused(), CapabilityRefused)
        await consumer.subscribe(caps=1)
        await other.say(Translate(50, consumer.number, PAGE, 1))
        ask = await one.skip_to(Ask)
        await one.say(Answer(ask.request, Piece(PAGE, 2 * PAGE - 1, 9 * PAGE, 3)))
        assert (await other.skip_to(Translated)).piece.target == 9 * PAGE
        await other.say(Translate(51, consumer.number, 5 * PAGE, 1))
        ask = await one.skip_to(Ask)
        await consumer.leave()
        await one.say(Answer(ask.request, Piece(5 * PAGE, 6 * PAGE - 1, 9 * PAGE, 3)))
        assert isinstance(to_error((await other.skip_to(Refused)).failure), SubscriptionClosed)


# -- who is let in -----------------------------------------------------------------------


async def test_what_cannot_be_had_is_refused_and_leaves_nothing() -> None:
    async with scene() as (daemon, _, consumer):
        assert isinstance(await consumer.refused(caps=0), EmptyMask)
        assert isinstance(await consumer.refused(ranges=[]), OutsideRanges)
        assert isinstance(await consumer.refused("vtd*"), BadName)
        assert isinstance(await consumer.refused(stops="exit"), ExitRefused)
        assert isinstance(await consumer.refused(stops="exit", holder=os.getpid()), ExitRefused)
        assert isinstance(await consumer.refused(holder=os.getpid()), BadHolder)
        assert isinstance(await consumer.refused(stops="exit", holder=2**31), BadHolder)
        await consumer.talker.say(Subscribe(99, [], 3, EVERYWHERE))
        assert isinstance(to_error((await consumer.talker.skip_to(Refused)).failure), BadName)
        assert len(daemon.proof.watches) == 0
        assert daemon.bus.statistics().spaces["vtd0"].subscriptions == {}


async def test_a_mailbox_is_never_larger_than_the_daemon_likes() -> None:
    async with scene() as (daemon, _, consumer):
        await consumer.subscribe(capacity=2**62)
        (watch,) = daemon.proof.watches
        assert watch.member.mailbox.capacity == 4096


async def test_no_two_subscriptions_have_one_name() -> None:
    async with scene() as (daemon, _, consumer):
        names = [
            (await consumer.subscribe(name=name)).name
            for name in ("vfio", "vfio", "", "the daemon", "x" * 255, "x" * 255)
        ]
        assert len(set(names)) == 6
        assert names[0] == "vfio"
        assert names[1].startswith("vfio#")
        assert names[3].startswith("the daemon#")
        assert max(map(len, names)) == 255
        taken = f"vtd0#{(daemon.new_id() + 2) & 0xFFFF_FFFF}"
        await consumer.subscribe(name=taken)
        assert (await consumer.subscribe()).name != taken


async def test_a_connection_has_no_more_subscriptions_than_the_setting_says() -> None:
    """What lost ones of the same peer may still use counts."""
    async with scene(settings(limits=Limits(subscriptions=2))) as (daemon, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1)
        await consumer.subscribe()
        assert isinstance(await consumer.refused(), LimitReached)
        await consumer.leave()
        consumer.talker.sock.close()
        await until(lambda: len(daemon.clients) == 1)
        async with greeted(daemon) as talker:
            again = Consumer(talker)
            await again.subscribe()
            assert isinstance(await again.refused(), LimitReached)
            (old, _) = [watch.number for watch in daemon.proof.watches]
            await again.subscribe(replaces=old)


async def test_rules_are_about_endpoints_and_the_spaces_they_are_in() -> None:
    rule = Rule(uid=4242, subscribe=("vtd0", "nic", "free"))
    async with Daemon(settings(rules=(rule,))) as daemon, greeted(daemon) as one, greeted(daemon, STRANGER) as other:
        producer, consumer = await Producer.of(one), Consumer(other)
        secret = await one.space("secret")
        await one.say(CreateEndpoint(80, "nic"), Attach(81, "nic", "secret", secret))
        await one.skip_to(Done)
        await one.skip_to(Done)
        for endpoint in "secret", "nic":
            refusal = await consumer.refused(endpoint)
            assert isinstance(refusal, MayNotSubscribe)
            assert refusal.name == "secret"
        await one.say(Attach(82, "nic", "vtd0", producer.epoch))
        await one.skip_to(Done)
        await producer.map(1)
        await consumer.subscribe("nic", "vtd0")
        await consumer.until(1)
        await one.say(Detach(83, "nic"))
        await consumer.until()
        assert daemon.counts.refusals == {"subscribe": 2}


async def test_an_endpoint_that_moves_where_a_rule_is_missing_fences_who_follows() -> None:
    rule = Rule(uid=4242, subscribe=("vtd0", "nic"))
    async with Daemon(settings(rules=(rule,))) as daemon, greeted(daemon) as one, greeted(daemon, STRANGER) as other:
        producer, consumer = await Producer.of(one), Consumer(other)
        secret = await one.space("secret")
        await one.say(CreateEndpoint(80, "nic"), Attach(81, "nic", "vtd0", producer.epoch))
        await producer.map(1)
        await consumer.subscribe("nic")
        await consumer.until(1)
        await one.say(Attach(82, "nic", "secret", secret))
        fenced = await other.skip_to(Fenced)
        assert fenced.subscription == consumer.number
        assert "'secret'" in fenced.reason
        assert 'subscribe = ["secret"]' in fenced.reason
        run = await other.skip_to(RunFence)
        assert await producer.missing() == [consumer.name]
        await other.say(Done(run.request))
        assert isinstance(await producer.sync(), Synced)
        daemon.rules = Rules((), 0)
        refusal = await consumer.refused("vtd0")
        assert isinstance(refusal, MayNotSubscribe)


async def test_a_producer_that_wants_to_be_asked_may_refuse() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as one, greeted(daemon) as other:
        await one.space(asks_demand=True)
        consumer = Consumer(other)
        request = other.request
        await other.say(Subscribe(request, ["vtd0"], 3, EVERYWHERE))
        asked = await one.skip_to(DemandChanged)
        assert (asked.old, asked.new) == (0, 3)
        await turns()
        assert daemon.bus.statistics().spaces["vtd0"].subscriptions == {}
        await one.say(Refused(asked.request, to_failure(ValueError("no caching mode"))))
        assert isinstance(to_error((await other.skip_to(Refused)).failure), DemandRefused)
        await other.say(Subscribe(request + 1, ["vtd0"], 3, EVERYWHERE))
        asked = await one.skip_to(DemandChanged)
        other.sock.close()
        await until(lambda: len(daemon.clients) == 1)
        await one.say(Done(asked.request))
        await turns(20)
        assert len(daemon.proof.watches) == 0
        del consumer


class FullDisk(Disk):
    """A disk that takes nothing."""

    def create(self, path: str) -> int:
        raise OSError(ENOSPC, "No space left on device", path)


class FillingDisk(Disk):
    """A disk that takes nothing once it is full."""

    full = False

    def create(self, path: str) -> int:
        return FullDisk().create(path) if self.full else super().create(path)


async def test_nobody_is_let_in_whom_the_record_does_not_name(tmp_path: Path) -> None:
    path = str(tmp_path / "leases")
    record = Record(path, "boot", FullDisk())
    async with scene(record=record) as (daemon, _, consumer):
        refusal = await consumer.refused()
        assert isinstance(refusal, LeasesUnwritable)
        assert len(daemon.proof.watches) == 0
        assert len(daemon.proof.health(daemon.clock())) == 1
    record.close()


async def test_the_record_names_whoever_is_let_in(tmp_path: Path) -> None:
    path = str(tmp_path / "leases")
    record = Record(path, "boot")
    with Ends() as ends:
        async with scene(record=record) as (daemon, _, consumer), visible(daemon, ends.watched) as talker:
            await consumer.subscribe()
            assert load(path, "boot") == Granted("boot", 10.0)
            hardware = Consumer(talker)
            assert (await hardware.subscribe(stops="exit")).lease_us is None
            await until(lambda: load(path, "boot").exits)
            (member,) = load(path, "boot").exits
            assert (member.pid, member.subscription) == (ends.process.pid, str(hardware.number))
            await hardware.leave()
            assert load(path, "boot").exits == ()
    ends.watched.close()
    record.close()


async def test_nothing_is_handed_over_that_a_client_could_not_come_back_for() -> None:
    """Whose process is waited for is known to its client first; lost before, it has nothing and is gone."""
    with Ends() as ends:
        async with scene() as (daemon, producer, consumer), visible(daemon, ends.watched) as talker:
            await producer.map(1)
            hardware, left = Consumer(talker), Consumer(talker)
            hardware.hears = left.hears = False
            await hardware.subscribe(stops="exit")
            await left.subscribe(stops="exit")
            await left.leave()
            await consumer.subscribe()
            await consumer.until(1)
            pings = [message for message in talker.heard if isinstance(message, Ping)]
            assert not any(isinstance(message, DeliverHeard) for message in talker.heard)
            assert len(daemon.proof.watches) == 2
            if len(pings) == 2:
                await talker.say(Pong(pings[1].number), Pong(4711))
            talker.sock.close()
            await until(lambda: len(daemon.clients) == 2)
            assert len(daemon.proof.watches) == 1
            await producer.unmap(1)
            await consumer.until()
            assert isinstance(await producer.sync(), Synced)
    ends.watched.close()


async def test_a_disk_that_is_full_before_the_first_hand_over_fences(tmp_path: Path) -> None:
    disk = FillingDisk()
    record = Record(str(tmp_path / "leases"), "boot", disk)
    with Ends() as ends:
        async with scene(record=record) as (daemon, producer, _), visible(daemon, ends.watched) as talker:
            await producer.map(1)
            hardware = Consumer(talker)
            hardware.hears = False
            await hardware.subscribe(stops="exit")
            ping = await talker.skip_to(Ping)
            disk.full = True
            await talker.say(Pong(ping.number))
            assert "No space left" in (await talker.skip_to(Fenced)).reason
            assert len(daemon.proof.watches) == 0
            assert isinstance(await producer.sync(), Synced)
    ends.watched.close()
    record.close()


# -- the end -----------------------------------------------------------------------------


async def test_a_stream_ends_with_its_space() -> None:
    async with scene() as (daemon, producer, consumer), greeted(daemon) as talker:
        await producer.map(1)
        idle = Consumer(talker)
        await idle.subscribe(caps=1)
        await idle.deliver()
        await consumer.subscribe()
        await consumer.until(1)
        await producer.talker.say(CloseSpace(90, "vtd0", producer.epoch))
        await consumer.until(ack=False)
        assert consumer.ended
        await consumer.talker.say(Ping(1))
        await consumer.talker.skip_to(Pong)
        assert not any(isinstance(message, Ended) for message in consumer.talker.heard)
        await consumer.ack()
        await consumer.leave()
        await idle.deliver()
        assert idle.ended


async def test_a_stream_that_had_nothing_more_to_give_ends_by_a_word() -> None:
    async with scene() as (_, producer, consumer):
        await consumer.subscribe()
        await consumer.deliver()
        await producer.talker.say(CloseSpace(90, "vtd0", producer.epoch))
        assert (await consumer.talker.skip_to(Ended)).subscription == consumer.number


async def test_nothing_comes_behind_the_end() -> None:
    """Although what failed then is tried again: who has left the stream has dropped it, or is fenced."""
    async with scene() as (_, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1)
        await producer.talker.say(CloseSpace(90, "vtd0", producer.epoch))
        await consumer.until(ack=False)
        await consumer.fail(consumer.last, 0)
        await consumer.ack()
        await producer.talker.say(Sync(91, SECOND // 20, [], [SpaceEpoch("vtd0", producer.epoch)]))
        assert isinstance(await producer.end_sync(91), SyncRefused)
        await consumer.ack()
        await consumer.talker.say(Ping(1))
        await turns()
        await consumer.talker.say(Ping(2))
        assert isinstance(await consumer.talker.next(), Pong)
        assert isinstance(await consumer.talker.next(), Pong)
        await consumer.leave()


async def test_who_leaves_clean_has_dropped_everything() -> None:
    async with scene() as (daemon, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1, ack=False)
        await producer.unmap(1)
        await consumer.leave()
        answer = await producer.sync()
        assert isinstance(answer, Synced)
        assert len(daemon.proof.watches) == 0
        assert daemon.counts.fences == 0


async def test_who_leaves_unclean_looks_before_each_use_or_has_to_be_stopped() -> None:
    with Ends() as ends:
        async with scene() as (daemon, producer, consumer), visible(daemon, ends.watched) as talker:
            hardware, pinned = Consumer(talker), Consumer(talker)
            await producer.map(1)
            for each, stops in (consumer, "lease"), (pinned, "lease"), (hardware, "exit"):
                await each.subscribe(stops=stops, has_on_fence=True)
                await each.until(1)
            await talker.say(Using(pinned.number, 1))
            for each in consumer, pinned, hardware:
                await each.leave(clean=False, reason="its block was left by KeyError")
            await producer.unmap(1)
            assert set(await producer.missing()) == {pinned.name, hardware.name}
            await talker.say(Using(pinned.number, 0))
            request = await producer.begin_sync()
            asked = await talker.skip_to(RunFence)
            while asked.subscription != hardware.number:
                asked = await talker.skip_to(RunFence)
            await talker.say(Done(asked.request))
            assert isinstance(await producer.end_sync(request), Synced)
            assert daemon.counts.fences == 3
    ends.watched.close()


async def test_who_was_fenced_may_still_say_that_everything_was_dropped() -> None:
    async with scene() as (_, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1)
        await producer.talker.say(Fence(95, "vtd0", consumer.name))
        await consumer.talker.skip_to(Fenced)
        await consumer.leave()
        assert (await producer.talker.skip_to(FenceJudged)).proven
        assert isinstance(await producer.sync(), Synced)


async def test_a_fence_asks_the_client_and_believes_it() -> None:
    async with scene() as (_, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1, ack=False)
        await producer.talker.say(Fence(95, "vtd0", consumer.name))
        fenced = await consumer.talker.skip_to(Fenced)
        assert fenced.reason == "the producer fenced it"
        run = await consumer.talker.skip_to(RunFence)
        assert run.subscription == consumer.number
        await consumer.ack()  # was on its way
        await consumer.talker.say(Done(run.request))
        assert (await producer.talker.skip_to(FenceJudged)).proven
        await producer.map(2)
        await consumer.talker.say(Ping(1))
        assert isinstance(await consumer.talker.next(), Pong)


async def test_what_is_under_way_when_somebody_is_fenced_comes_before_the_word() -> None:
    """A mailbox past its limit fences in the middle of an event's way."""
    async with scene() as (daemon, producer, consumer):
        await consumer.subscribe()
        await consumer.deliver()
        await consumer.ack()
        (watch,) = daemon.proof.watches
        space = daemon.spaces.open["vtd0"].space
        space.map(PAGE, PAGE, target=0, perm=3)  # type: ignore[arg-type]
        watch.member.lose("it left more ranges dirty than its limit")
        await consumer.talker.skip_to(Fenced)
        run = await consumer.talker.skip_to(RunFence)
        assert watch.member.state is State.UNPROVEN
        await consumer.talker.say(Done(run.request))
        assert isinstance(await producer.sync(), Synced)


async def test_a_lost_subscriber_counts_until_its_lease_has_run_out() -> None:
    async with Daemon(settings(leases=Leases(seconds=0.3))) as daemon, lively(daemon) as one, greeted(daemon) as other:
        producer, consumer = await Producer.of(one), Consumer(other)
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1)
        end = daemon.clock() + 0.1
        consumer.talker.sock.close()
        await until(lambda: len(daemon.clients) == 1)
        await producer.unmap(1)
        assert await producer.missing(0.01) == [consumer.name]
        assert isinstance(await producer.sync(20), Synced)
        assert daemon.clock() > end
        await until(lambda: not daemon.proof.watches)


async def test_who_is_back_goes_on_where_it_dropped_everything() -> None:
    async with scene() as (daemon, producer, consumer):
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1)
        consumer.talker.sock.close()
        await until(lambda: len(daemon.clients) == 1)
        await producer.unmap(1)
        assert await producer.missing(0.01) == [consumer.name]
        async with greeted(daemon) as talker:
            again = Consumer(talker)
            await again.subscribe(replaces=consumer.number)
            await again.deliver()
            await again.ack()
            assert isinstance(await producer.sync(), Synced)
            await again.subscribe(replaces=4711)  # nobody's


async def test_a_subscription_of_a_half_dead_connection_can_be_replaced() -> None:
    async with scene() as (daemon, producer, consumer), greeted(daemon) as talker:
        await producer.map(1)
        await consumer.subscribe()
        await consumer.until(1)
        again = Consumer(talker)
        await again.subscribe(replaces=consumer.number)
        await again.until(1)
        await consumer.ack()
        await consumer.talker.say(Ping(1))
        assert isinstance(await consumer.talker.next(), Pong)
        assert len(daemon.proof.watches) == 1


# -- real processes ---------------------------------------------------------------------

CONSUMER = """
import socket, sys
from iommubus.wire.connection import ClientConnection
from iommubus.wire.messages.greeting import Hello, Ping, Pong, Welcome
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.subscribing import Ack, Subscribe, Subscribed
from iommubus.wire.messages.values import Range

path, stops = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
wire = ClientConnection()
number = 0
sock.sendall(wire.send(Hello(1, 1, stops)))
sock.settimeout(0.05)
def serve():
    global number
    while True:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            sock.sendall(wire.send(Ping(1)))
            continue
        if not data:
            return
        wire.receive_data(data)
        while (message := wire.next_message()) is not None:
            if isinstance(message, Welcome):
                sock.sendall(wire.send(Subscribe(1, ["vtd0"], 3, [Range(0, 2**64 - 1)], stops=stops)))
            elif isinstance(message, Subscribed):
                number = message.subscription
            elif isinstance(message, Ping):
                sock.sendall(wire.send(Pong(message.number)))
            elif isinstance(message, DeliverHeard):
                sock.sendall(wire.send(Ack(number, message.number)))
                print(message.number, flush=True)

try:
    serve()
except OSError:
    pass
print("closed", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def real(daemon: Daemon, path: Path, stops: str) -> AsyncGenerator[subprocess.Popen[str]]:
    """Give a process that subscribes by a real Unix socket, once it has applied a mapping."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.setblocking(False)
        command = [sys.executable, "-c", CONSUMER, str(path), stops]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        try:
            sock, _ = await loop.sock_accept(listening)
            peer, seen = peer_of(sock), process_of(sock, ticks_now())
            await loop.connect_accepted_socket(lambda: daemon.session(peer, seen), sock)
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) != ""
            yield process
        finally:
            process.kill()
            process.wait()
            for stream in process.stdin, process.stdout:
                assert stream is not None
                stream.close()


@asynccontextmanager
async def lively(daemon: Daemon) -> AsyncGenerator[Talker]:
    """Give a connection whose lease is renewed all the time."""

    async def ping() -> None:
        while True:
            await talker.say(Ping(1))
            await asyncio.sleep(0.02)

    async with greeted(daemon) as talker:
        pings = asyncio.create_task(ping())
        try:
            yield talker
        finally:
            pings.cancel()


@pytest.mark.parametrize("stops", ["lease", "exit"])
async def test_a_process_that_is_killed_is_stopped(tmp_path: Path, stops: str) -> None:
    """At once, whatever its lease; the record forgets it."""
    record = Record(str(tmp_path / "leases"), "boot")
    async with Daemon(settings(leases=Leases(seconds=60)), record=record) as daemon, greeted(daemon) as talker:
        producer = await Producer.of(talker)
        await producer.map(1)
        async with real(daemon, tmp_path / "bus", stops) as process:
            await until(lambda: all(watch.member.completion.current for watch in daemon.proof.watches))
            process.send_signal(signal.SIGKILL)
            await producer.unmap(1)
            answer = await producer.sync(30)
            assert isinstance(answer, Synced)
            await until(lambda: not daemon.proof.watches)
        await until(lambda: load(str(tmp_path / "leases"), "boot").exits == ())
    record.close()


async def test_a_process_that_is_stopped_holds_up_a_sync_for_its_lease_at_most(tmp_path: Path) -> None:
    async with Daemon(settings(leases=Leases(seconds=0.4))) as daemon, lively(daemon) as talker:
        producer = await Producer.of(talker)
        await producer.map(1)
        async with real(daemon, tmp_path / "bus", "lease") as process:
            process.send_signal(signal.SIGSTOP)
            end = daemon.clock() + 0.2
            await producer.unmap(1)
            assert await producer.missing(0.01) != []
            answer = await producer.sync(20)
            assert isinstance(answer, Synced)
            assert daemon.clock() > end
            process.send_signal(signal.SIGCONT)
            assert process.stdout is not None
            while (line := await asyncio.to_thread(process.stdout.readline)) != "closed\n":
                assert line


async def test_a_process_that_is_stopped_is_not_stopped_for_good(tmp_path: Path) -> None:
    """Its hardware goes on: it is missing for as long as it is there."""
    async with Daemon(settings(leases=Leases(seconds=0.2))) as daemon, lively(daemon) as talker:
        producer = await Producer.of(talker)
        await producer.map(1)
        async with real(daemon, tmp_path / "bus", "exit") as process:
            process.send_signal(signal.SIGSTOP)
            await until(lambda: len(daemon.clients) == 1)
            await producer.unmap(1)
            assert len(await producer.missing(0.1)) == 1
            process.send_signal(signal.SIGKILL)
            assert isinstance(await producer.sync(20), Synced)
