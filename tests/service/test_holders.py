"""A consumer that was killed, and the process that keeps what it was given: a real daemon, and real processes."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal

from iommubus import Cap, Perm
from iommubus.bus.abc import AddressSpace
from iommubus.errors import BadHolder, ExitRefused
from tests.daemons import bus_at, daemon, environment, said_by_failure, wait_failure, wait_synced

PAGE = 0x1000

CONSUMER = """
import asyncio, sys
from iommubus import Cap, connect

async def main():
    async with connect(sys.argv[1], name="bridge") as bus:
        holder = int(sys.argv[2])
        async with bus.subscribe("vtd0", Cap.IOTLB, stops="exit", holder=holder, name="bridge") as events:
            async for event in events:
                print("told", flush=True)

asyncio.run(main())
"""


@contextmanager
def running(script: str, *words: str) -> Generator["subprocess.Popen[str]"]:
    """Give a process, which is killed in the end."""
    command = [sys.executable, "-c", script, *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True, bufsize=0
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()


def hold(portal: BlockingPortal, space: AddressSpace, consumer: "subprocess.Popen[str]") -> None:
    """Have a consumer hold a mapping, and kill it."""
    portal.call(lambda: space.map(PAGE, PAGE, 0x8000, Perm.RW))
    portal.call(space.sync)
    assert consumer.stdout is not None
    assert consumer.stdout.readline() == "told\n"
    end(consumer)


def test_a_consumer_that_is_killed_counts_until_its_holder_has_ended(tmp_path: Path) -> None:
    with (
        daemon(tmp_path) as served,
        bus_at(served.address, "producer") as (portal, bus),
        running("input()") as holder,
    ):
        space = portal.call(bus.create_space, "vtd0")
        with running(CONSUMER, served.address, str(holder.pid)) as consumer:
            hold(portal, space, consumer)
            portal.call(lambda: space.unmap(PAGE, PAGE))
            assert "bridge on vtd0 is not proven stopped" in said_by_failure(portal, space)
            wait_failure(portal, space, f"its own, {consumer.pid}, has, and this one keeps what it was given")
            assert f"process {holder.pid} has ended" in said_by_failure(portal, space)
            end(holder)
            wait_synced(portal, space)


def test_a_daemon_that_was_restarted_waits_for_the_holder_as_well(tmp_path: Path) -> None:
    with running("input()") as holder:
        with daemon(tmp_path) as served, bus_at(served.address, "producer") as (portal, bus):
            space = portal.call(bus.create_space, "vtd0")
            with running(CONSUMER, served.address, str(holder.pid)) as consumer:
                hold(portal, space, consumer)
                portal.call(lambda: space.unmap(PAGE, PAGE))
                wait_failure(portal, space, "this one keeps what it was given")
        with daemon(tmp_path) as served, bus_at(served.address, "producer") as (portal, bus):
            space = portal.call(bus.create_space, "vtd0")
            wait_failure(portal, space, f"of process {consumer.pid}, kept by process {holder.pid} is neither back nor")
            end(holder)
            wait_synced(portal, space)


def test_a_holder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with daemon(tmp_path) as served, bus_at(served.address) as (portal, bus):

        async def subscribe(holder: int) -> None:
            async with bus.subscribe("vtd0", Cap.IOTLB, stops="exit", holder=holder):
                pass

        with running("input()") as other:
            portal.call(subscribe, other.pid)
        portal.call(subscribe, other.pid)  # which has ended: nothing keeps anything
        with pytest.raises(BadHolder):
            portal.call(subscribe, 2**31)
        with running(THREAD) as other:
            assert other.stdout is not None
            thread = int(other.stdout.readline())
            with pytest.raises(ExitRefused, match="is a thread"):
                portal.call(subscribe, thread)


THREAD = """
import threading

def say():
    print(threading.get_native_id(), flush=True)
    input()

thread = threading.Thread(target=say)
thread.start()
thread.join()
"""
