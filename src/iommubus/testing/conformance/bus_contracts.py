"""Cases for a bus: consumers that cannot take everything (contract, laws 6 and 7)."""

from typing import Any, Final

from ...caps import Cap
from ...errors import BadContract, GranuleRefused, MappingFailed, Misaligned, PromiseBroken, TooManyMappings
from ...events import Map
from ..oracle import joined
from .demands import demand, demand_raised
from .failures import failure_of
from .follower import Follower
from .scene import PAGE, Scene, Stage

LARGE: Final = 16 * PAGE
"""Smallest unit of a consumer that is coarser than its space."""

IMPOSSIBLE: Final[tuple[tuple[Cap, dict[str, Any]], ...]] = (
    (Cap.UNMAP, {"granule": 3 * PAGE}),
    (Cap.UNMAP, {"granule": 0}),
    (Cap.IOTLB, {"limit": 0}),
    (Cap.UNMAP, {"limit": 5}),
    (Cap.UNMAP, {"exact": True}),
)
"""Contracts that contradict themselves, or the mask."""


async def a_contract_that_cannot_be_is_refused(stage: Stage) -> None:
    """Contract: what contradicts itself, the mask, the ranges or the space is refused with its values."""
    await stage.scene()
    for caps, options in IMPOSSIBLE:
        with demand_raised(BadContract):
            await stage.enter(caps, **options)
    with demand_raised(GranuleRefused, space="space", granule=LARGE, space_granule=PAGE):
        await stage.enter(Cap.IOTLB, granule=LARGE)
    with demand_raised(Misaligned, what="iova", value=PAGE, granule=LARGE):
        await stage.enter(Cap.UNMAP, granule=LARGE, first=PAGE)


async def a_cacher_forgets_in_its_own_granule(stage: Stage) -> None:
    """Law 1: what a cacher must forget is rounded out to its smallest unit."""
    scene = await stage.scene()
    cacher = await scene.join(Cap.UNMAP, granule=LARGE)
    for page in (17, 33, 20):
        scene.map(page)
    scene.unmap(17)
    await scene.settle()
    scene.unmap(18, 20)
    await scene.settle()
    wanted = [(LARGE, 2 * LARGE - 1), (LARGE, 3 * LARGE - 1)]
    demand("each UNMAP is rounded out", [(event.first, event.last) for event in cacher.seen], wanted)


async def a_consumer_of_powers_of_two_gets_nothing_else(stage: Stage) -> None:
    """Law 6: with pow2 every event is a naturally aligned power of two, and what is held is still all there is."""
    scene = await stage.scene()
    for capacity in (64, 1):
        follower = await scene.enter(pow2=True, capacity=capacity)
        await storm(scene, follower)
        for event in follower.seen:
            odd = bool(event.size & (event.size - 1) or event.first % event.size)
            demand(f"{event} is an aligned power of two", odd, wanted=False)


async def an_exact_consumer_is_told_mapping_by_mapping(stage: Stage) -> None:
    """Law 6: with exact every UNMAP, a conflated one too, names one mapping as it was mapped."""
    scene = await stage.scene()
    for capacity in (64, 1):
        follower = await scene.enter(exact=True, capacity=capacity)
        await storm(scene, follower)
        held: set[tuple[int, int]] = set()
        for event in follower.seen:
            edges = event.first, event.last
            if isinstance(event, Map):
                held.add(edges)
                continue
            demand(f"{event} names one mapping as it was mapped", edges in held, wanted=True)
            held.remove(edges)


def fill(scene: Scene) -> None:
    """Map ranges of many sizes, few of them powers of two."""
    for page, pages in ((1, 6), (9, 1), (10, 3), (20, 11), (40, 24)):
        scene.map(page, pages)


def change_in_place(scene: Scene) -> None:
    """Put one mapping in the place of two."""
    scene.remap(9, 4)


def thin_out(scene: Scene) -> None:
    """Unmap ranges that reach out of what is mapped there, and one of several mappings."""
    for page, pages in ((0, 9), (19, 45)):
        scene.unmap(page, pages)


async def storm(scene: Scene, follower: Follower) -> None:
    """Change ranges of many sizes, first one by one and then in heaps; a follower has to be right after each."""
    await follower.events.wait_current()
    for heaped in (False, True):
        for change in (fill, change_in_place, thin_out, Scene.unmap_all):
            if heaped:
                follower.gate.shut()
            change(scene)
            follower.gate.open()
            await scene.sync()
            demand("what is held is what is mapped", joined(follower.holds()), joined(scene.pages.mappings()))


async def a_full_consumer_fails_alone(stage: Stage) -> None:
    """Law 7: a MAP past the limit is raised by the next sync, once; others have it, and there is room again later."""
    scene = await stage.scene()
    other = await scene.join()
    full = await scene.enter(limit=2, name="full")
    await full.events.wait_current()
    kept = [scene.map(page) for page in (0, 2)]
    refused = scene.map(4)
    failure = await failure_of(scene.space.sync, within=stage.patience / 2)
    found = [(entry.subscriber, entry.first, entry.last) for entry in failure.failures]
    demand("one mapping too many is raised", found, [("full", refused.first, refused.last)])
    demand("the cause is given", type(failure.failures[0].cause), TooManyMappings)
    demand("nobody is missing", failure.missing, [])
    demand("the first are held", full.holds(), kept)
    await scene.sync()
    scene.check(other)
    scene.unmap(0)
    await scene.sync()
    kept[0] = scene.map(6)
    await scene.sync()
    demand("where one went there is room for another", full.holds(), sorted(kept))
    scene.unmap(4)
    await scene.sync()
    demand("what was refused takes nothing along when it goes", full.holds(), sorted(kept))


async def a_newcomer_that_is_full_hears_of_it_itself(stage: Stage) -> None:
    """Law 7: what is past the limit in a first replay is raised by `wait_current`, and by no sync."""
    scene = await stage.scene()
    for page in range(3):
        scene.map(2 * page)
    full = await scene.enter(limit=2)
    try:
        await full.events.wait_current()
    except MappingFailed as failed:
        demand("what there was no room for is named", len(failed.failures), 1)
    else:
        raise PromiseBroken("wait_current raises what there was no room for", "MappingFailed", "no error")
    await scene.sync()
    demand("what there was room for is held", len(full.holds()), 2)


CASES: Final = (
    a_contract_that_cannot_be_is_refused,
    a_cacher_forgets_in_its_own_granule,
    a_consumer_of_powers_of_two_gets_nothing_else,
    an_exact_consumer_is_told_mapping_by_mapping,
    a_full_consumer_fails_alone,
    a_newcomer_that_is_full_hears_of_it_itself,
)
