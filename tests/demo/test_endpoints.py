"""Endpoints that move between two domains: right followers, and ones that keep what they had."""

import random
from collections.abc import Iterator
from typing import Final

import pytest

from iommubus.abi.qemu_trace import Trace
from iommubus.demo.casting import Crew
from iommubus.demo.player import play
from iommubus.demo.result import Moves
from iommubus.demo.script import Script, write_script
from iommubus.demo.subscribers import Follower
from iommubus.events import Event, Map, Unmap
from tests.loops import every_loop

MSI: Final = 0xFEE0_0000


def attach(domain: int, endpoint: int = 16) -> str:
    return f"virtio_iommu_attach domain={domain} endpoint={endpoint}"


def detach(domain: int, endpoint: int = 16) -> str:
    return f"virtio_iommu_detach domain={domain} endpoint={endpoint}"


def map_line(domain: int, page: int, target: int, size: int = 0x1000) -> str:
    return (
        f"virtio_iommu_map domain={domain} virt_start={page:#x} virt_end={page + size - 1:#x} "
        f"phys_start={target:#x} flags=3"
    )


def unmap_line(domain: int, page: int) -> str:
    return f"virtio_iommu_unmap_done domain={domain} virt_start={page:#x} virt_end={page + 0xFFF:#x}"


STORY: Final = [
    attach(0, endpoint=17),
    attach(0),
    map_line(0, 0x1000, 0x8000),
    map_line(0, 0x2000, 0x9000),
    map_line(1, 0x1000, 0xA000),
    map_line(1, MSI - 0x1000, 0x10_0000, size=0x10_2000),
    attach(1),
    unmap_line(0, 0x2000),
    map_line(1, 0x5000, 0xB000),
    detach(1),
    map_line(1, 0x6000, 0xC000),
    attach(0),
]
"""Endpoint 16 goes from domain 0 to domain 1, which it is the last one to leave, and comes back; 17 stays."""

MOVED: Final = STORY.index(attach(1)) + 1
DETACHED: Final = STORY.index(detach(1)) + 1


def script(lines: list[str]) -> Script:
    return write_script(Trace.read(lines, path="log"), "log")


@pytest.fixture
def sync_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a `sync` after each step, so that the judge sees every move by itself."""
    monkeypatch.setattr("iommubus.demo.player.SYNC_EVERY", 0)


@pytest.mark.usefixtures("sync_often")
@every_loop
async def test_a_follower_holds_what_is_mapped_where_its_endpoint_is() -> None:
    result = await play(script(STORY))

    assert result.reasons == []
    assert result.moves == Moves(endpoints=2, of_trace=5, left=0, returned=2)
    given = {one.subscriber: one for one in result.received}
    stayed, moved = given["virtio-iommu/endpoint-17"], given["virtio-iommu/endpoint-16"]
    assert (stayed.maps, stayed.unmaps) == (3, 2)  # two of its own, one again at the end
    assert (moved.maps, moved.role) == (2 + 3 + 1 + 1 + 1, "follows its endpoint")
    assert len(result.sync_seconds) == len(script(STORY).steps) + 3


@every_loop
async def test_moves_without_a_sync_between_them_come_out_right() -> None:
    result = await play(script(STORY))

    assert result.reasons == []
    assert result.moves == Moves(endpoints=2, of_trace=5, left=0, returned=2)
    assert len(result.sync_seconds) == 3


@every_loop
async def test_an_endpoint_that_ends_up_detached_stays_so() -> None:
    result = await play(script(STORY[:DETACHED]))

    assert result.reasons == []
    assert result.moves == Moves(endpoints=2, of_trace=4, left=0, returned=1)


@every_loop
async def test_a_trace_without_endpoints_moves_none() -> None:
    result = await play(script([map_line(0, 0x1000, 0x8000)]))

    assert result.reasons == []
    assert result.moves == Moves()
    assert len(result.sync_seconds) == 1


def wandering(seed: int) -> Iterator[str]:
    """Tell of three endpoints that go about between three domains, which change all the while."""
    choice = random.Random(seed)  # noqa: S311 - a test, not a secret
    for _ in range(1500):
        domain, page = choice.randrange(3), 0x1000 * choice.randrange(1, 40)
        match choice.randrange(10):
            case 0:
                yield attach(domain, endpoint=choice.randrange(3))
            case 1:
                yield detach(domain, endpoint=choice.randrange(3))
            case 2 | 3 | 4:
                yield unmap_line(domain, page)
            case _:
                yield map_line(domain, page, 0x1000 * choice.randrange(1, 4))


@pytest.mark.parametrize("seed", range(3))
@every_loop
async def test_endpoints_that_wander_between_changing_domains_are_followed(seed: int) -> None:
    result = await play(script(list(wandering(seed))))

    assert result.reasons == []
    assert (result.moves.endpoints, result.moves.left) == (3, 0)
    assert result.moves.of_trace > 100


# -- seeded faults -------------------------------------------------------------


class Sticky(Follower):
    """Keeps what it had when its endpoint leaves domain 0."""

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.space.endswith("0") and event.size > 0x1000):
            super().apply(event)


class Rooted(Follower):
    """Takes nothing from domain 1."""

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Map) and event.space.endswith("1")):
            super().apply(event)


class Stubborn(Follower):
    """Keeps its last page when there is nothing to be told any more."""

    async def empty(self) -> None:
        raise AssertionError

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and 0x1000 in self.pages.targets):
            super().apply(event)


class Homebound(Follower):
    """Takes nothing when its endpoint comes back to where it had been before."""

    left = False

    def apply(self, event: Event) -> None:
        self.left = self.left or isinstance(event, Unmap)
        if not (isinstance(event, Map) and self.left):
            super().apply(event)


@pytest.mark.usefixtures("sync_often")
@every_loop
async def test_a_device_that_keeps_its_old_mappings_is_found_with_the_line_of_the_move() -> None:
    apart = [line for line in STORY if line != map_line(1, 0x1000, 0xA000)]  # no page is in both domains
    line = apart.index(attach(1)) + 1

    result = await play(script(apart), crew=Crew(follower=Sticky))

    (violation,) = result.violations
    assert (violation.subscriber, violation.space) == ("virtio-iommu/endpoint-16", "virtio-iommu/domain-1")
    assert (violation.after, violation.event, violation.until) == (line - 1, line, line)
    assert (violation.page, violation.should, violation.holds) == (0x1000, "unmapped", "-> 0x8000 RW")
    assert result.reasons == [str(violation)]


@pytest.mark.usefixtures("sync_often")
@every_loop
async def test_a_device_that_does_not_get_the_new_mappings_is_found_with_the_line_of_the_move() -> None:
    result = await play(script(STORY), crew=Crew(follower=Rooted))

    (violation,) = result.violations
    assert (violation.subscriber, violation.event, violation.page) == ("virtio-iommu/endpoint-16", MOVED, 0x1000)
    assert (violation.should, violation.holds) == ("-> 0xa000 RW", "unmapped")


class Deaf(Follower):
    """Takes nothing at all."""

    def apply(self, event: Event) -> None:
        pass


SHORT: Final = [attach(0), map_line(0, 0x1000, 0x8000)]


@every_loop
async def test_where_something_is_wrong_at_the_last_line_no_endpoint_leaves() -> None:
    result = await play(script(SHORT), crew=Crew(follower=Deaf))

    (violation,) = result.violations
    assert (violation.event, violation.should, violation.holds) == (2, "-> 0x8000 RW", "unmapped")
    assert result.moves == Moves(endpoints=1, of_trace=1)
    assert len(result.sync_seconds) == 1


@every_loop
async def test_a_device_that_keeps_something_when_it_is_detached_at_the_end_is_found() -> None:
    result = await play(script(SHORT), crew=Crew(follower=Stubborn))

    (violation,) = result.violations
    assert (violation.space, violation.after, violation.event) == ("no space", 2, 2)
    assert violation.should == "unmapped (the endpoint was detached after the last line)"
    assert result.moves == Moves(endpoints=1, of_trace=1)


@every_loop
async def test_a_device_that_gets_nothing_when_it_is_attached_again_is_found() -> None:
    result = await play(script(SHORT), crew=Crew(follower=Homebound))

    (violation,) = result.violations
    assert violation.should == "-> 0x8000 RW (the endpoint was attached again after the last line)"
    assert result.moves == Moves(endpoints=1, of_trace=1, left=0)


class Clinging(Follower):
    """Forgets nothing when the bus is closed: by then it has been detached and attached again."""

    unmaps = 0

    def apply(self, event: Event) -> None:
        self.unmaps += isinstance(event, Unmap)
        if not (isinstance(event, Unmap) and self.unmaps == 2):
            super().apply(event)


@every_loop
async def test_a_device_that_keeps_something_when_the_bus_is_closed_is_found() -> None:
    result = await play(script(SHORT), crew=Crew(follower=Clinging))

    (violation,) = result.violations
    assert (violation.subscriber, violation.should) == ("virtio-iommu/endpoint-16", "gone with the space")
    assert result.moves == Moves(endpoints=1, of_trace=1, left=0, returned=1)
