"""``iommubus fence``: a subscriber is stopped, and whether that is proven is told."""

from pathlib import Path

import pytest

from iommubus.bus.abc import Subscription
from iommubus.caps import Cap, Perm
from iommubus.errors import Fenced
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Hello
from iommubus.wire.messages.syncing import Fence, FenceJudged
from tests.cli.commands import iommubus, read_json
from tests.daemons import WELCOME, bus_at, scripted


async def follow_to_the_end(events: Subscription) -> None:
    async for _ in events:
        pass


def test_a_subscriber_that_follows_its_lease_is_stopped_and_proven_so(address: str) -> None:
    with bus_at(address) as (portal, bus):
        space = portal.call(bus.create_space, "fence/a")
        portal.call(space.map, 0x1000, 0x1000, 0x8000, Perm.RW)
        shadow = portal.call(lambda: bus.subscribe("fence/a", Cap.IOTLB, name="shadow"))
        with portal.wrap_async_context_manager(shadow) as events:
            follower = portal.start_task_soon(follow_to_the_end, events)

            done = iommubus("fence", "fence/a", "shadow", "-a", address)

            with pytest.raises(Fenced):
                follower.result(10)

    assert (done.exit_code, done.stdout, done.stderr) == (0, "shadow is fenced, and proven stopped\n", "")


def test_who_is_not_there_is_named(address: str) -> None:
    with bus_at(address) as (portal, bus):
        portal.call(bus.create_space, "fence/b")

        nobody = iommubus("fence", "fence/b", "nobody", "-a", address)
        nowhere = iommubus("fence", "fence/c", "nobody", "-a", address)

    assert (nobody.exit_code, nobody.stderr) == (
        1, "iommubus fence: 'fence/b' has no subscriber 'nobody' that lives or may still use something\n"
    )  # fmt: skip
    assert nowhere.exit_code == 1
    assert nowhere.stderr.startswith("iommubus fence: no space is named 'fence/c'")


def unproven(message: ClientMessage) -> list[DaemonMessage]:
    """Judge that nothing is proven."""
    match message:
        case Hello():
            return [WELCOME]
        case Fence(request=request, space="vtd0", subscriber="gpu"):
            return [FenceJudged(request, proven=False)]
        case _:
            return []


def test_what_is_not_proven_is_a_failure_that_says_what_follows(tmp_path: Path) -> None:
    with scripted(tmp_path, unproven) as address:
        done = iommubus("fence", "vtd0", "gpu", "-a", address)

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "iommubus fence: 'gpu' is fenced, and it is not proven that it has stopped: "
        "until it is, every sync of 'vtd0' fails\n"
    )


def test_programs_are_told_the_same(tmp_path: Path) -> None:
    with scripted(tmp_path, unproven) as address:
        done = iommubus("fence", "vtd0", "gpu", "-a", address, "--json")

    assert (done.exit_code, done.stderr) == (1, "")
    assert '"proven": false' in done.stdout


def test_a_judgement_as_json(tmp_path: Path) -> None:
    def proven(message: ClientMessage) -> list[DaemonMessage]:
        match message:
            case Hello():
                return [WELCOME]
            case Fence(request=request):
                return [FenceJudged(request, proven=True)]
            case _:
                return []

    with scripted(tmp_path, proven) as address:
        told = read_json("fence", "vtd0", "gpu", "-a", address, "--json")

    assert told == {"space": "vtd0", "subscriber": "gpu", "proven": True}
