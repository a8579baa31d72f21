"""The tap, whole: between a front end and a back end, with what it publishes seen from the bus."""

import io
import json
import os
import random
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from errno import ENOSPC
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from iommubus import Bus
from iommubus.bridges.vhost_user_tap import Recorder, VhostUserTap, tap as module
from iommubus.bridges.vhost_user_tap.seen import Backlog
from iommubus.bridging.telling import Negotiated, Notice, Told
from iommubus.bus.abc import EventBus, Observer
from iommubus.client.remote import connect
from iommubus.errors import NameTaken, SpaceClosed
from iommubus.events import DevIotlbUnmap, Map, Observed, Unmap
from iommubus.transport.descriptors import close_all
from tests.daemons import daemon
from tests.loops import every_loop
from tests.peers import open_descriptors
from tests.vhost_user_bytes import Event, events_of
from tests.vhost_user_talk import (
    BASE,
    HEADER,
    KICK,
    Said,
    Talker,
    conversation,
    features,
    inode,
    invalidate,
    memfd,
    message,
    miss,
    protocol_features,
    ram_table,
    reply,
    ring,
    update,
)

PATIENCE = 20


class Desk:
    """A tap that runs, and where its two ends are.

    Attributes:
        tap: It.
        told: What it told.
        front: Where a front end connects.
        listening: Where it connects to.
    """

    def __init__(self, bus: EventBus, place: Path, **options: Any) -> None:
        self.told: list[Told] = []
        self._more = anyio.Event()
        self.front = str(place / "front.sock")
        self.back = str(place / "back.sock")
        self.tap = VhostUserTap(
            bus, listen=self.front, connect=self.back, space="vm", tell=self._tell, patience=0, **options
        )
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.settimeout(PATIENCE)

    def listen(self) -> None:
        """Have a back end listen."""
        self.listening.bind(self.back)
        self.listening.listen()

    def connect(self) -> Talker:
        """Be a front end that connects."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.front)
        return Talker(sock)

    def both(self) -> tuple[Talker, Talker]:
        """Connect both ends."""
        front = self.connect()
        return front, Talker(self.listening.accept()[0])

    def troubles(self) -> list[str]:
        """Return what somebody should look at."""
        return [told.text for told in self.told if isinstance(told, Notice) and told.trouble]

    async def wait_told(self, part: str) -> None:
        """Wait until something was told."""
        with anyio.fail_after(PATIENCE):
            while not any(part in str(told) for told in self.told):
                self._more = anyio.Event()
                await self._more.wait()

    def _tell(self, told: Told) -> None:
        self.told.append(told)
        self._more.set()


@asynccontextmanager
async def desk(bus: EventBus, place: Path, **options: Any) -> AsyncGenerator[Desk]:
    """Give a tap at work; it leaves no descriptor and no task."""
    work = Desk(bus, place, **options)
    with work.listening:
        work.listen()
        async with anyio.create_task_group() as tasks:
            await tasks.start(work.tap.run)
            yield work
            tasks.cancel_scope.cancel()


async def published(observer: Observer, count: int) -> list[Event]:
    """Return so many events."""
    events: list[Event] = []
    with anyio.fail_after(PATIENCE):
        while len(events) < count:
            events.append(as_event(await anext(aiter(observer))))
    return events


def as_event(event: Observed) -> Event:
    """Return an event as the independent reading has it."""
    match event:
        case Map():
            return Event("map", event.first, event.last, event.target, int(event.perm), event.memory is not None)
        case Unmap():
            return Event("unmap", event.first, event.last)
        case DevIotlbUnmap():
            return Event("device", event.first, event.last)
        case _:
            raise AssertionError(event)


def speak(work: Desk, script: Sequence[Said], chance: random.Random | None = None) -> None:
    """Say a script from front to back, which answers; all arrives byte for byte, with its descriptors."""
    front, back = work.both()
    ram = memfd()
    with front, back:
        sent: list[tuple[bytes, list[int]]] = []
        for said in script:
            fds = [os.dup(ram) if said.request == 5 else memfd() for _ in range(said.files)]
            sent.append((said.data, [inode(fd) for fd in fds]))
            front.say(said, *fds)
            if said.needs_reply or chance is None or chance.random() < 0.5:
                assert [heard(back) for _ in sent] == sent
                sent = []
            if said.needs_reply:
                back.say(reply(said.request))
                assert front.hear_data() == reply(said.request)
        assert [heard(back) for _ in sent] == sent
    os.close(ram)


def heard(talker: Talker) -> tuple[bytes, list[int]]:
    """Return the next message, and which files came with it."""
    data, fds = talker.hear()
    inodes = [inode(fd) for fd in fds]
    close_all(fds)
    return data, inodes


SCRIPT = [
    protocol_features(0x28),
    features(0x3_4000_0000),
    ram_table(),
    ring(KICK, 0, files=1),
    update(0x1000),
    update(0x1000, uaddr=BASE + 0x1000),
    invalidate(0x1000),
    update(0x3000),
]
"""What a front end says that begins."""


@every_loop
async def test_conversations_pass_unchanged_and_are_published_as_an_independent_reading_has_them(
    tmp_path: Path,
) -> None:
    before = open_descriptors()
    async with Bus() as bus, desk(bus, tmp_path) as work, bus.observe("vm") as observer:
        for seed in range(12):
            chance = random.Random(seed)  # noqa: S311
            script = [ram_table(), *conversation(chance)]
            await run_sync(speak, work, script, chance)
            expected = events_of(said.data for said in script)
            assert await published(observer, len(expected)) == expected, seed

        counts = work.tap.statistics()
        assert (counts.front_ends, counts.unread, counts.lost) == (12, 0, 0)
        assert work.troubles() == []
    assert set(open_descriptors().values()) - set(before.values()) <= {"anon_inode:[eventpoll]"}


@every_loop
async def test_the_next_front_end_is_taken_whoever_leaves_at_whatever_step(tmp_path: Path) -> None:
    async with Bus() as bus, desk(bus, tmp_path) as work, bus.observe("vm") as observer:
        rounds = 0
        for count in range(len(SCRIPT) + 1):
            for front_leaves in (True, False):
                rounds += 1
                await run_sync(leave_after, work, SCRIPT[:count], front_leaves)
                expected = events_of(said.data for said in SCRIPT[:count])
                assert await published(observer, len(expected)) == expected, (count, front_leaves)

        assert work.tap.statistics().front_ends == rounds


def leave_after(work: Desk, script: Sequence[Said], front_leaves: bool) -> None:
    """Say some, then leave; the other side hears that."""
    front, back = work.both()
    with front, back:
        for said in script:
            front.say(said, *[memfd() for _ in range(said.files)])
            heard(back)
            if said.needs_reply:
                back.say(reply(said.request))
                front.hear()
        leaving, staying = (front, back) if front_leaves else (back, front)
        leaving.sock.close()
        assert staying.gone()


@every_loop
async def test_what_was_agreed_upon_is_told_when_the_device_begins(tmp_path: Path) -> None:
    async with Bus() as bus, desk(bus, tmp_path) as work:
        await run_sync(speak, work, [*SCRIPT, *SCRIPT])
        await work.wait_told("is gone: it closed the connection")

        (told,) = [told for told in work.told if isinstance(told, Negotiated)]
        assert told.peer == f"process {os.getpid()} and process {os.getpid()} at vm"
        assert told.agreed[2] == "VIRTIO_F_ACCESS_PLATFORM"
        assert told.lacks == ()


@every_loop
async def test_the_back_end_channel_is_counted(tmp_path: Path) -> None:
    async with Bus() as bus, desk(bus, tmp_path) as work:

        def ask() -> None:
            front, back = work.both()
            mine, theirs = socket.socketpair()
            with front, back, Talker(mine) as channel:
                front.say(message(21, files=1), theirs.detach())
                _, fds = back.hear()
                with Talker(socket.socket(fileno=fds[0])) as given:
                    for number in range(3):
                        given.say(miss(0x1000 * number))
                        assert channel.hear_data() == miss(0x1000 * number).data
                        channel.say(reply(1))
                        assert given.hear_data() == reply(1)

        await run_sync(ask)
        await work.wait_told("is gone")
        counts = work.tap.statistics()
        assert counts.misses == 3
        assert dict(counts.requests) == {"SET_BACKEND_REQ_FD": 1}
        assert dict(counts.back_end_replies) == {"IOTLB_MSG": 3}


@every_loop
async def test_what_cannot_be_read_is_passed_on_counted_and_told_once(tmp_path: Path) -> None:
    wrong = message(22, bytes(25) + b"\x09" + bytes(6))
    script = [ram_table(), update(0x1000), wrong, wrong, invalidate(0x1000)]
    async with Bus() as bus, desk(bus, tmp_path) as work, bus.observe("vm") as observer:
        await run_sync(speak, work, script)
        expected = events_of(said.data for said in script if said != wrong)
        assert await published(observer, len(expected)) == expected

        assert work.tap.statistics().unread == 2
        (trouble,) = work.troubles()
        assert "not understood" in trouble


@every_loop
async def test_behind_a_header_that_cannot_be_read_the_rest_is_passed_on_and_nothing_is_shown(tmp_path: Path) -> None:
    wrong = HEADER.pack(22, 2, 0)
    async with Bus() as bus, desk(bus, tmp_path) as work, bus.observe("vm") as observer:

        def babble() -> None:
            front, back = work.both()
            with front, back:
                front.say(ram_table(), memfd())
                heard(back)
                for said in (update(0x1000), wrong, update(0x2000), invalidate(0x1000)):
                    front.say(said)
                    assert heard(back)[0] == (said.data if isinstance(said, Said) else said)
                back.say(wrong)
                assert front.hear_data() == wrong

        await run_sync(babble)
        expected = events_of([ram_table().data, update(0x1000).data])
        assert await published(observer, len(expected)) == expected
        await work.wait_told("is gone")
        assert len(work.troubles()) == 2
        await run_sync(speak, work, SCRIPT)  # and the next front end is read again
        expected = events_of(said.data for said in SCRIPT)
        assert await published(observer, len(expected)) == expected


@every_loop
async def test_traffic_goes_on_while_nobody_can_look_and_what_was_not_shown_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a daemon is away: memory cannot be added, and what waits for it is bounded."""
    monkeypatch.setattr(module, "Backlog", partial(Backlog, limit=8))
    async with Bus() as bus:
        adding, may = anyio.Event(), anyio.Event()

        async def add(name: str, size: int, fd: int | None = None) -> object:
            adding.set()
            await may.wait()
            return await Bus.add_memory(bus, name, size, fd)

        monkeypatch.setattr(bus, "add_memory", add)
        async with desk(bus, tmp_path) as work, bus.observe("vm") as observer:
            front, back = await run_sync(work.both)
            with front, back:
                await run_sync(exchange, front, back, [ram_table()])
                await adding.wait()
                await run_sync(exchange, front, back, [update(0x1000 * number) for number in range(40)])
                assert work.tap.statistics().lost > 60
                may.set()
                await work.wait_told("nobody could look at them in time")
                await run_sync(exchange, front, back, [update(0x10_0000)])

                events = await published(observer, 1)
                while events[-1].first != 0x10_0000:
                    events += await published(observer, 1)
            shown = [event.first for event in events if event.kind == "map"]
            assert shown == sorted(shown)
            at = [event.kind for event in events].index("unmap")
            assert all(event.first < 0x1000 * 40 for event in events[:at])


def exchange(front: Talker, back: Talker, script: Sequence[Said]) -> None:
    """Say a script, and have each message answered."""
    for said in script:
        front.say(said, *[memfd() for _ in range(said.files)])
        heard(back)
        back.say(reply(said.request))
        assert front.hear_data() == reply(said.request)


@every_loop
async def test_a_front_end_is_let_go_of_where_no_back_end_is(tmp_path: Path) -> None:
    async with Bus() as bus:
        work = Desk(bus, tmp_path)
        with work.listening:
            async with anyio.create_task_group() as tasks:
                await tasks.start(work.tap.run)
                with work.connect() as front:
                    assert await run_sync(front.gone)
                await work.wait_told("the front end is let go of")
                work.listen()
                await run_sync(speak, work, SCRIPT)
                tasks.cancel_scope.cancel()


@every_loop
async def test_both_ends_are_let_go_of_when_it_is_cancelled(tmp_path: Path) -> None:
    async with Bus() as bus, bus.observe() as observer:
        async with desk(bus, tmp_path) as work:
            front, back = await run_sync(work.both)
            await run_sync(exchange, front, back, [ram_table(), update(0x1000)])
            assert len(await published(observer, 1)) == 1
        with front, back:
            assert await run_sync(front.gone)
            assert await run_sync(back.gone)
        assert bus.spaces() == ()
        assert not await anyio.Path(work.front).exists()
        assert (await published(observer, 1))[0].kind == "unmap"


@every_loop
async def test_it_ends_when_its_space_is_closed_by_somebody_else(tmp_path: Path) -> None:
    async with Bus() as bus:
        work = Desk(bus, tmp_path)
        ended: list[BaseException] = []

        async def run() -> None:
            try:
                await work.tap.run()
            except SpaceClosed as closed:
                ended.append(closed)

        with work.listening:
            work.listen()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await work.wait_told("waiting for a front end")
                front, back = await run_sync(work.both)
                with front, back:
                    await (await bus.wait_space("vm")).close()
                    await run_sync(exchange, front, back, [update(0x1000)])
                    assert await run_sync(front.gone)
        assert [type(error) for error in ended] == [SpaceClosed]


@every_loop
async def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    async with Bus() as bus:
        await bus.create_space("vm")
        work = Desk(bus, tmp_path)
        with work.listening, pytest.raises(NameTaken):
            await work.tap.run()


@every_loop
async def test_what_is_passed_on_is_written_down(tmp_path: Path) -> None:
    out = io.StringIO()
    async with Bus() as bus, desk(bus, tmp_path, recorder=Recorder(out)) as work:
        await run_sync(speak, work, SCRIPT)
        await work.wait_told("is gone")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]

    said = [(bytes.fromhex(line["hex"]), line["fds"]) for line in lines if line["dir"] == "rx"]
    assert said == [(each.data, each.files) for each in SCRIPT]
    assert len(lines) == len(SCRIPT) + sum(each.needs_reply for each in SCRIPT)


class FullDisk(io.StringIO):
    """A file on a disk that is full."""

    def write(self, text: str) -> int:
        del text
        raise OSError(ENOSPC, os.strerror(ENOSPC))


@every_loop
async def test_where_it_cannot_be_written_down_the_rest_goes_on(tmp_path: Path) -> None:
    async with Bus() as bus, desk(bus, tmp_path, recorder=Recorder(FullDisk())) as work, bus.observe("vm") as observer:
        await run_sync(speak, work, SCRIPT)
        expected = events_of(said.data for said in SCRIPT)
        assert await published(observer, len(expected)) == expected

        assert work.troubles() == ["nothing is written down any more: [Errno 28] No space left on device"]


@pytest.mark.asyncio
async def test_through_a_daemon_an_observer_elsewhere_sees_the_same(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        async with (
            connect(running.address) as bus,
            connect(running.address) as other,
            desk(bus, tmp_path) as work,
            other.observe() as observer,
        ):
            for seed in range(3):
                chance = random.Random(seed)  # noqa: S311
                script = [ram_table(), *conversation(chance)]
                await run_sync(speak, work, script, chance)
                expected = events_of(said.data for said in script)
                assert await published(observer, len(expected)) == expected, seed


@pytest.mark.asyncio
async def test_traffic_goes_on_while_the_daemon_is_away_and_is_shown_when_it_is_back(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        stack = AsyncExitStack()
        bus = await stack.enter_async_context(connect(running.address))
        work = await stack.enter_async_context(desk(bus, tmp_path))
    async with stack:
        front, back = await run_sync(work.both)
        with front, back:
            await run_sync(exchange, front, back, [ram_table(), update(0x1000), update(0x2000), invalidate(0x1000)])
            with daemon(tmp_path) as running:
                async with connect(running.address) as other, other.observe() as observer:
                    events = await published(observer, 1)
                    while events[-1] != Event("map", 0x2000, 0x2FFF, 0, 3, True):
                        events += await published(observer, 1)
                await stack.aclose()
