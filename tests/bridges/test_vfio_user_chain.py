"""Both roles against each other: a space, a client, a socket, a server, another space, and who follows that one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskStatus

from iommubus import Bus, Cap, Mirror, Perm, connect
from iommubus.bridges.vfio_user_client import VfioUserClient
from iommubus.bridges.vfio_user_server import VfioUserServer
from iommubus.bridging.telling import Told
from iommubus.bus.abc import AddressSpace, EventBus
from iommubus.bus.reports import MapFailure
from iommubus.errors import SyncFailed, TooManyMappings
from iommubus.events import Memory
from tests.bridges.vfio_user_peers import PAGE, until
from tests.daemons import daemon
from tests.loops import every_loop


class Chain:
    """The near space, with a memory; and a device that mirrors the far one, and lets go only while it may."""

    def __init__(self, bus: EventBus, space: AddressSpace, memory: Memory) -> None:
        self.bus = bus
        self.space = space
        self.memory = memory
        self.told: list[Told] = []
        self.mirror: Mirror
        self.may = anyio.Event()
        self.may.set()
        self.synced = False

    def map(self, page: int, target: int = 0, perm: Perm = Perm.RW) -> None:
        self.space.map(page * PAGE, PAGE, target * PAGE, perm, memory=self.memory)

    async def device(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        async with bus.subscribe("far", Cap.IOTLB, name="device") as events:
            self.mirror = Mirror(events)
            task_status.started()
            async for event in events:
                await self.may.wait()
                self.mirror.apply(event)

    async def sync(self) -> None:
        await self.space.sync(30)
        self.synced = True

    @property
    def reached(self) -> set[int]:
        """The pages that the device can reach."""
        return {mapping.first // PAGE for mapping in self.mirror}


@asynccontextmanager
async def chain(near: EventBus, far: EventBus, path: Path) -> AsyncGenerator[Chain]:
    """Give a chain between two buses, or two connections to one."""
    async with anyio.create_task_group() as tasks:
        made = Chain(near, await near.create_space("near"), await near.add_memory("ram", 64 * PAGE))
        server = VfioUserServer(far, listen=str(path), space="far", tell=made.told.append, max_maps=100)
        client = VfioUserClient(near, connect=str(path), space="near", tell=made.told.append)
        await tasks.start(server.run)
        await tasks.start(client.run)
        await tasks.start(made.device, far)
        yield made
        tasks.cancel_scope.cancel()


async def check_the_device_sees_what_is_mapped(made: Chain) -> None:
    for page in range(20):
        made.map(page, page, Perm.R if page % 2 else Perm.RW)
    await made.sync()
    await until(lambda: len(made.mirror) == 20)
    made.bus.memory_view(made.memory)[7 * PAGE : 7 * PAGE + 4] = b"down"
    with made.mirror.view(7 * PAGE, 4, Perm.R) as view:
        assert bytes(view) == b"down"
    with made.mirror.view(8 * PAGE, 4, Perm.W) as view:
        view[:] = b"back"
    assert bytes(made.bus.memory_view(made.memory)[8 * PAGE : 8 * PAGE + 4]) == b"back"
    made.space.unmap(4 * PAGE, 8 * PAGE)
    await made.sync()
    assert made.reached == {0, 1, 2, 3, *range(12, 20)}
    made.space.unmap_all()
    await made.sync()
    assert made.reached == set()


async def check_a_sync_waits_for_the_far_end(made: Chain) -> None:
    made.map(1)
    made.map(2)
    await made.sync()
    await until(lambda: made.reached == {1, 2})
    made.may = anyio.Event()
    made.space.unmap(PAGE, PAGE)
    made.synced = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.sync)
        await anyio.sleep(0.05)  # whatever happens meanwhile, it is not through
        assert not made.synced
        assert made.reached == {1, 2}
        made.may.set()
    assert made.synced
    assert made.reached == {2}


@every_loop
async def test_the_device_at_the_far_end_sees_what_is_mapped_at_the_near_one(tmp_path: Path) -> None:
    """And reaches the same bytes; after a sync it reaches nothing that was unmapped before."""
    async with Bus() as near, Bus() as far, chain(near, far, tmp_path / "v.sock") as made:
        await check_the_device_sees_what_is_mapped(made)


@every_loop
async def test_a_sync_waits_for_the_device_at_the_far_end(tmp_path: Path) -> None:
    async with Bus() as near, Bus() as far, chain(near, far, tmp_path / "v.sock") as made:
        await check_a_sync_waits_for_the_far_end(made)


@every_loop
async def test_what_the_far_space_cannot_hold_is_raised_at_the_near_one(tmp_path: Path) -> None:
    """The limit is agreed upon, so it is the bus that keeps to it; what the server refuses is raised, too."""
    async with Bus() as near, Bus() as far, chain(near, far, tmp_path / "v.sock") as made:
        await made.sync()
        for page in range(101):
            made.map(page)
        with pytest.raises(SyncFailed) as failed:
            await made.sync()
        (failure,) = failed.value.failures
        assert isinstance(failure, MapFailure)
        assert isinstance(failure.cause, TooManyMappings)
        assert (failure.first, failure.last) == (100 * PAGE, 101 * PAGE - 1)
        await until(lambda: len(made.mirror) == 100)


@every_loop
async def test_a_storm_comes_out_the_same(tmp_path: Path) -> None:
    """Also where hand-overs are conflated, in each of the two spaces."""
    async with Bus() as near, Bus() as far, chain(near, far, tmp_path / "v.sock") as made:
        await made.sync()
        held: dict[int, int] = {}
        for turn in range(200):
            for page in range(50):
                made.space.unmap(page * PAGE, PAGE)
                held.pop(page, None)
                if (turn * 7 + page) % 3:
                    made.map(page, turn % 64)
                    held[page] = turn % 64
        await made.sync()
        await until(lambda: {one.first // PAGE: one.target // PAGE for one in made.mirror} == held)


@pytest.mark.asyncio
async def test_through_a_daemon_it_is_the_same(tmp_path: Path) -> None:
    """The producer, both bridges and the device are clients of one daemon."""
    with daemon(tmp_path) as running:
        async with (
            connect(running.address) as near,
            connect(running.address) as far,
            chain(near, far, tmp_path / "v.sock") as made,
        ):
            await check_the_device_sees_what_is_mapped(made)
            await check_a_sync_waits_for_the_far_end(made)
