"""Observers of clients: what they see, what they lose, and whom they never delay."""

import pytest

from iommubus.caps import Cap
from iommubus.events import Lost, Map, Observed, Unmap
from iommubus.service.daemon import Daemon
from iommubus.service.session import Session
from iommubus.service.settings.config import Config, Limits
from iommubus.service.settings.rules import Rule
from iommubus.wire.messages.greeting import Ping, Pong
from iommubus.wire.messages.heard import ObservedHeard
from iommubus.wire.messages.publishing import Published
from iommubus.wire.messages.replies import Done, Refused
from iommubus.wire.messages.rows import DevIotlbUnmapRow, Row
from iommubus.wire.messages.values import MemoryName
from iommubus.wire.messages.watching import Observe, Observing, Unobserve
from tests.talkers import PAGE, STRANGER, Talker, gone, greeted, page, publishing, settings, until

pytestmark = pytest.mark.asyncio


async def observe(talker: Talker, *patterns: str, kinds: Cap = Cap.ALL, capacity: int = 0) -> int:
    """Begin to observe; return the number of the observer."""
    await talker.say(Observe(talker.request, list(patterns), int(kinds), capacity))
    return (await talker.skip_to(Observing)).observer


async def seen(talker: Talker) -> list[Observed]:
    """Return what an observer is told of next."""
    return (await talker.hear(ObservedHeard)).events


async def test_an_observer_sees_what_it_asked_for() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as talker:
        one, other = await producer.space("vtd0"), await producer.space("smmu0")
        number = await observe(talker, "vtd*")
        await producer.say(publishing("vtd0", one, 1, page(1), gone(1)), publishing("smmu0", other, 1, page(1)))
        message = await talker.hear(ObservedHeard)

        assert (message.observer, message.end) == (number, False)
        assert [type(event) for event in message.events] == [Map, Unmap]
        later = await producer.space("vtd9")
        await producer.say(publishing("vtd9", later, 1, page(1)))
        assert [event.space for event in await seen(talker)] == ["vtd9"]


async def test_kinds_that_were_left_out_are_not_lost() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await observe(talker, kinds=Cap.UNMAP | Cap.DEVIOTLB_UNMAP, capacity=2)
        rows: list[Row] = [page(1), page(2), page(3), gone(1), DevIotlbUnmapRow(1, 0, PAGE - 1)]
        await talker.say(publishing("vtd0", epoch, 1, *rows))
        message = await talker.skip_to(ObservedHeard)
        assert [type(event).__name__ for event in message.events] == ["Unmap", "DevIotlbUnmap"]


async def test_an_observer_that_ends_is_told_nothing_more() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as talker:
        epoch = await producer.space()
        number = await observe(talker)
        await producer.say(publishing("vtd0", epoch, 1, page(1)))
        await seen(talker)
        await talker.say(Unobserve(60, number), Unobserve(61, number))
        await talker.hear(Done)
        await talker.hear(Done)
        await producer.say(publishing("vtd0", epoch, 2, page(2)))
        await producer.skip_to(Published)
        await talker.say(Ping(1))
        await talker.hear(Pong)
        assert daemon.bus.statistics().observers == ()


async def test_a_slow_observer_is_told_what_it_was_too_slow_for() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer:
        epoch = await producer.space()
        async with greeted(daemon, name="slow") as talker:
            await observe(talker, capacity=3)
            session = next(one for one in daemon.connections if isinstance(one, Session) and one.name == "slow")
            session.pause_writing()
            await producer.say(publishing("vtd0", epoch, 1, *(page(at) for at in range(10))))
            await producer.skip_to(Published)
            await talker.say(Ping(1))
            await talker.hear(Pong)
            (counters,) = daemon.bus.statistics().observers
            assert (counters.lag, counters.lost) == (3, 7)
            session.resume_writing()
            events = await seen(talker)
            events += await seen(talker) if len(events) == 3 else []
            assert [type(event) for event in events] == [Map, Map, Map, Lost]
            lost = events[-1]
            assert isinstance(lost, Lost)
            assert (lost.count, lost.seq) == (7, 10)
            await producer.say(publishing("vtd0", epoch, 2, gone(1)))
            assert [type(event) for event in await seen(talker)] == [Unmap]
        await until(lambda: daemon.bus.statistics().observers == ())


async def test_names_of_full_length_take_several_messages() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as talker:
        letter = "\N{OLD PERSIAN SIGN A}"
        memories = [daemon.bus.memories.add(f"{at:05}{letter * 250}", 1 << 20, None) for at in range(1500)]
        epoch = await producer.space()
        await observe(talker)
        space = daemon.spaces.open["vtd0"].space
        for at, memory in enumerate(memories):
            space.map(at * PAGE, PAGE, 0, 1, memory=memory)  # type: ignore[arg-type]
        told: list[Observed] = []
        while len(told) < len(memories):
            told += await seen(talker)
        assert [event.memory for event in told if isinstance(event, Map)] == memories
        assert MemoryName.of(memories[0]).generation == 1
        assert epoch


async def test_observers_are_limited() -> None:
    async with Daemon(settings(limits=Limits(observers=1))) as daemon, greeted(daemon) as talker:
        number = await observe(talker)
        await talker.say(Observe(50))
        assert (await talker.hear(Refused)).failure.kind == "LimitReached"
        await talker.say(Unobserve(51, number))
        await talker.hear(Done)
        await observe(talker)


async def test_an_observer_sees_only_what_a_rule_lets_it() -> None:
    rules = (Rule(uid=4242, observe=("vm1*",)),)
    async with (
        Daemon(settings(rules=rules)) as daemon,
        greeted(daemon) as producer,
        greeted(daemon, STRANGER) as talker,
    ):
        hidden = await producer.space("vm20")
        await observe(talker)
        shown = await producer.space("vm10")
        await producer.say(publishing("vm20", hidden, 1, page(1)), publishing("vm10", shown, 1, page(1)))
        assert [event.space for event in await seen(talker)] == ["vm10"]
        await talker.say(Observe(50, ["vm20"]), Observe(51, ["vm11"]))
        assert [(await talker.hear(Refused)).failure.kind for _ in range(2)] == ["RuleMissing", "UnknownName"]


async def test_whoever_may_observe_nothing_is_refused() -> None:
    rules = (Rule(uid=4242, publish=("*",)),)
    async with Daemon(settings(rules=rules)) as daemon, greeted(daemon, STRANGER) as talker:
        await talker.say(Observe(50), Observe(51, ["vm*"]))
        refused = [await talker.hear(Refused) for _ in range(2)]
        assert 'observe = ["*"]' in refused[0].failure.text
        assert 'observe = ["vm*"]' in refused[1].failure.text
        assert daemon.counts.refusals["observe"] == 2


async def test_the_stream_ends_with_the_bus() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        number = await observe(talker)
        await daemon.bus.close()
        assert await talker.hear(ObservedHeard) == ObservedHeard(number, [], end=True)
