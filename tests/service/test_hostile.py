"""Clients that mean harm, at a real daemon: it stays up, within bounds, and nobody else notices."""

import asyncio
import os
import select
import struct
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import Raw

from iommubus import Bus, Map, Perm, Unmap
from iommubus.bus.space import LocalSpace
from iommubus.errors import LimitReached
from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Limits
from iommubus.service.spaces.applying import Named
from iommubus.service.spaces.closed import thin
from iommubus.transport.credentials import Peer
from iommubus.wire.failures import to_error
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Bye, Ping, Pong
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.publishing import Answer
from iommubus.wire.messages.queries import ListSpaces, ListSubscribers, Statistics, Subscribers, WaitSpace
from iommubus.wire.messages.replies import Cancel, Done, Failure, Refused
from iommubus.wire.messages.spaces import Attach, CloseSpace, CreateEndpoint, Detach
from iommubus.wire.messages.subscribing import Ack, Fail, Leave, Subscribe, Subscribed, Translate, Using
from iommubus.wire.messages.syncing import Fence, Sync, Synced, SyncRefused
from iommubus.wire.messages.values import Range
from iommubus.wire.messages.watching import Observe, Observing
from tests.attacked import MIB, DaemonProcess, serving
from tests.babble import Babble, framed
from tests.talkers import OWN, PAGE, Talker, creating, gone, greeted, page, publishing, settings, talking, turns, until

SECONDS: Final = 1_000_000
EVERYWHERE: Final = [Range(0, 2**64 - 1)]
FRAMES: Final = int(os.environ.get("WRONG_FRAMES", "100000"))
"""Wrong frames in all; more can be asked for."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Generator[DaemonProcess]:
    """Give one daemon to all who attack it."""
    with serving(tmp_path_factory.mktemp("daemon"), "leases.seconds=20") as process:
        yield process
        assert process.alive


ATTACKS: Final = count()
"""Numbers of attacks: spaces of one may have subscribers that are not proven stopped when the next one begins."""

ATTACK: Final[list[int]] = []


def here(name: str) -> str:
    """Return what a space of this name is called in the attack under way."""
    return f"{name} {ATTACK[-1]}"


def hung_up(talker: Talker) -> bool:
    """Say whether the daemon has closed a connection, without reading what it has said."""
    poll = select.poll()
    poll.register(talker.sock, 0)
    return bool(poll.poll(0))


@pytest.fixture(autouse=True)
def _well(request: pytest.FixtureRequest) -> Generator[None]:
    """See to it that no attack was a surprise to the daemon."""
    ATTACK[:] = [next(ATTACKS)]
    yield
    if "daemon" in request.fixturenames:
        daemon: DaemonProcess = request.getfixturevalue("daemon")
        assert daemon.alive, daemon.log
        assert daemon.troubles == []


class Bystander:
    """A producer and a subscriber that know nothing of what goes on."""

    def __init__(self, producer: Talker, subscriber: Talker, name: str, epoch: int, subscription: int) -> None:
        self._producer = producer
        self._subscriber = subscriber
        self._name = name
        self._epoch = epoch
        self._subscription = subscription
        self._number = 0
        self.syncs = 0

    async def run(self) -> None:
        """Map, unmap and sync, over and over; every sync has to succeed."""
        async with asyncio.TaskGroup() as tasks:
            acknowledging = tasks.create_task(self._acknowledge())
            try:
                while True:
                    await self.sync()
            finally:
                acknowledging.cancel()

    async def sync(self) -> None:
        """Map and unmap a page, and be told that nobody uses it."""
        self._number += 1
        at = self._number % 64
        await self._producer.say(
            publishing(self._name, self._epoch, self._number, page(at), gone(at)),
            Sync(self._producer.request, 10 * SECONDS, [self._name]),
            Ping(self._number),
        )
        answer = await self._producer.skip_to(Synced)
        assert [one.how.value for one in answer.outcomes] == ["acknowledged"]
        self.syncs += 1

    async def _acknowledge(self) -> None:
        while True:
            deliver = await self._subscriber.skip_to(DeliverHeard)
            self._subscriber.heard.clear()
            await self._subscriber.say(Ack(self._subscription, deliver.number), Ping(1))


@asynccontextmanager
async def bystander(daemon: DaemonProcess) -> AsyncGenerator[Bystander]:
    """Give somebody whose syncs go on meanwhile, and some of them before and after, too."""
    name = here("aside")
    async with daemon.greeted("aside") as producer, daemon.greeted("aside too") as subscriber:
        epoch = await producer.space(name)
        await subscriber.say(Subscribe(1, [name], 3, EVERYWHERE))
        number = (await subscriber.skip_to(Subscribed)).subscription
        one = Bystander(producer, subscriber, name, epoch, number)
        running = asyncio.create_task(one.run())
        try:
            await until(lambda: one.syncs > 2 or running.done(), 20_000)
            yield one
            before = one.syncs
            await until(lambda: one.syncs > before + 2 or running.done(), 20_000)
            assert not running.done(), running.exception()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        await producer.say(CloseSpace(producer.request, name, epoch))
        await producer.skip_to(Done)


async def ended(talker: Talker) -> Bye | None:
    """Return the last words of the daemon, which has to end the connection."""
    async with asyncio.timeout(20):
        return await talker.ended()


async def answer(talker: Talker, message: ClientMessage, kind: type[DaemonMessage]) -> Any:
    """Say something, and return the next message of a kind."""
    await talker.say(message)
    async with asyncio.timeout(20):
        return await talker.skip_to(kind)


# -- bombs ---------------------------------------------------------------------

BOMBS: Final[dict[str, bytes]] = {
    "a length of 4 GiB": struct.pack("<I", 2**32 - 1) + b"\0" * 65536,
    "a length past the limit": struct.pack("<I", MIB + 1) + b"\0" * 65536,
    "a mebibyte of nothing": struct.pack("<I", MIB) + b"\0" * MIB,
    "nothing": struct.pack("<I", 0),
    "arrays in arrays": framed(b"\x91" * 100_000),
    "arrays in arrays, a few": framed(b"\x91" * 4000),
    "maps in maps": framed(b"\x81\xa1a" * 1300),
    "maps as keys": framed(b"\x92\x03\x81\x80\x01"),
    "an array of 2^32": framed(b"\xdd\xff\xff\xff\xff" + b"\xc0" * 4000),
    "a map of 2^32": framed(b"\xdf\xff\xff\xff\xff" + b"\xc0" * 4000),
    "a text of 4 GiB": framed(b"\x92\x01\xdb\xff\xff\xff\xff" + b"a" * 4000),
    "bytes of 4 GiB": framed(b"\x92\x07\xc6\xff\xff\xff\xff" + b"a" * 4000),
    "half a mebibyte of empty arrays": framed(b"\xdd\x00\x08\x00\x00" + b"\x90" * (MIB // 2)),
    "a text that is none": framed(b"\x93\x01\x01\xa4\xff\xfe\xfd\xfc"),
    "surrogates": framed(b"\x94\x01\x01\x01\xa3\xed\xa0\x80"),
    "a moment": framed(b"\x92\x03\xd7\xff" + b"\xff" * 8),
    "an extension": framed(b"\x92\x03\xc9\xff\xff\xff\xff\x05" + b"a" * 100),
    "a number of a million digits": framed(b"\x92\x03\xda\xff\xff" + b"9" * 65535),
}


@pytest.mark.parametrize("greet", [False, True], ids=["before the greeting", "after it"])
def test_frame_bombs_end_their_connection_and_nothing_else(daemon: DaemonProcess, greet: bool) -> None:
    """Whatever a frame holds, who sent it is told why it is not taken, and the daemon keeps none of it."""

    async def attack() -> None:
        before = daemon.resident
        async with bystander(daemon):
            for bomb in BOMBS.values():
                talker = await daemon.connect()
                try:
                    if greet:
                        await talker.greet("bomber")
                    with suppress(BrokenPipeError, ConnectionResetError):
                        await talker.write(bomb)
                    bye = await ended(talker)
                    assert bye is None or bye.failure is not None
                finally:
                    talker.sock.close()
        assert daemon.resident - before < 8 * MIB

    asyncio.run(attack())


def test_wrong_frames_at_a_real_daemon(daemon: DaemonProcess) -> None:
    """Thousands of frames, sound ones and changed ones, in any order, over as many connections as it takes."""

    async def attack() -> None:
        babble = Babble(1).frames()
        before = daemon.resident
        async with bystander(daemon):
            for _ in range(FRAMES // 50):
                talker = await daemon.connect()
                try:
                    await talker.greet("babbler")
                    with suppress(BrokenPipeError, ConnectionResetError):
                        await talker.write(b"".join(next(babble) for _ in range(10)) + framed(b"\xc1"))
                    await ended(talker)
                finally:
                    talker.sock.close()
        assert daemon.resident - before < 16 * MIB

    asyncio.run(attack())


class Memory(asyncio.Transport):
    """A transport that throws away what is written."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.open = True
        self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        if self.open:
            self.open = False
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


def test_wrong_frames_in_bulk(caplog: pytest.LogCaptureFixture) -> None:
    """No frame is a surprise to what handles them, and a connection leaves nothing behind."""

    async def attack() -> None:
        async with Daemon(settings()) as daemon:
            babble = Babble(2)
            frames = babble.frames()
            for _ in range(FRAMES // 10):
                session = daemon.session(OWN)
                transport = Memory(session)
                session.connection_made(transport)
                session.data_received(framed(b"\x96\x01\x01\x01\xa1x\x00\x03"))
                babble.known = [session.number, session.number + 1, *daemon.clients]
                for _ in range(10):
                    frame = next(frames)
                    for part in (frame[:5], frame[5:]):
                        if transport.open:
                            session.data_received(part)
                    while transport.open and transport.paused:
                        await turns(1)
                transport.close()
                await turns(2)
            await until(lambda: not daemon.connections and not daemon.proof.watches)
            await turns()
            assert len(daemon.tasks) == 0

    asyncio.run(attack())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# -- words of a valid client ------------------------------------------------------


async def subscribe(talker: Talker, endpoint: str, **terms: Any) -> int:
    """Return the number of a new subscription."""
    await talker.say(Subscribe(talker.request, [endpoint], 3, EVERYWHERE, **terms))
    return (await talker.skip_to(Subscribed)).subscription


BREAKS: Final[dict[str, Callable[[int, int, int], ClientMessage]]] = {
    "an Ack of what was never handed over": lambda own, _, __: Ack(own, 2**64 - 1),
    "a Fail of what was never handed over": lambda own, _, __: Fail(own, 7, 0, failure()),
    "an answer to what was never asked": lambda _, __, ___: Answer(2**63, None),
    "a Publish with an old epoch": lambda _, epoch, __: publishing(here("mine"), epoch - 1, 1, page(1)),
    "a Publish to the space of another": lambda _, __, other: publishing(here("others"), other, 1, page(1)),
    "a Publish with no number": lambda _, epoch, __: publishing(here("mine"), epoch, 0, page(1)),
    "a Publish of what no table makes": lambda _, epoch, __: publishing(here("mine"), epoch, 1, gone(0, 2**52 - 1)),
}


def failure() -> Failure:
    return Failure("OSError", "no", Raw(b"\x92\x0c\xa2no"))


@pytest.mark.parametrize("what", BREAKS)
def test_words_that_no_client_can_mean_end_its_connection(daemon: DaemonProcess, what: str) -> None:
    async def attack() -> None:
        async with bystander(daemon), daemon.greeted() as other, daemon.greeted("liar") as liar:
            theirs, mine = await other.space(here("others")), await liar.space(here("mine"))
            own = await subscribe(liar, here("mine"))
            await liar.say(BREAKS[what](own, mine, theirs))
            bye = await ended(liar)
            assert bye is not None
            assert bye.failure is not None
            assert bye.failure.kind == "BadMessage"
            assert isinstance(await answer(other, Sync(90, SECONDS, [here("others")]), Synced), Synced)

    asyncio.run(attack())


HARMLESS: Final[dict[str, Callable[[int, int, int], list[ClientMessage]]]] = {
    "words about what is another's": lambda theirs, epoch, _: [
        Ack(theirs, 1), Fail(theirs, 1, 0, failure()), Using(theirs, 2**64 - 1), Leave(101, theirs, clean=True),
        Leave(102, theirs, clean=False), Translate(103, theirs, 0, 1), CloseSpace(104, here("theirs"), epoch),
        Attach(105, here("theirs"), here("theirs"), epoch),
        Subscribe(106, ["nowhere"], 3, EVERYWHERE, replaces=theirs - 1),
    ],
    "everything cancelled": lambda _, __, ___: [Cancel(number) for number in [*range(2000), 2**64 - 1]],
    "huge numbers": lambda _, __, own: [
        Using(own, 2**64 - 1), Translate(101, own, 2**64 - 1, 3), Ping(2**64 - 1), Observe(102, [], 2**64 - 1, 2**60),
        Subscribe(103, [here("theirs")], 3, EVERYWHERE, capacity=2**60, granule=1, limit=2**64 - 1),
        Subscribe(104, [here("theirs")], 2**40 + 3, EVERYWHERE), Sync(105, 2**64 - 1, ["nothing*"]),
        creating(106, here("wide"), last=2**64 - 1, answer_us=2**64 - 1), creating(107, "odd", granule=3),
    ],
    "many ranges and endpoints": lambda _, __, ___: [
        Subscribe(101, [here("theirs")], 3, [Range(at * 2 * PAGE, at * 2 * PAGE) for at in range(4096)]),
        Subscribe(102, [f"nowhere {at}" for at in range(64)], 3, EVERYWHERE),
    ],
    "requests in flight": lambda _, __, ___: [
        message
        for at in range(200, 2200, 2)
        for message in (WaitSpace(at, f"never {at}"), Sync(at + 1, 60 * SECONDS, [here("theirs")]))
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_words_that_harm_nobody(daemon: DaemonProcess, what: str) -> None:
    """What is another's stays as it is, and that other one's sync still waits for its own subscriber."""

    async def attack() -> None:
        async with (
            bystander(daemon),
            daemon.greeted() as other,
            daemon.greeted("victim") as victim,
            daemon.greeted("liar") as liar,
        ):
            epoch = await other.space(here("theirs"))
            theirs = await subscribe(victim, here("theirs"))
            own = await subscribe(liar, here("theirs"))
            await other.say(publishing(here("theirs"), epoch, 1, page(1)))
            await victim.skip_to(DeliverHeard)
            await liar.say(*HARMLESS[what](theirs, epoch, own))
            await answer(liar, Ping(4711), Pong)
            await other.say(
                publishing(here("theirs"), epoch, 2, gone(1)),
                Fence(70, here("theirs"), f"{here('theirs')}#{own & 0xFFFFFFFF}"),
            )
            await other.say(Sync(71, 300_000, [here("theirs")]))
            refused = await other.skip_to(SyncRefused)
            assert f"{here('theirs')}#{theirs & 0xFFFFFFFF}" in {one.subscriber for one in refused.missing}

    asyncio.run(attack())


def test_nobody_excuses_the_subscriber_of_another() -> None:
    """`replaces` names one of another process, whose connection is lost: the sync still waits for it."""

    async def attack() -> None:
        mine, theirs = Peer(pid=1, uid=OWN.uid), Peer(pid=2, uid=OWN.uid)
        async with Daemon(settings()) as daemon, greeted(daemon) as producer, greeted(daemon, mine) as liar:
            epoch = await producer.space()
            await producer.say(publishing("vtd0", epoch, 1, page(1)))
            async with greeted(daemon, theirs) as victim:
                number = await subscribe(victim, "vtd0")
                await victim.skip_to(DeliverHeard)
            await until(lambda: len(daemon.connections) == 2)
            await producer.say(publishing("vtd0", epoch, 2, gone(1)))
            for peer in (liar, producer):
                await peer.say(Subscribe(peer.request, ["nowhere"], 3, EVERYWHERE, replaces=number))
                await peer.skip_to(Subscribed)
            refused = await answer(producer, Sync(51, 100_000, ["vtd0"]), SyncRefused)
            assert [one.subscriber for one in refused.missing] == [f"vtd0#{number & 0xFFFFFFFF}"]
            async with greeted(daemon, theirs) as back:
                await back.say(Subscribe(1, ["nowhere"], 3, EVERYWHERE, replaces=number))
                await back.skip_to(Subscribed)
                await answer(producer, Sync(52, 5 * SECONDS, ["vtd0"]), Synced)

    asyncio.run(attack())


def test_two_who_fight_for_a_name_get_it_in_turn() -> None:
    """Only who has it publishes; its epoch, that everybody may see, is worth nothing to another process."""

    async def attack() -> None:
        one, other = Peer(pid=1, uid=OWN.uid), Peer(pid=2, uid=OWN.uid)
        async with Daemon(settings()) as own, greeted(own, one) as first, greeted(own, other) as second:
            epoch = await first.space(here("contested"))
            for stolen in (0, epoch, 2**64 - 1):
                await second.say(creating(second.request, here("contested"), epoch=stolen))
                refused = await second.skip_to(Refused)
                assert refused.failure.kind == "NameTaken"
            await first.say(publishing(here("contested"), epoch, 1, page(1)))
            await answer(first, Sync(60, SECONDS, [here("contested")]), Synced)
            assert own.spaces.open[here("contested")].space.mappings == 1

    asyncio.run(attack())


ODD: Final = [
    "\r\n2026-11-27T00:00:00Z all is lost",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "\0",
    "\U0001f4a3" * 255,
    'a"b\\c{d="e"} 1',
]


def test_odd_names_break_no_line_of_the_log_nor_of_the_metrics(tmp_path: Path) -> None:
    place = tmp_path / "pages.sock"

    async def attack(daemon: DaemonProcess) -> bytes:
        talkers: list[Talker] = []
        for name in ODD:
            talker = await daemon.connect()
            talkers.append(talker)
            await talker.greet(name)
            await talker.say(creating(1, name), creating(2, name.replace("[", "")))
            await talker.say(Subscribe(3, [name], 3, EVERYWHERE, name=name), Fence(4, name, name), Sync(5, 0, [name]))
            await answer(talker, Ping(1), Pong)
        reader, writer = await asyncio.open_unix_connection(str(place))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        pages = await reader.read()
        writer.close()
        for talker in talkers:
            talker.sock.close()
        return pages

    with serving(tmp_path, f"metrics.listen=unix:{place}") as daemon:
        pages = asyncio.run(attack(daemon))
        asyncio.run(until(lambda: daemon.log.count("is gone") >= 5, 20_000))
        assert daemon.troubles == []
        lines = daemon.log.splitlines()
        assert [line for line in lines if not (line.startswith("20") and line.isprintable())] == []
    body = pages.split(b"\r\n\r\n", 1)[1].decode()
    assert all(line.startswith(("iommubus_", "# ")) for line in body.rstrip("\n").split("\n"))


# -- what one may cost the others -----------------------------------------------------


def test_requests_without_end_are_handled_by_turns(daemon: DaemonProcess) -> None:
    """Who says ten thousand things at once waits for them itself; what gathers for it is bounded."""

    async def attack() -> None:
        async with bystander(daemon) as aside, daemon.greeted("asker") as asker:
            for at in range(50):
                await asker.space(here(f"{at:02}") + "\U0001f4a3" * 200)
            before, peak = aside.syncs, daemon.peak
            await asker.write(b"".join(asker.wire.send(ListSpaces(at)) for at in range(10_000)))
            await until(lambda: hung_up(asker), 20_000)  # it was to read some hundreds of mebibytes
            assert aside.syncs > before
            assert daemon.peak - peak < 64 * MIB

    asyncio.run(attack())


@pytest.mark.parametrize("kind", [ListSpaces, Statistics, ListSubscribers])
def test_patterns_that_cost_too_much_are_refused(daemon: DaemonProcess, kind: type[Any]) -> None:
    async def attack() -> None:
        async with bystander(daemon), daemon.greeted("asker") as asker:
            patterns = [f"{'*a' * 100}{at}" for at in range(1024)]
            for message in (kind(1, patterns), Observe(2, patterns), Sync(3, SECONDS, patterns)):
                refused = await answer(asker, message, Refused)
                assert isinstance(to_error(refused.failure), LimitReached)

    asyncio.run(attack())


def test_ranges_are_limited_for_a_connection_and_lists_show_a_few(daemon: DaemonProcess) -> None:
    async def attack() -> None:
        ranges = [Range(at * 2 * PAGE, at * 2 * PAGE) for at in range(4096)]
        async with bystander(daemon), daemon.greeted("greedy") as greedy:
            await greedy.space(here("mine"))
            await greedy.say(Subscribe(101, [here("mine")], 3, ranges))
            await greedy.skip_to(Subscribed)
            await greedy.say(Subscribe(102, [here("mine")], 3, ranges))
            refused = await greedy.skip_to(Refused)
            assert isinstance(to_error(refused.failure), LimitReached)
            await greedy.say(Subscribe(103, [here("mine")], 3, EVERYWHERE))
            await greedy.skip_to(Subscribed)
            (first, _) = (await answer(greedy, ListSubscribers(104, [here("mine")]), Subscribers)).subscribers
            assert len(first.ranges) == 16
            assert first.ranges[-1] == Range(15 * 2 * PAGE, 4095 * 2 * PAGE)

    asyncio.run(attack())


def test_syncs_that_all_fail_at_once_are_told_by_turns(daemon: DaemonProcess) -> None:
    async def attack() -> None:
        async with bystander(daemon) as aside, daemon.greeted("stuck") as stuck:
            epoch = await stuck.space(here("mine"))
            for _ in range(20):
                await subscribe(stuck, here("mine"))
            await stuck.say(publishing(here("mine"), epoch, 1, *[page(2 * at) for at in range(1000)]))
            await stuck.say(publishing(here("mine"), epoch, 2, *[gone(2 * at) for at in range(1000)]))
            before = aside.syncs
            await stuck.say(*[Sync(1000 + at, 200_000, [here("mine")]) for at in range(50)])
            with suppress(EOFError, ConnectionResetError):
                for _ in range(50):
                    await stuck.skip_to(SyncRefused)
            assert aside.syncs > before

    asyncio.run(attack())


def test_an_observer_that_reads_nothing_while_spaces_come_and_go_is_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.handlers.watching.MISSED", 3)

    async def attack() -> None:
        async with Daemon(settings()) as daemon, greeted(daemon) as talker:
            observer = (await answer(talker, Observe(1, [], 7, 1), Observing)).observer
            for at in range(8):
                epoch = await talker.space(f"space {at}")
                await talker.say(publishing(f"space {at}", epoch, 1, page(1), page(2), page(3)))
            assert observer
            (watched,) = daemon.bus._observers  # pyright: ignore[reportPrivateUsage]
            assert watched.statistics().lag <= 16

    asyncio.run(attack())


def test_nobody_has_room_made_by_what_is_anothers() -> None:
    """Who closes any number of spaces has its own forgotten, and no others."""
    mine, theirs = Peer(pid=1, uid=1), Peer(pid=2, uid=2)
    whose = {1: theirs, 2: mine, 3: mine, 4: theirs, 5: mine, 6: mine}
    things = dict.fromkeys(whose, "a space")

    thin(things, whose, mine, 2)

    assert list(things) == [1, 4, 5, 6]


def test_no_user_takes_the_place_of_all() -> None:
    """Its connections are counted together; the daemon's own user may have all."""
    limits = Limits(user_connections=2)
    greedy, other = Peer(pid=1, uid=4242), Peer(pid=2, uid=4243)

    async def attack() -> None:
        async with Daemon(settings(limits=limits)) as daemon, AsyncExitStack() as stack:
            for peer in (greedy, greedy, other, OWN, OWN, OWN):
                await stack.enter_async_context(greeted(daemon, peer))
            async with talking(daemon, Peer(pid=3, uid=greedy.uid)) as third:
                bye = await ended(third)
                assert bye is not None
                assert bye.failure is not None
                assert to_error(bye.failure).args == ("limits.user_connections", 2)
            await stack.enter_async_context(greeted(daemon, Peer(pid=4, uid=4244)))

    asyncio.run(attack())


def test_a_resume_takes_no_more_notes_than_there_may_be_mappings() -> None:
    """Naming and unmapping one page after the other leaves nothing."""

    async def attack() -> None:
        async with Bus() as bus:
            space = await bus.create_space("vtd0")
            assert isinstance(space, LocalSpace)
            named = Named()
            for at in range(0, 1000, 2):
                first = at * PAGE
                named.apply(space, Map("vtd0", 1, first, first + PAGE - 1, 0, Perm.RW, None), 8)
                named.apply(space, Unmap("vtd0", 1, first, first + PAGE - 1), 8)
            assert len(named._ranges) == 0  # pyright: ignore[reportPrivateUsage]
            for at in range(0, 16, 2):
                named.apply(space, Map("vtd0", 1, at * PAGE, at * PAGE + PAGE - 1, 0, Perm.RW, None), 8)
            with pytest.raises(LimitReached):
                named.apply(space, Map("vtd0", 1, 99 * PAGE, 100 * PAGE - 1, 0, Perm.RW, None), 8)

    asyncio.run(attack())


def test_a_producer_that_answers_nothing_is_not_asked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves an endpoint back and forth, and leaves every question about the demand open."""
    monkeypatch.setattr("iommubus.service.spaces.demand.UNANSWERED", 4)

    async def attack() -> None:
        async with Daemon(settings()) as daemon, greeted(daemon) as liar, greeted(daemon) as follower:
            epoch = await liar.space(here("mine"), asks_demand=True)
            await answer(liar, CreateEndpoint(50, "device"), Done)
            await subscribe(follower, "device")
            for at in range(20):
                await liar.say(Attach(100 + at, "device", here("mine"), epoch), Detach(200 + at, "device"))
            bye = await ended(liar)
            assert bye is not None
            assert "unanswered" in bye.reason
            await until(lambda: not len(daemon.tasks))

    asyncio.run(attack())


def test_what_a_space_had_is_forgotten_at_once_where_it_was_much() -> None:
    """Again and again: what is removed and used by nobody takes no memory."""

    async def attack() -> None:
        async with Daemon(settings()) as daemon, greeted(daemon) as producer, greeted(daemon) as follower:
            epoch = await producer.space()
            own = await subscribe(follower, "vtd0")
            for number in range(1, 21):
                rows = [page(2 * at, seq=number) for at in range(1000)]
                await producer.say(publishing("vtd0", epoch, number, *rows, gone(0, 1999)))
                await answer(producer, Ping(number), Pong)
                deliver = await follower.skip_to(DeliverHeard)
                await follower.say(Ack(own, deliver.number))
                await answer(follower, Ping(number), Pong)
            assert len(daemon.spaces.open["vtd0"].space._removed) <= 3000  # pyright: ignore[reportPrivateUsage]

    asyncio.run(attack())
