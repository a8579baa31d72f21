"""Cases for a bus: what subscribers are told, and when (laws 3, 4, 5 and 6)."""

from random import Random
from typing import Final

from ...caps import Cap, Perm
from ...errors import AccessDenied, NotMapped, Overlap, Straddle
from ...events import DevIotlbUnmap, Event, Lost, Map, Unmap
from ...mapping import Mapping
from ...ranges import IovaRange
from .demands import breathe, demand, demand_raised
from .scene import PAGE, Scene, Stage

LATE: Final = 20
"""Events for an observer that is too slow for them."""

STORM: Final = 200
"""Changes while a subscriber stands still: many times what its mailbox holds."""


async def a_mask_selects_the_kinds(stage: Stage) -> None:
    """Law 4: a subscriber is told of the kinds in its mask, all of them and no others."""
    scene = await stage.scene(offers=Cap.ALL)
    followers = {caps: await scene.join(caps) for caps in (Cap.UNMAP, Cap.IOTLB, Cap.DEVIOTLB_UNMAP, Cap.ALL)}
    scene.map(0)
    scene.unmap(0)
    scene.space.invalidate_device(0, PAGE)
    await scene.settle()
    kinds: dict[Cap, type[Event]] = {Cap.MAP: Map, Cap.UNMAP: Unmap, Cap.DEVIOTLB_UNMAP: DevIotlbUnmap}
    for caps, follower in followers.items():
        wanted = [kind for cap, kind in kinds.items() if cap & caps]
        demand(f"the mask {caps!r} selects the kinds", [type(event) for event in follower.seen], wanted)


async def ranges_crop_what_is_told(stage: Stage) -> None:
    """Law 4: events, replays and removals are cropped to the ranges, and targets move along."""
    scene = await stage.scene()
    ranges = ((2 * PAGE, 4 * PAGE - 1), (6 * PAGE, 7 * PAGE - 1))
    early = await scene.join(ranges=ranges)
    scene.map(0, 10)
    scene.map(20)
    await scene.settle()
    late = await scene.join(ranges=ranges)
    await scene.settle()
    scene.unmap(0, 30)
    await scene.settle()
    for follower in (early, late):
        demand("each piece is told", len(follower.told(Map, 0, 10 * PAGE)), 2)


async def first_and_last_are_one_range(stage: Stage) -> None:
    """Law 4: `first` and `last` name one range, both ends inclusive."""
    scene = await stage.scene()
    subscription = stage.bus.subscribe("space", Cap.IOTLB, first=PAGE, last=2 * PAGE - 1)
    async with subscription as events:
        mapping = scene.map(0, 3)
        event = await anext(aiter(events))
    wanted = mapping.clip(PAGE, 2 * PAGE - 1)
    found = Mapping(event.first, event.last, event.target if isinstance(event, Map) else 0, Perm.RW)
    demand("an event is cropped to first..last", found, wanted)


async def a_newcomer_gets_what_is_there_and_what_comes_once(stage: Stage) -> None:
    """Law 4: replay and follow, without gap or duplicate."""
    scene = await stage.scene()
    for page in range(12):
        scene.map(page)
    newcomer = await scene.enter(dawdle=1)
    for page in range(12, 24):
        scene.unmap(page - 10)
        scene.map(page)
        await breathe()
    await newcomer.events.wait_current()
    await scene.sync()
    scene.check(newcomer)
    for page in (0, 1, 22, 23):
        maps = newcomer.told(Map, page * PAGE, page * PAGE)
        demand(f"page {page:#x} is told once", len(maps), 1)


async def nobody_notices_a_newcomer(stage: Stage) -> None:
    """Law 4: a replay is for the newcomer alone."""
    scene = await stage.scene()
    first = await scene.join()
    scene.map(0, 4)
    scene.map(8)
    await scene.settle()
    before = list(first.seen)
    await scene.join()
    await scene.settle()
    demand("others are told nothing", first.seen, before)


async def wait_current_ends_when_the_replay_is_in_use(stage: Stage) -> None:
    """Law 4: `wait_current` returns once the first replay was applied and acknowledged."""
    scene = await stage.scene()
    for page in range(10):
        scene.map(page)
    newcomer = await scene.enter(dawdle=5)
    await newcomer.events.wait_current()
    scene.check(newcomer)


async def break_loses_nothing(stage: Stage) -> None:
    """Law 3: who stops iterating and goes on later misses nothing."""
    scene = await stage.scene()
    seen: list[int] = []
    async with stage.bus.subscribe("space", Cap.IOTLB) as events:
        firsts = [scene.map(page).first for page in range(4)]
        while len(seen) < len(firsts):  # a new iteration for each
            async for event in events:
                seen.append(event.first)
                break
    demand("each event comes once, in order", seen, firsts)


async def what_overflows_is_conflated_and_ends_equal(stage: Stage) -> None:
    """Law 3: a full mailbox loses nothing in the end, and disturbs nothing that did not change."""
    for seed in range(4):
        scene = await stage.scene(f"space{seed}")
        follower = await scene.join(capacity=1 + seed)
        scene.map(40, 4)
        scene.map(44)
        await scene.settle()
        follower.gate.shut()
        dice = Random(seed)
        for _ in range(STORM):
            random_page(scene, dice)
        follower.gate.open()
        await scene.settle()
        demand("what did not change is not removed", follower.told(Unmap, 40 * PAGE, 45 * PAGE - 1), [])
        demand("what did not change is not told again", len(follower.told(Map, 40 * PAGE, 45 * PAGE - 1)), 2)


def random_page(scene: Scene, dice: Random) -> None:
    """Map a page, or unmap it if it is mapped."""
    page = dice.randrange(32)
    if scene.pages.lookup(page * PAGE) is None:
        scene.map(page)
    else:
        scene.unmap(page)


async def a_change_in_place_is_unmap_then_map(stage: Stage) -> None:
    """Law 6: `remap` is an UNMAP and then a MAP, adjacent in number; the same again is nothing."""
    scene = await stage.scene()
    follower = await scene.join()
    old = scene.map(0, 2)
    await scene.settle()
    scene.remap(0, 2, Perm.R)
    await scene.settle()
    demand("a change in place is UNMAP, then MAP", [type(event) for event in follower.seen], [Map, Unmap, Map])
    numbers = [event.seq for event in follower.seen]
    demand("numbers count up from 1", numbers, [1, 2, 3])
    there = scene.pages.mappings()[0]
    scene.space.remap(there.first, there.size, there.target, there.perm)
    scene.space.map(there.first, there.size, there.target, there.perm)
    await scene.settle()
    demand("the same mapping again is not published", len(follower.seen), 3)
    with demand_raised(Overlap, held_first=there.first, held_last=there.last):
        scene.space.map(PAGE, PAGE, old.target, Perm.RW)


async def an_unmap_that_cuts_is_refused(stage: Stage) -> None:
    """Law 6: an UNMAP that cuts a mapping is refused without a trace."""
    scene = await stage.scene()
    follower = await scene.join()
    held = scene.map(4, 4)
    scene.map(0)
    await scene.settle()
    for first, pages in ((0, 5), (5, 2), (7, 9), (4, 3)):
        with demand_raised(Straddle, held_first=held.first, held_last=held.last):
            scene.space.unmap(first * PAGE, pages * PAGE)
    await scene.settle()
    demand("what is refused is not told", len(follower.seen), 2)


async def an_unmap_that_cuts_is_split(stage: Stage) -> None:
    """Law 6: in a space that splits, whole mappings go, and what survives is mapped anew."""
    scene = await stage.scene(straddle="split")
    await scene.join()
    await scene.join(Cap.IOTLB, ranges=((5 * PAGE, 7 * PAGE - 1),))
    scene.map(0, 8)
    scene.map(10, 4)
    await scene.settle()
    for first, pages in ((3, 1), (6, 6), (0, 1), (13, 1)):
        scene.unmap(first, pages)
        await scene.settle()


async def an_unmap_of_nothing_is_nothing(stage: Stage) -> None:
    """Law 6: what removes nothing publishes nothing, and gaps are no matter."""
    scene = await stage.scene()
    follower = await scene.join()
    scene.unmap(0, 64)
    scene.unmap_all()
    for page in (1, 5, 9):
        scene.map(page)
    scene.unmap(0, 8)
    await scene.settle()
    kinds = [type(event) for event in follower.seen]
    demand("one UNMAP for what was there, none for what was not", kinds, [Map, Map, Map, Unmap])
    scene.unmap_all()
    await scene.settle()


async def apply_is_all_or_nothing(stage: Stage) -> None:
    """Law 6: of changes that cannot all be made none is, and nobody is told."""
    scene = await stage.scene()
    follower = await scene.join()
    there = scene.map(0, 2)
    scene.map(4)
    await scene.settle()
    before = len(follower.seen)
    new = Mapping(8 * PAGE, 9 * PAGE - 1, scene.next_target(), Perm.RW)
    over = Mapping(0, PAGE - 1, scene.next_target(), Perm.RW)
    for bad in (over, IovaRange(PAGE, 2 * PAGE - 1)):
        scene.apply([new, IovaRange(4 * PAGE, 5 * PAGE - 1), bad])
        await scene.settle()
        demand("nobody is told of what was undone", len(follower.seen), before)
    scene.apply([IovaRange(there.first, there.last), over, new])
    await scene.settle()


async def a_translation_is_valid_until_its_unmap_is_handed_over(stage: Stage) -> None:
    """Law 5: `translate` answers from the table, and an answer ends with the UNMAP over it."""
    scene = await stage.scene()
    mapping = scene.map(4, 2, Perm.R)
    scene.map(8)
    async with stage.bus.subscribe("space", Cap.UNMAP, last=8 * PAGE - 1) as events:
        answer = await events.translate(5 * PAGE)
        demand("an answer is the mapping", answer.mapping, mapping)
        demand("an answer is valid at first", answer.valid, wanted=True)
        for iova in (0, 6 * PAGE, 8 * PAGE):  # the last is mapped, and was not subscribed
            with demand_raised(NotMapped, iova=iova):
                await events.translate(iova)
        with demand_raised(AccessDenied, iova=4 * PAGE):
            await events.translate(4 * PAGE, Perm.W)
        scene.unmap(4, 2)
        event = await anext(aiter(events))
        demand("an answer ends when its UNMAP is handed over", (type(event), answer.valid), (Unmap, False))


async def the_table_changes_before_anyone_is_told(stage: Stage) -> None:
    """Law 5: who was told of an UNMAP cannot get the old translation again."""
    scene = await stage.scene()
    async with stage.bus.subscribe("space", Cap.UNMAP) as events:
        scene.map(0)
        scene.unmap(0)
        event = await anext(aiter(events))
        with demand_raised(NotMapped, iova=event.first):
            await events.translate(event.first)


async def observers_see_every_number(stage: Stage) -> None:
    """Law 3: an observer sees each event of the spaces that match, those to come too, in order."""
    early = await stage.scene("vtd0/a")
    other = await stage.scene("smmu0/a")
    async with stage.bus.observe("vtd0/*") as observer:
        late = await stage.scene("vtd0/b")
        for scene in (early, other, late):
            scene.map(0)
            scene.remap(0)
        stream = aiter(observer)
        found = [await anext(stream) for _ in range(6)]
    for name in ("vtd0/a", "vtd0/b"):
        numbers = [event.seq for event in found if event.space == name]
        demand(f"every number of {name} is seen", numbers, [1, 2, 3])


async def an_observer_is_told_how_many_it_lost(stage: Stage) -> None:
    """Law 3: what an observer was too slow for is counted to it."""
    scene = await stage.scene()
    async with stage.bus.observe("space", capacity=2) as observer:
        for page in range(LATE):
            scene.map(page)
        seen = number = 0
        async for event in observer:
            seen += event.count if isinstance(event, Lost) else 1
            number = event.seq
            demand("seen and lost make all there were", seen, number)
            if number == LATE:
                break


CASES: Final = (
    a_mask_selects_the_kinds,
    ranges_crop_what_is_told,
    first_and_last_are_one_range,
    a_newcomer_gets_what_is_there_and_what_comes_once,
    nobody_notices_a_newcomer,
    wait_current_ends_when_the_replay_is_in_use,
    break_loses_nothing,
    what_overflows_is_conflated_and_ends_equal,
    a_change_in_place_is_unmap_then_map,
    an_unmap_that_cuts_is_refused,
    an_unmap_that_cuts_is_split,
    an_unmap_of_nothing_is_nothing,
    apply_is_all_or_nothing,
    a_translation_is_valid_until_its_unmap_is_handed_over,
    the_table_changes_before_anyone_is_told,
    observers_see_every_number,
    an_observer_is_told_how_many_it_lost,
)
