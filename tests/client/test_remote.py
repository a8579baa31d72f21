"""The bus of a daemon as a whole: entering, leaving, and what it refuses."""

# pyright: reportPrivateUsage=false

import asyncio
import threading
from pathlib import Path

import anyio
import pytest

import iommubus
from iommubus import Cap, Perm, SyncFailed
from iommubus.client.reconnect import Keeper, connector_to
from iommubus.client.remote import RemoteBus, default_name
from iommubus.errors import (
    AddressError,
    BadCapacity,
    BadName,
    BadShape,
    BusClosed,
    Disconnected,
    MemoryInUse,
    RuleMissing,
    UnknownMemory,
    UnknownName,
    WrongLoop,
    WrongThread,
)
from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Config
from iommubus.service.settings.rules import Rule, Rules
from iommubus.transport.address import UnixAddress
from iommubus.transport.credentials import Peer
from iommubus.transport.tls import Identity
from tests.client.rig import Rig, rigged
from tests.client.scripted import until

PAGE = 0x1000


def test_an_address_that_cannot_be_is_refused_at_once() -> None:
    for address in ("", "nowhere", "unix:relative", "tcp:host", "tls:host:1"):
        with pytest.raises(AddressError):
            iommubus.connect(address)
    assert "tls:host:1" in repr(iommubus.connect("tls:host:1", identity=Identity("a", "b", "c")))
    assert default_name().endswith("]")


def test_trio_is_refused() -> None:
    async def case() -> None:
        with pytest.raises(WrongLoop):
            async with iommubus.connect("unix:/nowhere"):
                pass

    anyio.run(case, backend="trio")


@pytest.mark.asyncio
async def test_outside_its_block_a_bus_is_closed(tmp_path: Path) -> None:
    bus = iommubus.connect(f"unix:{tmp_path}/none")
    with pytest.raises(BusClosed):
        await bus.create_space("vtd0")
    with pytest.raises(BusClosed):
        bus.subscribe("vtd0", Cap.IOTLB)
    with pytest.raises(Disconnected, match="No such file"):
        async with bus:
            pass
    with pytest.raises(BusClosed):
        async with bus:  # it is used up
            pass


@pytest.mark.asyncio
async def test_what_the_block_raises_is_raised_as_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    async with Daemon(Config(), own_uid=5) as daemon:
        server = await asyncio.get_running_loop().create_unix_server(lambda: daemon.session(Peer(1, 5, (5,))), path)
        async with server:
            with pytest.raises(KeyError):
                async with RemoteBus(Keeper(connector_to(UnixAddress(path)), path)):
                    raise KeyError


@rigged
async def test_every_call_is_refused_once_it_is_closed(rig: Rig) -> None:
    async with rig.serve() as daemon:
        async with rig.bus() as bus:
            space = await bus.create_space("vtd0")
            space.map(0, PAGE, 0, Perm.R)
            await bus.close()
            assert daemon.spaces.open == {}
            for call in (bus.in_thread, bus.observe, lambda: bus.subscribe("vtd0", Cap.IOTLB)):
                with pytest.raises(BusClosed):
                    call()
            with pytest.raises(BusClosed):
                await bus.sync()
            await space.sync()
            await bus.close()
        with pytest.raises(BusClosed):
            await space.sync()
        assert "closed" in repr(bus)
        await until(lambda: not daemon.clients)


@rigged
async def test_leaving_while_the_daemon_is_away_waits_for_nobody(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        space = await bus.create_space("vtd0")
        await first.aclose()
        syncing = asyncio.create_task(space.sync(1000))
        waiting = asyncio.create_task(bus.wait_space("never"))
        await asyncio.sleep(1)
        start = rig.loop.time()
    assert rig.loop.time() == start
    for task in (syncing, waiting):
        with pytest.raises(BusClosed):
            await task


@rigged
async def test_arguments_are_checked_as_an_embedded_bus_does(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus:
        with pytest.raises(BadName):
            await bus.create_space("*")
        with pytest.raises(BadShape):
            await bus.create_space("vtd0", granule=3)
        with pytest.raises(BadName):
            await bus.create_endpoint("")
        with pytest.raises(BadCapacity):
            bus.observe(capacity=0)
        with pytest.raises(BadCapacity):
            bus.subscribe("vtd0", Cap.IOTLB, capacity=0)
        with pytest.raises(UnknownName):
            await bus.sync("nowhere")
        assert daemon.spaces.open == {}


@rigged
async def test_a_sync_over_no_space_succeeds_or_says_why_not(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        assert (await bus.sync()).outcomes == ()
        await first.aclose()
        with pytest.raises(SyncFailed, match=r"the daemon on \* is not connected"):
            await bus.sync(timeout=1)


@rigged
async def test_another_thread_is_refused_and_in_thread_serves_it(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus:
        space = await bus.create_space("vtd0")
        wrong: list[Exception] = []

        def publish() -> None:
            for call in (lambda: space.map(0, PAGE, 0, Perm.R), lambda: bus.subscribe("vtd0", Cap.IOTLB)):
                try:
                    call()
                except WrongThread as error:
                    wrong.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()
        assert len(wrong) == 2
        async with bus.in_thread() as threads:
            assert threads.space("vtd0").name == "vtd0"
        assert len(daemon.clients) == 1


@rigged
async def test_a_client_that_no_rule_allows_anything_is_told_which_it_takes(rig: Rig) -> None:
    async with rig.serve() as daemon:
        rig.peer = Peer(pid=2, uid=1001, gids=(1001,))
        async with rig.bus() as bus:
            with pytest.raises(RuleMissing, match="publish"):
                await bus.create_space("vtd0")
            daemon.rules = Rules((Rule(uid=1001, publish=("vtd*",)),), 1000)
            space = await bus.create_space("vtd0")
            await space.sync()


@rigged
async def test_what_ends_a_connection_for_good_is_raised_by_every_call(rig: Rig) -> None:
    async with rig.serve(), rig.bus() as bus:
        space = await bus.create_space("vtd0")
        rig.sessions[0].close("thrown out", RuleMissing("you", "publish", "vtd0", "a rule"))
        await until(lambda: bus._keeper.error)
        for _ in range(2):
            with pytest.raises(RuleMissing):
                await bus.create_space("vtd1")
            with pytest.raises(RuleMissing):
                await space.sync()
            with pytest.raises(RuleMissing):
                bus.subscribe("vtd0", Cap.IOTLB)
        await asyncio.sleep(100)
        assert len(rig.sessions) == 1


@rigged
async def test_memories_are_added_again_and_removed_in_order(rig: Rig) -> None:
    async with rig.serve(producer_grace=30) as daemon, rig.bus() as bus:
        space = await bus.create_space("vtd0")
        ram, rom = await bus.add_memory("ram", PAGE), await bus.add_memory("rom", PAGE)
        space.map(0, PAGE, 0, Perm.R, memory=ram)
        space.map(PAGE, PAGE, 0, Perm.R, memory=rom)
        await space.sync()
        with pytest.raises(MemoryInUse):
            bus.remove_memory(rom)
        space.unmap(PAGE, PAGE)
        bus.remove_memory(rom)
        with pytest.raises(UnknownMemory):
            bus.memory_view(rom)
        again = await bus.add_memory("rom", PAGE)
        assert again.generation == rom.generation + 1
        rig.cut()
        space.map(PAGE, PAGE, 0, Perm.R, memory=again)
        await space.sync(30)
        found = daemon.spaces.open["vtd0"].space.walk(0, 2 * PAGE, 9)
        assert [mapping.memory for mapping in found] == [ram, again]
        bus.memory_view(ram)[0] = 5


@rigged
async def test_memories_come_back_by_their_generations_to_a_new_daemon(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        for _ in range(2):
            bus.remove_memory(await bus.add_memory("ram", PAGE))
        ram = await bus.add_memory("ram", PAGE)
        space = await bus.create_space("vtd0")
        space.map(0, PAGE, 0, Perm.R, memory=ram)
        await space.sync()
        await first.aclose()
        async with rig.serve() as daemon:
            await space.sync(60)
            assert [one.memory for one in daemon.spaces.open["vtd0"].space.walk(0, PAGE, 9)] == [ram]
