"""Two hundred subscribers over fifty spaces, some of whom behave badly: the others do not notice."""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Deadlines, Leases
from iommubus.wire.messages import ClientMessage
from iommubus.wire.messages.greeting import Bye, Hello, Ping, Pong
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.queries import Counters, ListSubscribers, Statistics, SubscriberInfo, Subscribers, WaitSpace
from iommubus.wire.messages.replies import Done
from iommubus.wire.messages.subscribing import Ack, Fenced, Leave, Subscribe, Subscribed
from iommubus.wire.messages.syncing import Drain, Fence, Sync, Synced, SyncRefused
from iommubus.wire.messages.values import Range
from iommubus.wire.messages.watching import Observe, Observing
from tests.attacked import MIB, DaemonProcess, serving
from tests.talkers import PAGE, Talker, gone, page, publishing, settings, talking, until

SPACES: Final = 50
SUBSCRIBERS: Final = 200
CONNECTIONS: Final = 10
ROUNDS: Final = 5
VISITS: Final = 30
"""Connections that end in each state; there are a dozen states."""
SECONDS: Final = 1_000_000
EVERYWHERE: Final = [Range(0, 2**64 - 1)]


class Crowd:
    """Producers and well-behaved subscribers of one daemon."""

    def __init__(self, daemon: DaemonProcess, stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
        self._daemon = daemon
        self._stack = stack
        self._tasks = tasks
        self.producer: Talker
        self.epochs: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        self.hands = 0

    async def gather(self) -> None:
        """Make the spaces, and subscribe to them, four to each."""
        self.producer = await self._stack.enter_async_context(self._daemon.greeted("producer"))
        for at in range(SPACES):
            self.epochs[f"space {at}"] = await self.producer.space(f"space {at}")
            self.numbers[f"space {at}"] = 0
        for at in range(CONNECTIONS):
            talker = await self._stack.enter_async_context(self._daemon.greeted(f"subscribers {at}"))
            names = [f"space {number % SPACES}" for number in range(at, SUBSCRIBERS, CONNECTIONS)]
            await talker.say(*[Subscribe(talker.request, [name], 3, EVERYWHERE) for name in names])
            for _ in names:
                await talker.skip_to(Subscribed)
            self._tasks.create_task(self._acknowledge(talker))
            self._tasks.create_task(self._beat(talker))
        self._tasks.create_task(self._beat(self.producer))

    async def publish(self, name: str, count: int = 8) -> None:
        """Map some pages of a space, and unmap them again."""
        self.numbers[name] += 1
        rows = [row for at in range(count) for row in (page(at), gone(at))]
        await self.producer.say(publishing(name, self.epochs[name], self.numbers[name], *rows), Ping(1))

    async def sync(self, name: str, timeout_us: int = 20 * SECONDS) -> Synced | SyncRefused:
        """Sync a space, and return what came of it."""
        request = self.producer.request
        await self.producer.say(Sync(request, timeout_us, [name]))
        while True:
            message = await self.producer.next()
            if isinstance(message, Synced | SyncRefused):
                assert message.request == request
                return message

    async def go_round(self, but: str = "") -> None:
        """Publish in every space, and see to it that the syncs of all succeed, but for one."""
        for name in self.epochs:
            await self.publish(name)
        for name in self.epochs:
            if name != but:
                synced = await self.sync(name)
                assert isinstance(synced, Synced), (name, synced)
                assert len(synced.outcomes) >= SUBSCRIBERS // SPACES

    async def _beat(self, talker: Talker) -> None:
        while True:
            await talker.say(Ping(1))
            await asyncio.sleep(0.5)

    async def _acknowledge(self, talker: Talker) -> None:
        while True:
            message = await talker.next()
            if isinstance(message, DeliverHeard):
                self.hands += 1
                await talker.say(Ack(message.subscription, message.number), Ping(1))
            assert not isinstance(message, Bye), message


async def stuck(talker: Talker) -> None:
    """Subscribe, and read nothing any more."""
    await talker.greet("stuck")
    await talker.say(Subscribe(1, ["space 7"], 3, EVERYWHERE))
    await talker.skip_to(Subscribed)


async def dripping(talker: Talker) -> None:
    """Subscribe, and read a byte now and then."""
    await stuck(talker)

    async def drip() -> None:
        loop = asyncio.get_running_loop()
        while True:
            await loop.sock_recv(talker.sock, 1)
            await talker.say(Ping(1))
            await asyncio.sleep(0.1)

    DRIPS.append(asyncio.create_task(drip()))


async def silent(talker: Talker) -> None:
    """Connect, and say nothing."""
    del talker


async def halved(talker: Talker) -> None:
    """Send half a frame, and no more."""
    await talker.greet("halved")
    await talker.write(talker.wire.send(Subscribe(1, ["space 7"], 3, EVERYWHERE))[:-9])


async def hasty(talker: Talker) -> None:
    """Send half a greeting, and no more."""
    await talker.write(talker.wire.send(Hello(1, 1, "hasty"))[:5])


DRIPS: Final[list[asyncio.Task[None]]] = []

BAD: Final[dict[str, tuple[Callable[[Talker], Awaitable[None]], bool]]] = {
    "stuck": (stuck, True),
    "dripping": (dripping, True),
    "silent": (silent, False),
    "half a frame": (halved, False),
    "half a greeting": (hasty, False),
}
"""Who behaves badly, and whether that one subscribes to space 7."""


def test_a_crowd_does_not_notice_who_behaves_badly(tmp_path: Path) -> None:
    """Syncs of other spaces go on; one that counts a bad subscriber fails, and names it, until its lease proves it."""

    async def story(daemon: DaemonProcess) -> None:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            crowd = Crowd(daemon, stack, tasks)
            await crowd.gather()
            await crowd.go_round()
            bad = {name: await daemon.connect() for name in BAD}
            await misbehave(daemon, crowd, bad)
            await end_badly(bad)
            synced = await crowd.sync("space 7")  # the leases of both run out, and that is the proof
            assert isinstance(synced, Synced)
            await crowd.go_round()
            assert crowd.hands >= SUBSCRIBERS * ROUNDS
            for task in tasks._tasks:  # they would go on for ever
                task.cancel()

    with serving(tmp_path, "leases.seconds=3", "deadlines.hello=1") as daemon:
        asyncio.run(story(daemon))
        assert daemon.alive
        assert daemon.troubles == []


async def misbehave(daemon: DaemonProcess, crowd: Crowd, bad: dict[str, Talker]) -> None:
    """Have all behave badly while the others go on; whom a sync waits for in vain it names, with what was removed."""
    before = daemon.resident
    for name, (behave, _) in BAD.items():
        await behave(bad[name])
    for _ in range(ROUNDS):
        await crowd.go_round(but="space 7")
    await crowd.publish("space 7", 2000)
    refused = await crowd.sync("space 7", 300_000)
    assert isinstance(refused, SyncRefused)
    assert len(refused.missing) == sum(subscribes for _, subscribes in BAD.values())
    assert all("space 7#" in one.subscriber for one in refused.missing)
    assert all(one.pieces or one.ranges for one in refused.missing)
    assert daemon.resident - before < 32 * MIB


async def end_badly(bad: dict[str, Talker]) -> None:
    """See the daemon close those who are no clients, and end the others."""
    for name, (_, subscribes) in BAD.items():
        if not subscribes:
            assert await asyncio.wait_for(bad[name].ended(), 20) is not None, name
    DRIPS.pop().cancel()
    for talker in bad.values():
        talker.sock.close()


def test_what_is_not_acknowledged_is_bounded_by_the_settings(tmp_path: Path) -> None:
    """A subscriber that reads and never acknowledges is given a window, and no more, however much happens."""

    async def story(daemon: DaemonProcess) -> None:
        async with daemon.greeted("producer") as producer, daemon.greeted("subscriber") as subscriber:
            epoch = await producer.space()
            await subscriber.say(Subscribe(1, ["vtd0"], 3, EVERYWHERE))
            subscribed = await subscriber.skip_to(Subscribed)
            assert subscribed.window == 65536
            given = 0

            async def read() -> None:
                nonlocal given
                loop = asyncio.get_running_loop()
                while data := await loop.sock_recv(subscriber.sock, MIB):
                    given += len(data)

            reading = asyncio.create_task(read())
            for number in range(1, 41):
                rows = [row for at in range(500) for row in (page(at, number), gone(at))]
                await producer.say(publishing("vtd0", epoch, number, *rows), Ping(number))
            await producer.say(Sync(900, 200_000, ["vtd0"]))
            assert isinstance(await producer.skip_to(SyncRefused), SyncRefused)
            reading.cancel()
            assert given < 2 * 65536 + 64 * PAGE

    with serving(tmp_path, "limits.unacknowledged=65536", "limits.frame=65536") as daemon:
        asyncio.run(story(daemon))
        assert daemon.troubles == []


async def greeted(talker: Talker) -> None:
    await talker.greet("visitor")


async def subscribed(talker: Talker) -> None:
    await greeted(talker)
    await talker.say(Subscribe(1, ["visited"], 3, EVERYWHERE))
    await talker.skip_to(Subscribed)


async def held(talker: Talker) -> int:
    """Have mappings in hand, of a space of its own, and return its epoch."""
    epoch = await published(talker)
    await talker.say(Subscribe(2, ["visited"], 3, EVERYWHERE))
    await talker.skip_to(DeliverHeard)
    return epoch


async def published(talker: Talker) -> int:
    """Map a lot in a space of its own, and return its epoch."""
    await greeted(talker)
    epoch = await talker.space("visited")
    await talker.say(publishing("visited", epoch, 1, *[page(2 * at) for at in range(500)]))
    return epoch


async def observed(talker: Talker) -> None:
    await published(talker)
    await talker.say(Observe(3))
    await talker.skip_to(Observing)


async def synced(talker: Talker) -> None:
    """Wait for oneself, and for what never comes."""
    epoch = await held(talker)
    await talker.say(publishing("visited", epoch, 2, gone(0, 999)), Sync(4, 20 * SECONDS, ["visited"]), Ping(1))
    await talker.say(WaitSpace(5, "never"), Drain(6, "visited", epoch))
    await talker.skip_to(Pong)


async def fenced(talker: Talker) -> None:
    one = await own(talker)
    await talker.say(Fence(8, "visited", one.name))
    await talker.skip_to(Fenced)


async def left(talker: Talker) -> None:
    one = await own(talker)
    await talker.say(Leave(8, one.subscription, clean=False))
    await talker.skip_to(Done)


async def own(talker: Talker) -> SubscriberInfo:
    """Have mappings in hand, and return what is known of the one who has."""
    await held(talker)
    infos: list[SubscriberInfo] = (await ask(talker, ListSubscribers(7, ["visited"]), Subscribers)).subscribers
    return infos[-1]


async def broken(talker: Talker) -> None:
    await held(talker)
    await talker.write(b"\xff" * 100)
    await talker.ended()


async def ask(talker: Talker, message: ClientMessage, kind: type[Any]) -> Any:
    await talker.say(message)
    return await talker.skip_to(kind)


STATES: Final[dict[str, Callable[[Talker], Awaitable[object]]]] = {
    "connected": silent,
    "half a greeting": hasty,
    "half a frame": halved,
    "greeted": greeted,
    "subscribed": subscribed,
    "publishing": published,
    "holding": held,
    "observing": observed,
    "syncing": synced,
    "fenced": fenced,
    "left unclean": left,
    "broken": broken,
}


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Generator[DaemonProcess]:
    """Give one daemon to all who come and go; leases are short, so that what holds something is soon proven stopped."""
    with serving(tmp_path_factory.mktemp("visited"), "leases.seconds=0.5") as daemon:
        yield daemon


@pytest.mark.parametrize("state", STATES)
def test_nothing_is_left_of_who_comes_and_goes(visited: DaemonProcess, state: str) -> None:
    """Many connections that end in each state: descriptors, subscriptions and memory are as before."""

    async def come_and_go() -> None:
        talker = await visited.connect()
        try:
            await STATES[state](talker)
        finally:
            talker.sock.close()

    async def nothing_left() -> None:
        """Wait until nobody counts anywhere, and no connection is left."""
        async with asyncio.timeout(20):
            while True:
                async with visited.greeted("looker") as looker:
                    counts = await ask(looker, Statistics(1), Counters)
                    if not any([*space.subscribers, *space.leaving, *space.unproven] for space in counts.spaces):
                        return
                await asyncio.sleep(0.05)

    async def story() -> None:
        for _ in range(10):
            await come_and_go()
        await nothing_left()
        descriptors, resident = visited.descriptors, visited.resident
        for _ in range(VISITS):
            await come_and_go()
        await nothing_left()
        await until(lambda: visited.descriptors <= descriptors, 20_000)
        assert visited.resident - resident < 32 * MIB

    asyncio.run(story())
    assert visited.alive
    assert visited.troubles == []


def kinds() -> Counter[str]:
    """Count the objects of this package."""
    gc.collect()
    objects: list[object] = gc.get_objects()
    found = [type(each) for each in objects]
    return Counter(kind.__qualname__ for kind in found if str(kind.__module__).startswith("iommubus."))


@pytest.mark.parametrize("state", STATES)
def test_no_object_is_left_of_who_comes_and_goes(state: str) -> None:
    """The same in one process, where every object can be seen."""

    async def story() -> None:
        async with Daemon(settings(leases=Leases(seconds=0.2), deadlines=Deadlines(hello=0.2))) as daemon:

            async def come_and_go(count: int) -> Counter[str]:
                for _ in range(count):
                    async with talking(daemon) as talker:
                        await STATES[state](talker)
                await until(lambda: not daemon.connections and not daemon.proof.watches, 20_000)
                await until(lambda: not len(daemon.tasks), 20_000)
                for held in daemon.spaces.open.values():
                    held.space.counting()  # it forgets what nobody uses when it is asked, and not at once
                return kinds()

            before = await come_and_go(5)
            after = await come_and_go(20)
            assert {kind: count - before[kind] for kind, count in after.items() if count >= before[kind] + 10} == {}

    asyncio.run(story())
