"""One connection to the daemon, against a scripted one in a virtual loop."""

# pyright: reportPrivateUsage=false

import asyncio
from typing import Any, Final

import pytest

from iommubus.client.channel import CHUNK, Channel
from iommubus.errors import BadMessage, Disconnected, FrameTooLarge, NameTaken, OutOfPlace, ProtocolError, RuleMissing
from iommubus.wire.codec import encode
from iommubus.wire.failures import to_failure
from iommubus.wire.messages import Side
from iommubus.wire.messages.greeting import Bye, Draining, Feature, Hello, Ping, Pong, Welcome
from iommubus.wire.messages.publishing import Published
from iommubus.wire.messages.queries import ListSpaces, Spaces
from iommubus.wire.messages.replies import Cancel, Done, Refused
from iommubus.wire.messages.spaces import CloseEndpoint, CreateSpace, Detach, SpaceCreated
from iommubus.wire.messages.subscribing import Ack, Subscribe, Subscribed
from iommubus.wire.messages.syncing import Sync, Synced
from iommubus.wire.messages.values import Range
from tests.client.rig import Rig, rigged
from tests.client.scripted import HEARTBEAT, LEASE, WELCOME, Script, begin, until


def close(number: int) -> CloseEndpoint:
    return CloseEndpoint(number, "device")


@rigged
async def test_a_client_greets_and_is_let_in(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)

    assert script.heard[0] == Hello(1, 1, "client", 0, 2)
    assert reports.opened_channels == [channel]
    assert (channel.welcome, channel.agreement.version, channel.features) == (WELCOME, 1, Feature.RESUME)
    assert rig.loop.time() < channel.lease_end <= rig.loop.time() + LEASE
    channel.lose(ValueError())


@rigged
async def test_what_is_said_in_one_turn_leaves_in_one_write(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    del script.chunks[:]

    for number in range(5):
        channel.send(Ack(1, number))
    await until(lambda: len(script.of(Ack)) == 5)

    assert script.chunks == [5]
    channel.lose(ValueError())


class Talker:
    """A source that says so many acknowledgements each time it is asked."""

    def __init__(self, subscription: int, times: int = 1) -> None:
        self.subscription = subscription
        self.times = times
        self.asked = 0

    def flush(self, channel: Channel) -> None:
        self.asked += 1
        for _ in range(self.times):
            channel.send(Ack(self.subscription, self.asked))


@rigged
async def test_sources_speak_once_and_before_what_is_said_after_they_asked(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    source = Talker(1)

    channel.send(Ack(2, 0))
    channel.flush_soon(source)
    channel.flush_soon(source)
    channel.send(Ack(2, 1))
    await until(lambda: len(script.of(Ack)) == 3)

    assert script.of(Ack) == [Ack(2, 0), Ack(1, 1), Ack(2, 1)]
    assert source.asked == 1
    channel.lose(ValueError())


@rigged
async def test_sources_wait_while_the_daemon_reads_nothing(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    loud, late = Talker(1, CHUNK // 4), Talker(2)
    script.transport.pause_reading()

    channel.flush_soon(loud)
    channel.flush_soon(late)
    await asyncio.sleep(0.01)
    assert (loud.asked, late.asked, channel.writable) == (1, 0, False)
    script.transport.resume_reading()
    await until(lambda: late.asked)

    assert channel.writable
    channel.lose(ValueError())


@rigged
async def test_a_request_is_answered(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    script.on_hear = lambda message: script.say(Done(message.request)) if isinstance(message, CloseEndpoint) else None

    assert await channel.request(close) == Done(1)
    assert await channel.request(close) == Done(2)
    channel.lose(ValueError())


@rigged
async def test_a_refusal_is_raised(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    failure = to_failure(NameTaken("vtd0"))
    script.on_hear = lambda message: script.say(Refused(1, failure)) if isinstance(message, CloseEndpoint) else None

    with pytest.raises(NameTaken):
        await channel.request(close)
    channel.lose(ValueError())


@rigged
async def test_an_answer_in_parts_is_whole_at_the_last(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    parts = [Synced(1, 5, [], more=True), Synced(1, 6, [])]
    script.on_hear = lambda message: script.say(*parts) if isinstance(message, Sync) else None

    assert await channel.request_all(lambda number: Sync(number, 0)) == parts
    channel.lose(ValueError())


@rigged
async def test_an_answer_is_given_before_what_comes_behind_it(rig: Rig) -> None:
    order: list[object] = []
    script = Script()
    channel, _ = await begin(rig, script, {Published: lambda _, message: order.append(message)})
    published = Published("vtd0", 5, 1)

    channel.ask(lambda number: CreateSpace(number, "vtd0", 1, 7, [], 3), order.append)
    await until(lambda: script.of(CreateSpace))
    script.say(SpaceCreated(1, 5), published)
    await until(lambda: len(order) == 2)

    assert order == [SpaceCreated(1, 5), published]
    channel.lose(ValueError())


@rigged
async def test_a_request_that_is_cancelled_says_so_and_its_answer_is_passed_over(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await channel.request(close)
    await until(lambda: script.of(Cancel))
    script.say(Done(1))
    await asyncio.sleep(0.1)

    assert (script.of(Cancel), reports.errors) == ([Cancel(1)], [])
    channel.lose(ValueError())


@rigged
async def test_what_is_made_for_nobody_is_undone(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    taken: list[object] = []
    undone: list[object] = []

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await channel.make(close, taken.append, undone.append)
    script.say(Done(1))
    await until(lambda: undone)

    assert (taken, undone, script.of(Cancel)) == ([], [Done(1)], [])
    channel.lose(ValueError())


@rigged
async def test_a_lost_connection_answers_what_waits(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)
    waiting = asyncio.create_task(channel.request(close))
    await until(lambda: script.of(CloseEndpoint))

    rig.cut()
    with pytest.raises(Disconnected, match="unix:/daemon"):
        await waiting
    with pytest.raises(Disconnected):
        await channel.request(close)

    assert channel.send(Ack(1, 1)) == 0
    channel.flush_soon(Talker(1))
    assert len(reports.errors) == 1
    await channel.wait_lost()
    await channel.wait_closed()


@rigged
async def test_a_client_that_leaves_says_its_last_words(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)
    channel.send(Ack(1, 1))
    channel.flush_soon(Talker(2))

    channel.leave("enough")
    await until(lambda: script.lost)

    assert script.heard[-3:] == [Ack(1, 1), Ack(2, 1), Bye("enough")]
    assert len(reports.errors) == 1
    channel.leave()
    await channel.wait_closed()


ENDS: Final[dict[str, tuple[bytes, type[Exception]]]] = {
    "it says goodbye": (encode(Side.DAEMON, Bye("restarting")), Disconnected),
    "it says why": (encode(Side.DAEMON, Bye("", to_failure(RuleMissing("a", "b", "c", "d")))), RuleMissing),
    "it greets again": (encode(Side.DAEMON, WELCOME), OutOfPlace),
    "it answers what nobody asked": (encode(Side.DAEMON, Done(9)), BadMessage),
    "it says nothing that can be": (b"\1\0\0\0\xc1", BadMessage),
    "it says too much": (b"\xff\xff\xff\xff", FrameTooLarge),
}


@pytest.mark.parametrize("how", ENDS)
def test_why_a_connection_ended_is_known(how: str) -> None:
    words, kind = ENDS[how]

    @rigged
    async def case(rig: Rig) -> None:
        script = Script()
        _, reports = await begin(rig, script)

        script.transport.write(words)
        await until(lambda: reports.errors and script.lost)

        assert [type(error) for error in reports.errors] == [kind]
        blamed = [bye.failure is not None for bye in script.of(Bye)]
        assert blamed == [True] * issubclass(kind, ProtocolError)

    case()


@rigged
async def test_an_answer_to_something_else_breaks_the_protocol(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)

    channel.ask(lambda number: Detach(number, "device"), lambda _: None)
    await until(lambda: script.of(Detach))
    script.say(Spaces(1, []))
    await until(lambda: reports.errors)

    assert isinstance(reports.errors[0], OutOfPlace)


@rigged
async def test_a_daemon_that_chooses_what_was_not_asked_for_is_left(rig: Rig) -> None:
    script = Script(welcome=Welcome(2, 0, 7, 12))
    script.welcomes = False
    _, reports = await begin(rig, script)

    await until(lambda: reports.errors)

    assert isinstance(reports.errors[0], BadMessage)
    assert reports.opened_channels == []


@rigged
async def test_draining_is_known(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)

    script.say(Draining("an operator stops it", 5))
    await until(lambda: channel.draining)

    assert (channel.draining, channel.open) == ("an operator stops it", True)
    channel.lose(ValueError())


# -- time --------------------------------------------------------------------------------


@rigged
async def test_a_ping_is_answered_at_once(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)

    script.say(Ping(77))
    await until(lambda: script.of(Pong))

    assert script.of(Pong) == [Pong(77)]
    channel.lose(ValueError())


@rigged
async def test_the_daemon_can_be_asked_for_a_sign_of_life(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    asked = [asyncio.ensure_future(channel.ping()) for _ in range(2)]
    await until(lambda: len(script.of(Ping)) == 2)
    start = rig.loop.time()
    await asyncio.sleep(0.25)

    script.say(Pong(2))
    assert await asked[1] >= rig.loop.time() - start > 0
    assert not asked[0].done()
    script.say(Pong(1), Pong(1), Pong(99))
    assert await asked[0] >= 0.25
    channel.lose(ValueError())


@rigged
async def test_a_sign_of_life_that_will_not_come_is_not_waited_for(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    given_up, left = asyncio.ensure_future(channel.ping()), asyncio.ensure_future(channel.ping())
    await until(lambda: len(script.of(Ping)) == 2)

    given_up.cancel()
    await asyncio.sleep(0)
    channel.lose(ValueError("gone"))

    with pytest.raises(Disconnected, match="gone"):
        await left
    with pytest.raises(Disconnected):
        await channel.ping()


def answer_pings(script: Script, until_number: float = float("inf")) -> None:
    script.on_hear = lambda message: (
        script.say(Pong(message.number)) if isinstance(message, Ping) and message.number <= until_number else None
    )


@rigged
async def test_each_pong_renews_the_lease_from_when_its_ping_was_said(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)
    answer_pings(script)
    start = rig.loop.time()

    await asyncio.sleep(10.5 * HEARTBEAT)

    assert len(script.of(Ping)) == 10
    assert not reports.errors
    assert channel.lease_end <= start + 10 * HEARTBEAT + LEASE
    assert channel.lease_end >= start + 9.9 * HEARTBEAT + LEASE
    channel.lose(ValueError())


@rigged
async def test_a_lease_that_nobody_renews_is_given_up_half_a_heartbeat_before_its_end(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)
    answer_pings(script, 4)

    await until(lambda: reports.errors)

    assert isinstance(reports.errors[0], Disconnected)
    left = channel.lease_end - rig.loop.time()
    assert HEARTBEAT / 2 - 0.01 <= left <= HEARTBEAT / 2


@rigged
async def test_a_renewal_that_comes_too_late_is_none(rig: Rig) -> None:
    script = Script()
    channel, reports = await begin(rig, script)
    await until(lambda: script.of(Ping))
    skip = Skip(rig)
    channel._clock = skip.clock

    skip.seconds = 2 * LEASE  # the machine was suspended, and no timer has noticed
    script.say(Pong(1))
    await until(lambda: reports.errors)

    assert channel.lease_end < skip.clock()


class Skip:
    """A clock that goes on where timers do not."""

    def __init__(self, rig: Rig) -> None:
        self.seconds = 0.0
        self._rig = rig

    def clock(self) -> float:
        return self._rig.loop.time() + self.seconds


@rigged
async def test_a_registration_renews_the_lease(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)
    await asyncio.sleep(0.5)
    said_at = rig.loop.time()

    channel.ask(lambda number: Subscribe(number, ["vtd0"], 1, [Range(0, 7)]), lambda _: None)
    await until(lambda: script.of(Subscribe))
    await asyncio.sleep(0.2)
    script.say(Subscribed(1, 5, "vhost"))
    await asyncio.sleep(0.1)

    assert channel.lease_end == said_at + LEASE
    channel.lose(ValueError())


@rigged
async def test_without_a_limit_nothing_is_given_up(rig: Rig) -> None:
    script = Script(welcome=Welcome(1, 2, 7, 12))
    channel, reports = await begin(rig, script)

    await asyncio.sleep(1000)

    assert (reports.errors, script.of(Ping), channel.lease_end) == ([], [], float("inf"))
    channel.lose(ValueError())


@rigged
async def test_a_list_can_be_asked_for_while_others_wait(rig: Rig) -> None:
    script = Script()
    channel, _ = await begin(rig, script)

    def answer(message: Any) -> None:
        if isinstance(message, ListSpaces):  # the second, first
            script.say(Spaces(message.request, []), Done(1))

    script.on_hear = answer
    first = asyncio.create_task(channel.request(close))
    await asyncio.sleep(0)
    assert await channel.request(ListSpaces) == Spaces(2, [])
    assert await first == Done(1)
    channel.lose(ValueError())
