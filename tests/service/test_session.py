"""One connection of a daemon: the greeting, what breaks it, its limits, its requests and its end."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from iommubus.errors import ConnectionLost, FeatureRefused, LimitReached, Misaligned, VersionRefused
from iommubus.service.daemon import Daemon
from iommubus.service.session import Part, Session
from iommubus.service.settings.config import Config, Deadlines, Leases, Limits
from iommubus.transport.credentials import Peer, Process
from iommubus.wire.failures import to_error, to_failure
from iommubus.wire.messages import Message
from iommubus.wire.messages.greeting import Bye, Draining, Feature, Hello, Ping, Pong
from iommubus.wire.messages.publishing import Ask
from iommubus.wire.messages.queries import ListSpaces, Lookup, Spaces, WaitSpace
from iommubus.wire.messages.replies import Cancel, Done, Refused
from iommubus.wire.messages.syncing import Sync
from tests.talkers import OWN, PAGE, STRANGER, creating, greeted, settings, talking, turns, until

pytestmark = pytest.mark.asyncio

QUICK = Deadlines(hello=0.05)


def session_of(daemon: Daemon) -> Session:
    """Return the only connection of a daemon."""
    (session,) = daemon.connections
    assert isinstance(session, Session)
    return session


# -- greeting ------------------------------------------------------------------


async def test_a_client_is_told_what_both_ends_use() -> None:
    async with Daemon(settings(leases=Leases(seconds=6, heartbeats=3))) as daemon, talking(daemon) as talker:
        welcome = await talker.greet("qemu", Feature.RESUME)

        assert (welcome.version, welcome.features) == (1, Feature.RESUME)
        assert (welcome.heartbeat_us, welcome.lease_us) == (2_000_000, 6_000_000)
        assert (welcome.daemon, welcome.client, welcome.token) == (daemon.incarnation, session_of(daemon).number, b"")
        assert daemon.clients == {welcome.client: session_of(daemon)}
        assert session_of(daemon).name == "qemu"


async def test_only_whom_the_kernel_names_is_offered_descriptors() -> None:
    async with Daemon(Config()) as daemon, talking(daemon) as own, talking(daemon, Peer(names=("vm",))) as remote:
        assert (await own.greet()).features == Feature.DESCRIPTORS | Feature.RESUME
        assert own.welcome is not None
        assert len(own.welcome.token) == 32
        assert (await remote.greet()).features == Feature.RESUME


@pytest.mark.parametrize(
    ("hello", "error"),
    [(Hello(2, 3), VersionRefused(2, 3, 1, 1)), (Hello(1, 1, required=8), FeatureRefused(8, 3))],
)
async def test_whoever_cannot_be_agreed_with_is_told_why(hello: Hello, error: Exception) -> None:
    async with Daemon(Config()) as daemon, talking(daemon) as talker:
        await talker.say(hello)
        bye = await talker.ended()

        assert bye is not None
        assert bye.failure is not None
        assert repr(to_error(bye.failure)) == repr(error)
        assert daemon.counts.protocol_errors == 1
        assert daemon.clients == {}


async def test_numbers_are_unique_over_restarts() -> None:
    numbers: set[int] = set()
    for _ in range(3):
        async with Daemon(Config()) as daemon, greeted(daemon) as one, greeted(daemon) as other:
            assert one.welcome is not None
            assert other.welcome is not None
            numbers |= {one.welcome.client, other.welcome.client}
    assert len(numbers) == 6


@pytest.mark.parametrize("words", [b"", b"\x04\x00\x00\x00\x94"])
async def test_whoever_does_not_say_who_it_is_in_time_is_closed(words: bytes) -> None:
    async with Daemon(settings(deadlines=QUICK)) as daemon, talking(daemon) as talker:
        await talker.write(words)
        bye = await talker.ended()

        assert bye is not None
        assert "in time" in bye.reason
        await until(lambda: not daemon.connections)


async def test_whoever_does_not_finish_a_frame_is_closed() -> None:
    async with Daemon(settings(deadlines=QUICK)) as daemon, greeted(daemon) as talker:
        await talker.write(talker.wire.send(Ping(1)) + b"\x40")
        await talker.hear(Pong)
        bye = await talker.ended()

        assert bye is not None
        assert bye.reason == "the rest of a frame did not come in time"


async def test_a_frame_may_come_in_pieces() -> None:
    async with Daemon(settings(deadlines=QUICK)) as daemon, greeted(daemon) as talker:
        frame = talker.wire.send(ListSpaces(1, ["vtd?"]))
        for at in range(len(frame)):
            await talker.write(frame[at : at + 1])
            await turns()
        await talker.hear(Spaces)
        await asyncio.sleep(3 * QUICK.hello)  # whatever waited for the rest waits no more
        await talker.say(Ping(1))
        await talker.hear(Pong)


async def test_whoever_is_always_in_the_middle_of_a_frame_has_time_for_each() -> None:
    async with Daemon(settings(deadlines=QUICK)) as daemon, greeted(daemon) as talker:
        data = b"".join(talker.wire.send(Ping(number)) for number in range(40))
        for at in range(0, len(data), len(data) // 39):
            await talker.write(data[at : at + len(data) // 39])
            await asyncio.sleep(QUICK.hello / 10)
        for number in range(40):
            assert (await talker.hear(Pong)).number == number


# -- what breaks it --------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"\xff\xff\xff\xff",
        b"\x01\x00\x00\x00\xc1",
        b"\x03\x00\x00\x00\x93\x0a\x01",
        b"\x03\x00\x00\x00\x92\x0a\x63",
        b"\x02\x00\x00\x00\x91\x08",
    ],
    ids=["too long", "no message", "cut", "an answer to nothing", "the daemon's words"],
)
async def test_whoever_breaks_the_protocol_is_told_logged_counted_and_closed(
    words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.write(words)
        bye = await talker.ended()

        assert bye is not None
        assert bye.failure is not None
        assert bye.failure.kind in {"FrameTooLarge", "BadMessage", "OutOfPlace"}
        assert daemon.counts.protocol_errors == 1
        assert bye.failure.text in caplog.text
        assert daemon.clients == {}
        await until(lambda: not daemon.connections)


async def test_a_longer_frame_than_the_setting_allows_breaks_the_protocol() -> None:
    async with Daemon(settings(limits=Limits(frame=4096))) as daemon, greeted(daemon) as talker:
        await talker.say(ListSpaces(1, ["x" * 255] * 17))
        bye = await talker.ended()

        assert bye is not None
        assert bye.failure is not None
        assert bye.failure.kind == "FrameTooLarge"


async def test_nothing_is_taken_behind_what_broke_the_protocol() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.write(b"\x01\x00\x00\x00\xc1" + talker.wire.send(creating(1)))
        await talker.ended()

        assert daemon.spaces.open == {}


async def test_connections_are_limited() -> None:
    async with (
        Daemon(settings(limits=Limits(connections=1))) as daemon,
        greeted(daemon) as first,
        talking(daemon) as second,
    ):
        bye = await second.ended()
        assert bye is not None
        assert bye.failure is not None
        assert repr(to_error(bye.failure)) == repr(LimitReached("limits.connections", 1))
        await first.say(Ping(1))
        await first.hear(Pong)
        await until(lambda: len(daemon.connections) == 1)
        assert daemon.counts.connections == 1


async def test_whoever_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.session.OUTGOING", 1 << 16)
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        pings = b"".join(talker.wire.send(Ping(2**64 - 1)) for _ in range(1024))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - some time
            for _ in range(1000):
                await talker.write(pings)
        await until(lambda: not daemon.connections)


# -- leases ----------------------------------------------------------------------


async def test_a_silent_connection_is_closed_when_its_lease_has_run_out() -> None:
    async with Daemon(settings(leases=Leases(seconds=0.05))) as daemon, greeted(daemon) as talker:
        bye = await talker.ended()

        assert bye is not None
        assert "lease" in bye.reason
        assert daemon.clients == {}


async def test_a_ping_renews_the_lease() -> None:
    now = 1000.0
    async with Daemon(settings(leases=Leases(seconds=4)), clock=lambda: now) as daemon, greeted(daemon) as talker:
        assert session_of(daemon).lease_end == 1004
        now = 1003
        await talker.say(Ping(1))
        await talker.hear(Pong)
        assert session_of(daemon).lease_end == 1007
        await talker.say(ListSpaces(1))
        await talker.hear(Spaces)
        assert session_of(daemon).lease_end == 1007


async def test_the_lease_is_that_of_the_injected_clock() -> None:
    now = 1000.0
    async with Daemon(settings(leases=Leases(seconds=0.05)), clock=lambda: now) as daemon, greeted(daemon) as talker:
        await asyncio.sleep(0.2)
        assert daemon.clients
        now = 1000.06
        assert await talker.ended() is not None


# -- requests ----------------------------------------------------------------------


async def test_an_error_of_a_request_is_its_answer() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(creating(1, last=5), Ping(2))
        refused = await talker.hear(Refused)
        await talker.hear(Pong)

        assert (refused.request, refused.failure.kind) == (1, "BadShape")
        assert daemon.counts.protocol_errors == 0


def broken(*_: object) -> None:
    raise ZeroDivisionError


async def test_what_fails_unexpectedly_closes_only_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon, name="other") as other, greeted(daemon) as talker:
        monkeypatch.setattr(daemon.spaces, "create", broken)
        await talker.say(creating(1))
        bye = await talker.ended()

        assert bye is not None
        assert bye.reason == "the daemon failed at a message"
        assert "ZeroDivisionError" in caplog.text
        await other.say(Ping(1))
        await other.hear(Pong)


async def test_a_request_that_waits_is_ended_by_cancel() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(WaitSpace(1, "vtd0"), Ping(2))
        await talker.hear(Pong)
        assert session_of(daemon).waits
        await talker.say(Cancel(1), Cancel(1), Cancel(77))
        await until(lambda: not session_of(daemon).waits)
        await talker.space()
        await talker.say(Ping(3))
        assert isinstance(await talker.next(), Pong)


async def test_a_request_that_waits_is_cancelled_before_it_has_begun() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(WaitSpace(1, "vtd0"), Cancel(1))
        await talker.space()
        await until(lambda: not session_of(daemon).waits)
        assert talker.heard == []


async def test_requests_that_wait_end_with_the_connection() -> None:
    async with Daemon(Config()) as daemon:
        async with greeted(daemon) as talker:
            await talker.say(WaitSpace(1, "vtd0"), Ping(2))
            await talker.hear(Pong)
            session = session_of(daemon)
        await until(lambda: not session.waits)
        await until(lambda: len(daemon.tasks) == 0)


async def test_requests_that_wait_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.requests.LIMIT", 2)
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(WaitSpace(1, "a"), WaitSpace(2, "b"), WaitSpace(3, "c"))
        refused = await talker.hear(Refused)

        assert (refused.request, refused.failure.kind) == (3, "LimitReached")


async def test_a_number_that_waits_must_not_be_used_again() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(WaitSpace(1, "a"), WaitSpace(1, "b"))
        bye = await talker.ended()

        assert bye is not None
        assert bye.failure is not None
        assert bye.failure.kind == "BadMessage"


async def test_what_is_said_in_one_turn_leaves_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        session, writes = session_of(daemon), 0
        transport: asyncio.Transport = vars(session)["_transport"]

        def counted(data: bytes) -> None:
            nonlocal writes
            writes += 1
            transport.write(data)

        monkeypatch.setattr(session, "_transport", Writes(transport, counted))
        await talker.say(*map(Ping, range(50)))
        for number in range(50):
            assert (await talker.hear(Pong)).number == number
        assert writes == 1


class Writes:
    """A transport whose writes are seen."""

    def __init__(self, transport: asyncio.Transport, write: Callable[[bytes], None]) -> None:
        self._transport = transport
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


# -- sources -------------------------------------------------------------------------


class Numbers:
    """Says numbers, one a turn."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.said = 0

    def flush(self) -> None:
        self.said += 1
        self.session.done(self.said)


async def test_a_source_is_asked_once_a_turn_and_after_what_was_said() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        session = session_of(daemon)
        numbers = Numbers(session)
        session.flush_soon(numbers)
        session.flush_soon(numbers)
        session.send(Pong(9))

        assert [type(await talker.next()) for _ in range(2)] == [Pong, Done]
        assert numbers.said == 1
        session.flush_soon(numbers)
        await talker.hear(Done)
        assert numbers.said == 2


async def test_a_source_waits_while_the_transport_is_full_and_an_answer_does_not() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        session = session_of(daemon)
        numbers = Numbers(session)
        session.pause_writing()
        session.flush_soon(numbers)
        session.send(Pong(9))
        await talker.hear(Pong)
        assert numbers.said == 0
        session.resume_writing()
        await talker.hear(Done)


async def test_a_source_that_fails_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def flush(self) -> None:
            raise ZeroDivisionError

    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        session_of(daemon).flush_soon(Broken())
        bye = await talker.ended()

        assert bye is not None
        assert bye.reason == "the daemon failed at a stream"
        assert "ZeroDivisionError" in caplog.text


# -- what the daemon asks ------------------------------------------------------------


def question(number: int) -> Message:
    return Ask(number, "vtd0", 1, 2, 3)


async def test_the_daemon_gets_its_answer() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        asked = asyncio.ensure_future(session_of(daemon).ask(question))
        ask = await talker.hear(Ask)
        await talker.say(Done(ask.request))

        assert await asked == Done(ask.request)


async def test_the_daemon_gets_the_error_of_a_refusal() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        asked = asyncio.ensure_future(session_of(daemon).ask(question))
        ask = await talker.hear(Ask)
        await talker.say(Refused(ask.request, to_failure(Misaligned("iova", 1, 2))))

        with pytest.raises(Misaligned):
            await asked


async def test_the_daemon_is_told_when_no_answer_will_come() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        session = session_of(daemon)
        asked = asyncio.ensure_future(session.ask(question))
        await talker.hear(Ask)
        await talker.say(Bye("enough"))

        with pytest.raises(ConnectionLost, match="enough"):
            await asked
        with pytest.raises(ConnectionLost):
            await session.ask(question)


async def test_the_daemon_says_that_it_waits_no_more_and_throws_away_a_late_answer() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        asked = asyncio.ensure_future(session_of(daemon).ask(question))
        ask = await talker.hear(Ask)
        asked.cancel()
        assert (await talker.hear(Cancel)).request == ask.request
        await talker.say(Done(ask.request), Ping(1))
        await talker.hear(Pong)
        session_of(daemon).tell(question)
        told = await talker.hear(Ask)
        await talker.say(Refused(told.request, to_failure(ValueError("never mind"))), Ping(2))
        await talker.hear(Pong)


# -- the end ---------------------------------------------------------------------------


class Heard:
    """A part that notes when it is told of the loss."""

    handlers: Mapping[type[Message], Callable[[Any], None]] = {}

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reasons: list[str] = []

    def lost(self, reason: str) -> None:
        assert not self.session.open
        self.reasons.append(reason)


async def test_parts_hear_once_that_the_connection_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        session = session_of(daemon)
        heard, broken = Heard(session), Heard(session)
        broken.lost = lambda _: 1 / 0  # type: ignore[assignment,method-assign]
        parts: list[Part] = [broken, heard]
        monkeypatch.setattr(session, "_parts", parts)
        await talker.say(Bye("done"))
        bye = await talker.ended()
        await until(lambda: not daemon.connections)

        assert bye == Bye("it said goodbye: done")
        assert heard.reasons == ["it said goodbye: done"]
        assert session.send(Pong(1)) == 0
        session.close("again")
        session.abort()


async def test_a_connection_that_breaks_is_lost() -> None:
    async with Daemon(Config()) as daemon:
        async with greeted(daemon):
            session = session_of(daemon)
        await until(lambda: not daemon.connections)
        assert not session.open
        assert daemon.counts.connections == 0


async def test_the_process_of_a_lost_connection_is_let_go() -> None:
    class Watched(Process):
        closed = 0

        def __init__(self) -> None:
            super().__init__(7, 7, -1)

        def close(self) -> None:
            self.closed += 1

    process = Watched()
    async with Daemon(Config()) as daemon:
        session = daemon.session(OWN, process)
        transport = Silent()
        session.connection_made(transport)
        assert session.process is process
        session.connection_lost(None)
        assert process.closed == 1
        assert session.process is None


class Silent(asyncio.Transport):
    """A transport that goes nowhere."""

    closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def write(self, data: object) -> None: ...
    def close(self) -> None:
        self.closed = True

    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


async def test_a_daemon_that_stops_refuses_what_is_new_and_does_the_rest() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        daemon.drain("an operator wants it", 2.5)
        draining = await talker.hear(Draining)
        await talker.say(creating(70, "vtd1"), Sync(71, 1_000_000, ["vtd0"]), Lookup(72, "vtd0", PAGE))

        assert draining == Draining("an operator wants it", 2_500_000)
        assert (await talker.hear(Refused)).failure.kind == "Stopping"
        assert {type(await talker.next()).__name__ for _ in range(2)} == {"Synced", "Found"}
        assert epoch


async def test_nobody_waits_for_a_space_at_a_daemon_that_stops() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(WaitSpace(1, "vtd0"), Ping(2))
        await talker.hear(Pong)
        daemon.drain("it is late", 1)
        await talker.hear(Draining)
        await talker.say(WaitSpace(3, "vtd0"))
        assert [(await talker.hear(Refused)).failure.kind for _ in range(2)] == ["Stopping"] * 2
        assert daemon.quiet


async def test_whoever_comes_to_a_daemon_that_stops_is_told() -> None:
    async with Daemon(Config()) as daemon:
        daemon.drain("it is late", 1)
        async with greeted(daemon) as talker:
            assert (await talker.hear(Draining)).reason == "it is late"


async def test_the_end_of_a_daemon_is_said_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Daemon(Config()) as daemon:
        here, there = talking(daemon), greeted(daemon)
        silent, talker = await here.__aenter__(), await there.__aenter__()
        await talker.say(WaitSpace(1, "vtd0"), Ping(1))
        await talker.hear(Pong)
    assert (await talker.ended()) == Bye("the daemon stops")
    assert (await silent.ended()) == Bye("the daemon stops")
    assert not daemon.connections
    assert len(daemon.tasks) == 0
    await here.__aexit__(None, None, None)
    await there.__aexit__(None, None, None)


async def test_a_daemon_that_ended_takes_nobody() -> None:
    async with Daemon(Config()) as daemon:
        pass
    session, transport = daemon.session(STRANGER), Silent()
    session.connection_made(transport)
    assert transport.closed
    session.connection_lost(None)


async def test_nobody_who_does_not_read_delays_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.daemon.LAST_WORDS", 0.05)
    async with Daemon(settings(deadlines=Deadlines(hello=600))) as daemon, talking(daemon) as talker:
        await talker.greet()
        session = session_of(daemon)
        transport: asyncio.Transport = vars(session)["_transport"]
        while not transport.get_write_buffer_size():
            transport.write(bytes(1 << 16))
        await daemon.__aexit__(None, None, None)
        assert not daemon.connections
