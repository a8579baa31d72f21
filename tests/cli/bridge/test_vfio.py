"""``iommubus bridge vfio``: a space in a container, from the command line."""

from functools import partial
from pathlib import Path

import anyio
import pytest

from iommubus.bridges.vfio import Container
from iommubus.bus.abc import EventBus
from iommubus.caps import Perm
from tests.cli.commands import iommubus
from tests.daemons import PATIENCE, bus_at
from tests.kernels import VfioKernel

PAGE = 0x1000


@pytest.mark.timeout(60)
def test_a_container_is_as_the_space_is_until_that_is_closed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With a model of the kernel in the place of this machine's.
    """
    kernel = VfioKernel(7)
    monkeypatch.setattr(Container, "open", partial(Container.open, kernel=kernel))
    with bus_at(address) as (portal, bus):
        guest = portal.start_task_soon(map_look_and_close, bus, kernel)
        done = iommubus("bridge", "vfio", "--group", "7", "--space", "vfio/a", "-a", address)
        assert guest.result(PATIENCE) == b"here"

    assert (done.exit_code, done.stderr, kernel.entries, kernel.open_fds) == (0, "", [], {})
    assert done.stdout.splitlines()[0].startswith("VFIO container of group 7: agreed on TYPE1v2, UNMAP_ALL, ")
    assert "  no IOVA 0xfee00000..0xfeefffff: the machine keeps it" in done.stdout


async def map_look_and_close(bus: EventBus, kernel: VfioKernel) -> bytes | None:
    """Map a page, and return what a device reads there; then close the space."""
    space = await bus.create_space("vfio/a")
    memory = await bus.add_memory("vfio ram", PAGE)
    bus.memory_view(memory)[:4] = b"here"
    space.map(0x1000, PAGE, 0, Perm.RW, memory=memory)
    while not kernel.entries:  # noqa: ASYNC110 - the command is elsewhere
        await anyio.sleep(0.01)
    seen = kernel.device_reads(0x1000, 4)
    await space.close()
    await space.sync()
    return seen


def test_it_has_to_be_said_which_devices() -> None:
    done = iommubus("bridge", "vfio", "--space", "vfio/b")

    assert (done.exit_code, done.stderr) == (2, "iommubus bridge vfio: it takes --group or --device\n")


def test_a_device_that_is_not_there_is_one_line(address: str) -> None:
    done = iommubus("bridge", "vfio", "--space", "vfio/c", "--device", "ffff:00:03.0", "-a", address)

    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("iommubus bridge vfio: PCI device ffff:00:03.0 has no place on this machine")


@pytest.mark.skipif(Path("/dev/vfio/vfio").exists(), reason="this machine has VFIO")
def test_without_vfio_it_says_so(address: str) -> None:
    done = iommubus("bridge", "vfio", "--space", "vfio/d", "--group", "7", "-a", address)

    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("iommubus bridge vfio: open /dev/vfio/vfio: ENOENT, No such file or directory (")


def test_an_address_that_is_none_is_wrong_usage() -> None:
    done = iommubus("bridge", "vfio", "--space", "vfio/e", "--group", "7", "-a", "nowhere")

    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
