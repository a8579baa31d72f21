"""A space drives a vfio-user server: it is given what is mapped, and an UNMAP is acknowledged when it has let go."""

import errno
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from anyio.abc import TaskGroup

from iommubus import Bus, Perm
from iommubus.bridges.vfio_user_client import VfioUserClient
from iommubus.bridging.telling import Negotiated, Notice, Told
from iommubus.bus.abc import AddressSpace, EventBus
from iommubus.bus.reports import MapFailure, Missing
from iommubus.errors import (
    Fenced,
    GranuleRefused,
    NoBacking,
    PeerCannot,
    PeerLeft,
    PeerRefused,
    SyncFailed,
    TooManyMappings,
)
from iommubus.events import Memory
from iommubus.transport import credentials
from tests.bridges.vfio_user_peers import (
    DMA_MAP,
    DMA_READ,
    DMA_UNMAP,
    DMA_WRITE,
    ERROR,
    HEADER,
    NO_REPLY,
    PAGE,
    REPLY,
    VERSION,
    End,
    Heard,
    Listening,
    mapping,
    memfd,
    message,
    unmapping,
    until,
    version,
)
from tests.daemons import bus_at, command, daemon, environment, said_by_failure, wait_failure, wait_synced
from tests.loops import every_loop
from tests.peers import open_descriptors


class Scene:
    """A client that runs, its bus and space, and what it said."""

    def __init__(self, bus: EventBus, space: AddressSpace, memory: Memory, tasks: TaskGroup) -> None:
        self.bus = bus
        self.space = space
        self.memory = memory
        self.tasks = tasks
        self.told: list[Told] = []
        self.client: VfioUserClient
        self.ended: BaseException | None = None
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()

    @property
    def troubles(self) -> list[str]:
        return [told.text for told in self.told if isinstance(told, Notice) and told.trouble]

    async def heard_of(self, part: str) -> None:
        """Wait until the client has said something."""
        await until(lambda: any(part in str(told) for told in self.told))

    async def current(self) -> None:
        """Wait until the subscription is registered, and its first replay is through."""
        await until(lambda: any(one.current for one in self.bus.statistics().spaces["s"].subscriptions.values()))

    async def run(self) -> None:
        with self.scope:
            try:
                await self.client.run()
            except Exception as error:  # noqa: BLE001 - a test looks at it
                self.ended = error
        self.over.set()


@asynccontextmanager
async def following(path: Path, *, granule: int = PAGE, **options: Any) -> AsyncGenerator[Scene]:
    """Give a client of what listens at a path, with the space ``s`` and the memory ``ram``, embedded."""
    async with Bus() as bus, anyio.create_task_group() as tasks:
        space = await bus.create_space("s", granule=granule)
        scene = Scene(bus, space, await bus.add_memory("ram", 64 * PAGE), tasks)
        scene.client = VfioUserClient(bus, connect=str(path), space="s", tell=scene.told.append, **options)
        tasks.start_soon(scene.run)
        yield scene
        tasks.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.sock"


@pytest.fixture(autouse=True)
def _tries_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of how long it waits."""
    monkeypatch.setattr("iommubus.bridges.vfio_user_client.bridge.RETRY", 0.005)


async def next_command(end: End) -> Heard:
    """Return the next thing that a server is told."""
    heard = await end.hear()
    assert heard is not None
    return heard


def ok(heard: Heard) -> bytes:
    """Return the answer that something was done."""
    return message(heard.number, heard.command, heard.payload if heard.command == DMA_UNMAP else b"", REPLY)


def no(heard: Heard, error: int) -> bytes:
    """Return the answer that it was not."""
    return message(heard.number, heard.command, b"", REPLY | ERROR, error)


async def obey(end: End) -> None:
    """Do everything that is asked."""
    while (heard := await end.hear()) is not None:
        if not heard.flags & REPLY:
            with suppress(BrokenPipeError):
                end.send(ok(heard))


async def synced(space: AddressSpace, done: list[object]) -> None:
    """Sync, and note what came of it."""
    try:
        done.append(await space.sync(30))
    except SyncFailed as failed:
        done.append(failed)


@every_loop
async def test_what_is_agreed_upon_is_said(path: Path) -> None:
    with Listening(path) as server:
        async with following(path, max_maps=500) as scene:
            with await server.accept() as end:
                proposed = await next_command(end)
                end.send(message(proposed.number, VERSION, version(max_dma_maps=300, pgsizes=0x1000), REPLY))
                await scene.heard_of("agreed")

                assert (proposed.command, proposed.payload[:4]) == (VERSION, bytes(4))
                assert b'"max_dma_maps":500' in proposed.payload
                told = scene.told[0]
                assert isinstance(told, Negotiated)
                assert told.peer == f"the vfio-user server at {path}, process {os.getpid()}"
                assert (told.agreed, told.lacks) == (("version 0.0", "max_dma_maps 300", "pgsizes 0x1000"), ())


@every_loop
async def test_a_map_reaches_the_server_with_the_memory(path: Path) -> None:
    """And an UNMAP names it as it was mapped."""
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, 2 * PAGE, PAGE, Perm.R, memory=scene.memory)
            scene.bus.memory_view(scene.memory)[PAGE : PAGE + 5] = b"guest"
            with await server.greet() as end:
                mapped = await next_command(end)
                end.send(ok(mapped))

                assert (mapped.command, mapped.payload) == (DMA_MAP, mapping(0x4000, 2 * PAGE, PAGE, 1))
                (fd,) = mapped.fds
                assert os.pread(fd, 5, PAGE) == b"guest"
                scene.space.unmap(0, 2**64)
                unmapped = await next_command(end)
                end.send(ok(unmapped))
                assert (unmapped.command, unmapped.payload, unmapped.fds) == (
                    DMA_UNMAP, unmapping(0x4000, 2 * PAGE), ()
                )  # fmt: skip
                await scene.space.sync()
                statistics = scene.client.statistics()
                assert (statistics.connections, statistics.held, statistics.maps, statistics.unmaps) == (1, 0, 1, 1)


@every_loop
async def test_an_unmap_is_acknowledged_when_the_server_has_let_go(path: Path) -> None:
    done: list[object] = []
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                end.send(ok(await next_command(end)))
                await scene.space.sync()
                scene.space.unmap(0x4000, PAGE)
                scene.tasks.start_soon(synced, scene.space, done)
                unmapped = await next_command(end)
                await anyio.wait_all_tasks_blocked()

                assert done == []
                assert scene.client.statistics().waiting == 1
                end.send(ok(unmapped))
                await until(lambda: done)
                assert not isinstance(done[0], SyncFailed)


@every_loop
async def test_commands_wait_for_their_answers_together_and_those_that_overlap_in_order(path: Path) -> None:
    with Listening(path) as server:
        async with following(path, window=8) as scene:
            for page in range(10):
                scene.space.map(page * PAGE, PAGE, page * PAGE, Perm.RW, memory=scene.memory)
            scene.space.unmap(0, PAGE)
            scene.space.map(0, PAGE, 32 * PAGE, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                first = [await next_command(end) for _ in range(8)]
                assert len({one.number for one in first}) == 8
                assert await end.nothing_came()
                for one in reversed(first):  # an answer may overtake another
                    end.send(ok(one))
                rest = [await next_command(end), await next_command(end)]
                assert [one.command for one in (*first, *rest)] == [DMA_MAP] * 10
                assert await end.nothing_came()  # what comes next overlaps one of these
                for one in rest:
                    end.send(ok(one))
                await scene.space.sync()


@every_loop
async def test_a_mapping_changed_in_place_waits_for_the_unmap(path: Path) -> None:
    """The server sees MAP, UNMAP, MAP of one page, each when the one before is answered."""
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.greet() as end:
                await scene.current()
                scene.space.map(0, PAGE, 0, Perm.RW, memory=scene.memory)
                scene.space.remap(0, PAGE, PAGE, Perm.RW, memory=scene.memory)
                seen: list[int] = []
                for _ in range(3):
                    heard = await next_command(end)
                    assert await end.nothing_came()
                    seen.append(heard.command)
                    end.send(ok(heard))
                assert seen == [DMA_MAP, DMA_UNMAP, DMA_MAP]
                await scene.space.sync()


@every_loop
async def test_a_map_that_is_refused_is_raised_by_the_next_sync_once(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.greet() as end:
                await scene.current()
                done: list[object] = []
                scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
                scene.tasks.start_soon(synced, scene.space, done)
                end.send(no(await next_command(end), errno.ENOSPC))
                await until(lambda: done)

                assert isinstance(done[0], SyncFailed)
                (failure,) = done[0].failures
                assert isinstance(failure, MapFailure)
                assert isinstance(failure.cause, PeerRefused)
                assert str(failure.cause).endswith("refused DMA_MAP of 0x4000..0x4fff: ENOSPC, No space left on device")
                assert done[0].missing == () or list(done[0].missing) == []
                scene.space.unmap(0x4000, PAGE)
                await scene.space.sync()  # it is not told of an UNMAP of what it does not hold
                assert await end.nothing_came()


@every_loop
async def test_a_map_that_is_refused_in_the_first_replay_is_told(path: Path) -> None:
    """No sync of the producer raises it: it did not wait for a newcomer."""
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                end.send(no(await next_command(end), errno.ENOSPC))
                await scene.heard_of("could not map 0x4000..0x4fff")
                await scene.space.sync()


@every_loop
async def test_a_map_that_is_refused_takes_its_unmap_with_it(path: Path) -> None:
    """Also where both were in one hand-over."""
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.greet() as end:
                await scene.current()
                scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
                scene.space.unmap(0x4000, PAGE)
                scene.space.map(0x8000, PAGE, 0, Perm.RW, memory=scene.memory)
                refused = await next_command(end)
                end.send(no(refused, errno.EINVAL))
                after = await next_command(end)
                end.send(ok(after))

                assert (refused.payload, after.payload) == (mapping(0x4000), mapping(0x8000))
                with pytest.raises(SyncFailed):
                    await scene.space.sync()
                await scene.space.sync()


@every_loop
async def test_an_unmap_that_is_refused_fails_every_sync_until_it_is_done(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                end.send(ok(await next_command(end)))
                await scene.space.sync()
                for errno_ in (errno.EBUSY, errno.EIO):
                    done: list[object] = []
                    scene.space.unmap(0x4000, PAGE)
                    scene.tasks.start_soon(synced, scene.space, done)
                    end.send(no(await next_command(end), errno_))
                    await until(partial(bool, done))
                    assert isinstance(done[0], SyncFailed)
                    (missing,) = done[0].missing
                    assert isinstance(missing, Missing)
                    assert isinstance(missing.cause, PeerRefused)
                    assert [(piece.first, piece.target) for piece in missing.pieces] == [(0x4000, 0)]
                done = []
                scene.tasks.start_soon(synced, scene.space, done)
                end.send(ok(await next_command(end)))
                await until(lambda: done)
                assert not isinstance(done[0], SyncFailed)


@every_loop
async def test_what_leads_to_a_bare_address_is_given_to_nobody(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.greet() as end:
                await scene.current()
                scene.space.map(0x4000, PAGE, 0x8000, Perm.RW)
                with pytest.raises(SyncFailed) as failed:
                    await scene.space.sync()
                (failure,) = failed.value.failures
                assert isinstance(failure, MapFailure)
                assert isinstance(failure.cause, NoBacking)
                assert await end.nothing_came()


@every_loop
async def test_the_server_is_given_no_more_than_it_holds(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.greet(max_dma_maps=2) as end:
                scene.tasks.start_soon(obey, end)
                await scene.current()
                for page in range(3):
                    scene.space.map(page * PAGE, PAGE, 0, Perm.RW, memory=scene.memory)
                with pytest.raises(SyncFailed) as failed:
                    await scene.space.sync()
                (failure,) = failed.value.failures
                assert isinstance(failure, MapFailure)
                assert isinstance(failure.cause, TooManyMappings)


def huge_memory(bus: EventBus) -> Memory:
    """Return a memory as large as the space, which no file can be: its descriptor is of a smaller one."""
    assert isinstance(bus, Bus)
    memory = bus.memories.announce("huge", 2**64)
    with memfd() as fd:
        bus.memories.adopt(memory, os.dup(fd))
    return memory


@every_loop
async def test_the_whole_space_is_two_halves(path: Path) -> None:
    """Where the second is refused, the first is taken back before that is told."""
    half = 2**63
    with Listening(path) as server:
        async with following(path) as scene:
            memory, space = huge_memory(scene.bus), scene.space
            with await server.greet() as end:
                await scene.current()
                space.map(0, 2**64, 0, Perm.RW, memory=memory)
                low, high = await next_command(end), await next_command(end)
                assert (low.payload, high.payload) == (mapping(0, half, 0), mapping(half, half, half))
                end.send(ok(low))
                end.send(no(high, errno.ENOMEM))
                undone = await next_command(end)
                assert (undone.command, undone.payload) == (DMA_UNMAP, unmapping(0, half))
                end.send(ok(undone))
                with pytest.raises(SyncFailed):
                    await space.sync()
                space.unmap(0, 2**64)
                await space.sync()
                assert await end.nothing_came()

                space.map(0, 2**64, 0, Perm.RW, memory=memory)
                for _ in range(2):
                    end.send(ok(await next_command(end)))
                space.unmap(0, 2**64)
                went = [await next_command(end), await next_command(end)]
                assert [one.payload for one in went] == [unmapping(0, half), unmapping(half, half)]
                for one in went:
                    end.send(ok(one))
                await space.sync()


@every_loop
async def test_a_fence_is_proven_when_the_server_has_let_go_of_everything(path: Path) -> None:
    """And not before; then the bridge ends."""
    proofs: list[bool] = []

    async def fence(space: AddressSpace) -> None:
        proofs.append(await space.fence(f"vfio-user {path}"))

    with Listening(path) as server:
        async with following(path) as scene:
            for page in (0x4000, 0x8000):
                scene.space.map(page, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                for _ in range(2):
                    end.send(ok(await next_command(end)))
                await scene.space.sync()
                scene.tasks.start_soon(fence, scene.space)
                taken = [await next_command(end), await next_command(end)]
                await anyio.wait_all_tasks_blocked()

                assert [one.payload for one in taken] == [unmapping(0x4000), unmapping(0x8000)]
                assert proofs == []
                end.send(ok(taken[0]))
                await anyio.wait_all_tasks_blocked()
                assert proofs == []
                end.send(ok(taken[1]))
                await until(lambda: proofs)
                assert proofs == [True]
                await scene.over.wait()
                assert isinstance(scene.ended, Fenced)
                assert await end.ended()
                await scene.space.sync()


@every_loop
async def test_a_server_that_does_not_let_go_is_not_proven_stopped(path: Path) -> None:
    """It is asked again until it does."""
    proven: list[bool] = []
    stubborn = [True]

    async def fence(space: AddressSpace) -> None:
        proven.append(await space.fence(f"vfio-user {path}"))

    async def answer(end: End) -> None:
        while (heard := await end.hear()) is not None:
            end.send(no(heard, errno.EBUSY) if stubborn else ok(heard))

    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                end.send(ok(await next_command(end)))
                await scene.space.sync()
                scene.tasks.start_soon(answer, end)
                scene.tasks.start_soon(fence, scene.space)
                await until(lambda: proven)
                assert proven == [False]
                await scene.heard_of("refused DMA_UNMAP of 0x4000..0x4fff: EBUSY")
                stubborn.clear()
                await scene.over.wait()
                await scene.space.sync()


@every_loop
async def test_when_it_is_told_to_end_the_server_lets_go_first(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            before = open_descriptors()
            with await server.greet() as end:
                end.send(ok(await next_command(end)))
                await scene.space.sync()
                scene.scope.cancel()
                taken = await next_command(end)
                assert (taken.command, taken.payload) == (DMA_UNMAP, unmapping(0x4000))
                assert await end.nothing_came()
                end.send(ok(taken))
                await scene.over.wait()
                assert await end.ended()
            await scene.space.sync()
            await until(lambda: len(open_descriptors()) <= len(before))


@every_loop
async def test_when_the_space_is_closed_it_ends(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                scene.tasks.start_soon(obey, end)
                await scene.current()
                await scene.space.close()
                await scene.space.sync()
                await scene.over.wait()
                assert scene.ended is None


SERVER: Final = """
import json, socket, struct, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("listens", flush=True)
end = listening.accept()[0]
try:
    while head := end.recv(16, socket.MSG_WAITALL):
        number, command, size, flags, error = struct.unpack("<HHIII", head)
        payload = end.recv(size - 16, socket.MSG_WAITALL)
        payload = b"" if command == 2 else payload
        end.sendall(struct.pack("<HHIII", number, command, 16 + len(payload), 1, 0) + payload)
        if command == 2:
            print("mapped", flush=True)
            if len(sys.argv) > 2:
                end.close()
                break
except ConnectionResetError:  # the client was killed
    pass
sys.stdin.read()
"""


@asynccontextmanager
async def server_process(path: Path, *more: str) -> AsyncGenerator["subprocess.Popen[str]"]:
    """Give a server in a process of its own that has something mapped after a while."""
    await anyio.Path(path).unlink(missing_ok=True)
    words = [sys.executable, "-c", SERVER, str(path), *more]
    process = subprocess.Popen(  # noqa: ASYNC220 - takes a moment
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert await anyio.to_thread.run_sync(process.stdout.readline) == "listens\n"
        try:
            yield process
        finally:
            process.kill()


@every_loop
async def test_a_server_that_is_lost_is_proven_stopped_by_the_end_of_its_process(path: Path) -> None:
    """The connection has ended long before; then it connects again, and everything is mapped again."""
    async with following(path) as scene:
        async with server_process(path, "and hang up") as process:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            await scene.heard_of("may still hold 1 mappings")
            with pytest.raises(SyncFailed) as failed:
                await scene.space.sync(0.05)
            (missing,) = failed.value.missing
            assert isinstance(missing, Missing)
            assert "is not proven stopped" in missing.reason
            process.kill()
            await scene.space.sync(30)
        async with server_process(path) as again:
            assert again.stdout is not None
            assert await anyio.to_thread.run_sync(again.stdout.readline) == "mapped\n"
            await scene.space.sync()
            assert scene.client.statistics()[:2] == (2, 1)


FORKING: Final = """
import os, signal
child = os.fork()
if child:
    print(child, flush=True)
    sys.stdin.read()
    os._exit(0)
"""
FORKED: Final = (
    SERVER.replace('print("listens", flush=True)\n', FORKING).removesuffix("sys.stdin.read()\n") + "signal.pause()"
)
"""A server that serves in another process than listens, which ends when its input does."""


@contextmanager
def forked_server(path: Path) -> Generator[tuple["subprocess.Popen[str]", int]]:
    """Give the process that listens, and the number of the one that serves."""
    words = [sys.executable, "-c", FORKED, str(path), "and hang up"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        child = int(listener.stdout.readline())
        try:
            yield listener, child
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            listener.kill()


@pytest.mark.parametrize("first", [True, False])
@every_loop
async def test_the_process_that_serves_is_the_proof_and_not_the_one_that_listens(path: Path, first: bool) -> None:
    """Law 8: the one that listens, and may have ended before, never held anything."""
    async with following_forked(path, first) as (scene, listener, child):
        await scene.heard_of(f"process {child} may still hold 1 mappings")
        assert listener.stdin is not None
        listener.stdin.close()
        await anyio.to_thread.run_sync(listener.wait)
        with pytest.raises(SyncFailed):
            await scene.space.sync(0.05)
        os.kill(child, signal.SIGKILL)
        await scene.space.sync(30)


@asynccontextmanager
async def following_forked(path: Path, first: bool) -> AsyncGenerator[tuple[Scene, "subprocess.Popen[str]", int]]:
    """Give a client of a server that forks; the process that listens has ended ``first``, or not."""
    with forked_server(path) as (listener, child):
        if first:
            assert listener.stdin is not None
            listener.stdin.close()
            await anyio.to_thread.run_sync(listener.wait)
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            yield scene, listener, child


@every_loop
async def test_a_server_that_is_killed_is_proven_stopped(path: Path) -> None:
    async with following(path) as scene, server_process(path) as process:
        scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
        await scene.current()
        process.kill()
        scene.space.unmap(0x4000, PAGE)
        await scene.space.sync(30)


def test_a_bridge_that_is_killed_counts_until_its_server_has_ended(tmp_path: Path, path: Path) -> None:
    """Law 8: the server was given a descriptor, and nobody has told it to let go."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server, daemon(tmp_path) as served, bus_at(served.address, "producer") as (portal, bus):
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "listens\n"
            space = portal.call(bus.create_space, "s")
            memory = portal.call(bus.add_memory, "ram", 16 * PAGE)
            portal.call(lambda: space.map(0x4000, PAGE, 0, Perm.RW, memory=memory))
            words = ("--connect", str(path), "--space", "s", "-a", served.address)
            with subprocess.Popen(command("bridge", "vfio-user-client", *words), env=environment()) as bridge:
                try:
                    assert server.stdout.readline() == "mapped\n"
                finally:
                    bridge.kill()
            portal.call(lambda: space.unmap(0x4000, PAGE))
            assert f"vfio-user {path} on s is not proven stopped" in said_by_failure(portal, space)
            wait_failure(portal, space, f"process {server.pid} has ended: its own, {bridge.pid}, has")
            server.kill()
            wait_synced(portal, space)
        finally:
            server.kill()


@every_loop
async def test_what_cannot_be_seen_of_a_server_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it is lost while it holds something, the bridge gives up: nothing will ever show that it is stopped."""

    async def unseen(_: object) -> int:
        return 0

    monkeypatch.setattr(credentials, "sender_pid", unseen)
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                end.send(ok(await next_command(end)))
                await scene.space.sync()
            await scene.over.wait()
            assert isinstance(scene.told[0], Negotiated)
            assert [lack.what for lack in scene.told[0].lacks] == ["view of its process"]
            assert isinstance(scene.ended, PeerLeft)
            with pytest.raises(SyncFailed):
                await scene.space.sync(0.05)


ANSWERS = [
    (version(1), PeerCannot),
    (version(0, 7), PeerCannot),
    (version(max_msg_fds=0), PeerCannot),
]


@every_loop
@pytest.mark.parametrize(("answer", "error"), ANSWERS)
async def test_a_server_that_will_not_do_ends_the_bridge(path: Path, answer: bytes, error: type[Exception]) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.accept() as end:
                asked = await next_command(end)
                end.send(message(asked.number, VERSION, answer, REPLY))
                await scene.over.wait()
                assert isinstance(scene.ended, error)


@every_loop
async def test_pages_that_are_too_large_are_a_refusal(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.greet(pgsizes=0x10000):
                await scene.over.wait()
                assert isinstance(scene.ended, BaseExceptionGroup | GranuleRefused)


HOSTILE = [
    b"GET / HTTP/1.1\r\n\r\n",
    message(0, VERSION, version(), 0),
    message(0, VERSION, b"", REPLY | ERROR, errno.EINVAL),
    message(0, DMA_MAP, b"", REPLY),
    message(0, VERSION, version(max_dma_maps=0), REPLY),
    message(0, VERSION, version(pgsizes=-1), REPLY),
    message(0, VERSION, version(twin_socket={"supported": True, "fd_index": 0}), REPLY),
    message(0, VERSION, bytes(4) + b"{}{", REPLY),
    message(0, VERSION, version(), REPLY) + message(77, DMA_MAP, b"", REPLY),
    message(0, VERSION, version(), REPLY) + HEADER.pack(1, DMA_READ, 2**30, 0, 0),
    message(0, VERSION, version(), REPLY) + HEADER.pack(1, DMA_READ, 3, 0, 0),
]


@every_loop
@pytest.mark.parametrize("data", HOSTILE)
async def test_a_server_that_breaks_the_protocol_is_left_and_tried_again(path: Path, data: bytes) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            with await server.accept() as end:
                await next_command(end)
                end.send(data)
                assert await end.ended()
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                end.send(ok(await next_command(end)))
                await scene.space.sync()
                assert len(scene.troubles) == 1


WRONG: dict[str, Callable[[Heard], bytes]] = {
    "of another command": lambda asked: message(asked.number, DMA_MAP, b"", REPLY),
    "to another number": lambda asked: message(asked.number + 1, DMA_UNMAP, asked.payload, REPLY),
    "for another range": lambda asked: message(asked.number, DMA_UNMAP, unmapping(0), REPLY),
    "without a range": lambda asked: message(asked.number, DMA_UNMAP, b"", REPLY),
}


@every_loop
@pytest.mark.parametrize("how", WRONG)
async def test_a_wrong_answer_is_no_answer(path: Path, how: str) -> None:
    """The connection ends, and nothing is proven by it."""
    with Listening(path) as server:
        async with following(path) as scene:
            scene.space.map(0x4000, PAGE, 0, Perm.RW, memory=scene.memory)
            with await server.greet() as end:
                end.send(ok(await next_command(end)))
                await scene.space.sync()
                scene.space.unmap(0x4000, PAGE)
                end.send(WRONG[how](await next_command(end)))
                assert await end.ended()
                with pytest.raises(SyncFailed, match="is not proven stopped"):
                    await scene.space.sync(0.05)


def access(address: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<QQ", address, count) + data


@every_loop
async def test_a_server_that_cannot_map_reads_and_writes_by_messages(path: Path) -> None:
    with Listening(path) as server:
        async with following(path) as scene:
            ram = scene.bus.memory_view(scene.memory)
            ram[2 * PAGE - 2 : 2 * PAGE + 2] = b"abcd"
            scene.space.map(0x4000, PAGE, PAGE, Perm.RW, memory=scene.memory)
            scene.space.map(0x5000, PAGE, 2 * PAGE, Perm.R, memory=scene.memory)
            with await server.greet() as end:
                for _ in range(2):
                    end.send(ok(await next_command(end)))
                await scene.space.sync()

                read = await end.ask(DMA_READ, access(0x4FFE, 4))
                assert (read.flags, read.payload) == (REPLY, access(0x4FFE, 4, b"abcd"))
                written = await end.ask(DMA_WRITE, access(0x4FFC, 4, b"WXYZ"))
                assert (written.flags, written.payload) == (REPLY, access(0x4FFC, 4))
                assert bytes(ram[2 * PAGE - 4 : 2 * PAGE]) == b"WXYZ"
                for command, payload, error in (
                    (DMA_WRITE, access(0x4FFE, 4, b"0123"), errno.EFAULT),  # half of it is read-only
                    (DMA_READ, access(0x5FFE, 4), errno.EFAULT),  # half of it is not mapped
                    (DMA_READ, access(0x3FFE, 4), errno.EFAULT),
                    (DMA_READ, access(0x9000, 4), errno.EFAULT),
                    (DMA_READ, access(0x4000, 2**30), errno.EINVAL),
                    (DMA_READ, access(0x4000, 0), errno.EINVAL),
                    (DMA_READ, access(2**64 - 1, 2), errno.EINVAL),
                    (DMA_READ, access(0x4000, 4, b"more"), errno.EINVAL),
                    (DMA_WRITE, access(0x4000, 4, b"abc"), errno.EINVAL),
                    (DMA_READ, b"short", errno.EINVAL),
                    (99, b"", errno.ENOTSUP),
                ):
                    refused = await end.ask(command, payload)
                    assert (refused.flags, errno.errorcode[refused.error]) == (REPLY | ERROR, errno.errorcode[error])
                assert bytes(ram[2 * PAGE - 4 : 2 * PAGE]) == b"WXYZ"
                end.say(DMA_WRITE, access(0x4000, 2, b"!!"), flags=NO_REPLY)
                assert (await end.ask(DMA_READ, access(0x4000, 2))).payload[16:] == b"!!"
                assert scene.client.statistics().accesses == 4


@every_loop
async def test_a_server_that_is_not_there_yet_is_waited_for(path: Path) -> None:
    async with following(path) as scene:
        await scene.heard_of(f"nobody answers at {path}")
        with Listening(path) as server, await server.greet() as end:
            scene.tasks.start_soon(obey, end)
            await scene.heard_of("agreed")
