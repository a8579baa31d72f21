"""What is known of closed spaces: who still counts in them, and nothing that is not known passes for settled."""

import pytest

from iommubus import Bus, Cap
from iommubus.bus.space import LocalSpace
from iommubus.service.spaces.closed import Closed
from iommubus.transport.credentials import Peer
from tests.loops import every_loop

QEMU = Peer(pid=7, uid=7)


async def closed_space(bus: Bus, name: str, *, used: bool) -> LocalSpace:
    """Return a space that was closed, and perhaps is still used."""
    space = await bus.create_space(name)
    if used:
        subscription = bus.subscribe(name, Cap.IOTLB, name=f"user of {name}")
        await subscription.__aenter__()
        USERS.append(subscription)
        space.map(0, 0x1000, 0, 1)  # type: ignore[arg-type]
    await space.close()
    return space


USERS: list[object] = []


@pytest.fixture(autouse=True)
def _nobody_left() -> None:
    USERS.clear()


@every_loop
async def test_a_space_is_kept_while_somebody_counts_in_it() -> None:
    async with Bus() as bus:
        closed, used = Closed(), await closed_space(bus, "a", used=True)
        closed.add(1, [used], QEMU)
        closed.add(2, [await closed_space(bus, "b", used=False)], QEMU)

        assert closed.find(1) == ([used], QEMU)
        assert closed.find(2) == ((), QEMU)
        assert closed.find(3) is None
        assert len(closed) == 1
        await USERS.pop().close()  # type: ignore[attr-defined]
        assert closed.find(1) == ((), QEMU)
        assert len(closed) == 0


@every_loop
async def test_of_a_space_that_is_forgotten_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.spaces.closed.KEPT", 1)
    monkeypatch.setattr("iommubus.service.spaces.closed.REMEMBERED", 1)
    async with Bus() as bus:
        closed = Closed()
        for epoch, name in enumerate("abcd", start=1):
            closed.add(epoch, [await closed_space(bus, name, used=epoch < 3)], QEMU)
        for user in USERS:
            await user.close()  # type: ignore[attr-defined]

        assert closed.find(1) is None, "somebody used it when it was forgotten"
        assert closed.find(2) == ((), QEMU)
        assert closed.find(3) is None, "it is too long ago"
        assert len(closed) == 0
