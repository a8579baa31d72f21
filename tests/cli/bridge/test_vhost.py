"""``iommubus bridge vhost``: a device of the kernel on a space, from the command line."""

from functools import partial
from pathlib import Path

import anyio
import pytest

from iommubus.bridges.vhost import VhostDevice
from iommubus.bus.abc import EventBus
from tests.cli.commands import iommubus
from tests.daemons import PATIENCE, bus_at
from tests.kernels import VhostKernel


@pytest.mark.timeout(60)
def test_what_the_kernel_offers_is_said_and_what_is_unmapped_reaches_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With a model of the kernel in the place of this machine's.
    """
    kernel = VhostKernel()
    monkeypatch.setattr(VhostDevice, "open", partial(VhostDevice.open, kernel=kernel))
    with bus_at(address) as (portal, bus):
        guest = portal.start_task_soon(wait_and_close, bus)
        done = iommubus("bridge", "vhost", "--space", "vhost/a", "--json", "-a", address)
        guest.result(PATIENCE)

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        '{"peer":"/dev/vhost-net","agreed":["VIRTIO_F_VERSION_1","VIRTIO_F_ACCESS_PLATFORM",'
        '"VHOST_BACKEND_F_IOTLB_MSG_V2"],"lacks":[]}\n'
    )
    assert kernel.written  # at the end, all of it


async def wait_and_close(bus: EventBus) -> None:
    """Close a space once somebody has subscribed to it."""
    space = await bus.create_space("vhost/a")
    while not space.statistics().demand:  # noqa: ASYNC110 - the command is elsewhere
        await anyio.sleep(0.01)
    await space.close()
    await space.sync()


@pytest.mark.skipif(Path("/dev/vhost-none").exists(), reason="this machine has it")
def test_what_is_not_there_is_one_line(address: str) -> None:
    done = iommubus("bridge", "vhost", "--space", "vhost/b", "--device", "/dev/vhost-none", "-a", address)

    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("iommubus bridge vhost: open /dev/vhost-none: ENOENT, No such file or directory (")


def test_an_address_that_is_none_is_wrong_usage() -> None:
    done = iommubus("bridge", "vhost", "--space", "vhost/c", "-a", "nowhere")

    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
