"""Cases for a consumer: what a back end has to get right.

The consumer runs in a task of its own, on a bus that gives it mailboxes as
small as they can be.  A script changes the space, syncs, and compares at once
what the consumer may use with what is mapped.

A subscriber of DEVIOTLB_UNMAP alone is told of each removal by an invalidation
of device TLBs that follows it, as an IOMMU with ATS does.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

from ...caps import Cap, Perm
from ...ranges import LAST
from .demands import demand
from .scene import PAGE, Scene, Stage
from .script import Script
from .trial import Consumer, Trial

SEEDS: Final = range(6)
"""Random scripts in a case."""

ROUNDS: Final = 10
"""Looks at the consumer in a random script."""

PAGES: Final = 24
"""Pages in a random script: few, so that changes meet."""

STORM: Final = 100
"""Changes without a pause: many times what the mailbox holds."""


class Court:
    """Where consumers of one kind are tried.

    Args:
        stage: A bus, and a place for tasks.
        consumer: What is on trial.
        caps: Its mask.
    """

    def __init__(self, stage: Stage, consumer: Consumer, caps: Cap) -> None:
        self.stage = stage
        self.caps = caps
        self._consumer = consumer

    async def scene(self, **options: Any) -> Scene:
        """Make the space of the trial."""
        offers = Cap.IOTLB | self.caps
        return await self.stage.scene(offers=offers, ats=not self.caps & Cap.UNMAP, **options)

    async def trial(self, scene: Scene, capacity: int | None = 1) -> Trial:
        """Start a consumer."""
        trial = Trial(scene, self._consumer, self.caps, capacity)
        await trial.start()
        return trial

    async def begin(self, capacity: int | None = 1, **options: Any) -> tuple[Scene, Trial]:
        """Make a space and start a consumer."""
        scene = await self.scene(**options)
        return scene, await self.trial(scene, capacity)


ConsumerCase = Callable[[Court], Awaitable[None]]


async def it_follows_map_and_unmap(court: Court) -> None:
    """Law 1: after a sync nothing is in use that was unmapped; a shadower has all that was mapped."""
    scene, trial = await court.begin()
    for page in (0, 2, 11, 13):
        scene.map(page, 2)
        await trial.fill()
        await trial.settle()
    for page in (11, 0, 13, 2):
        scene.unmap(page, 2)
        await trial.settle()
        scene.map(page, 2, Perm.R)
        await trial.fill()
        await trial.settle()


async def it_holds_what_it_can_get(court: Court) -> None:
    """Contract: it uses what is mapped; one that never holds anything shows nothing."""
    scene, trial = await court.begin()
    scene.map(0, 4)
    scene.map(8)
    await trial.settle()
    await trial.wait_holding()
    await trial.settle()


async def it_is_given_what_is_there(court: Court) -> None:
    """Law 4: it joins a space with mappings in it, and holds them when it is current."""
    scene = await court.scene()
    for page in range(0, 40, 2):
        scene.map(page)
    scene.map(50, 8)
    trial = await court.trial(scene)
    await trial.fill()
    await trial.settle()
    scene.unmap(0, 20)
    await trial.settle()


async def it_follows_a_change_in_place(court: Court) -> None:
    """Law 6: a mapping that is replaced is gone, and the new one is there."""
    scene, trial = await court.begin(capacity=None)
    scene.map(0, 4)
    scene.map(8)
    await trial.fill()
    await trial.settle()
    for perm in (Perm.R, Perm.RW, Perm.W):
        scene.remap(0, 4, perm)
        await trial.settle()
        await trial.fill()
        await trial.settle()
    scene.remap(0, 8)
    await trial.settle()


async def it_follows_changes_that_come_at_once(court: Court) -> None:
    """Law 6: of what comes in one hand-over, each event is applied in its order."""
    scene, trial = await court.begin(capacity=None)
    scene.map(0, 4)
    await trial.fill()
    await trial.settle()
    for _ in range(5):
        scene.unmap(0, 4)
        scene.map(0, 2)
        scene.map(2, 2)
        scene.unmap(0, 2)
        scene.remap(2, 2)
        scene.map(0, 1)
        scene.unmap(0, 4)
        scene.map(0, 4)
        await trial.settle()
        await trial.fill()
        await trial.settle()


async def it_follows_unmap_all(court: Court) -> None:
    """Law 1: when everything is unmapped, nothing is held, and it goes on."""
    scene, trial = await court.begin()
    for _ in range(2):
        scene.map(0, 4)
        scene.map(40)
        await trial.fill()
        await trial.settle()
        scene.unmap_all()
        await trial.settle()


async def it_takes_an_unmap_that_is_larger_than_what_it_holds(court: Court) -> None:
    """Law 3: an UNMAP may be larger than needed, as a merged one is, up to the whole space."""
    scene, trial = await court.begin()
    for page in (3, 5, 40):
        scene.map(page, 2)
    await trial.fill()
    await trial.settle()
    scene.unmap(2, 20)
    await trial.settle()
    scene.map(3)
    await trial.fill()
    await trial.settle()
    scene.unmap_whole()
    await trial.settle()


async def it_follows_a_split(court: Court) -> None:
    """Law 6: where an UNMAP cuts a mapping, what survives is kept and the rest is gone."""
    scene, trial = await court.begin(straddle="split")
    scene.map(0, 16)
    scene.map(20, 8)
    await trial.fill()
    await trial.settle()
    for first, pages in ((4, 2), (0, 1), (10, 14), (27, 1)):
        scene.unmap(first, pages)
        await trial.settle()
        await trial.fill()
        await trial.settle()


async def it_keeps_what_did_not_change(court: Court) -> None:
    """Law 3: a storm of changes beside a mapping ends with all of it right."""
    scene, trial = await court.begin()
    scene.map(40, 4)
    await trial.fill()
    await trial.settle()
    dice = Random(0)
    for _ in range(STORM):
        page = dice.randrange(30)
        if scene.pages.lookup(page * PAGE) is None:
            scene.map(page)
        else:
            scene.unmap(page)
    await trial.settle()
    await trial.fill()
    await trial.settle()


async def it_knows_the_last_byte(court: Court) -> None:
    """Law 9: a space may be all of 2^64 bytes, and so may one range."""
    scene = await court.scene(pages=(LAST + 1) // PAGE)
    scene.map(0)
    scene.map(LAST // PAGE)
    trial = await court.trial(scene)
    for _ in range(2):
        await trial.touch(0, LAST - 0xFFF)
        await trial.settle()
        scene.unmap_whole()
        await trial.settle()
        scene.map(1)
        scene.map(LAST // PAGE - 1, 2)
        await trial.touch(PAGE, LAST - 0xFFF)
        await trial.settle()


async def it_ends_with_its_space(court: Court) -> None:
    """Law 3: when the space is closed, nothing is held."""
    scene, trial = await court.begin()
    scene.map(0, 4)
    scene.map(8)
    await trial.fill()
    await trial.settle()
    scene.pages.unmap_all()
    await scene.space.close()
    await scene.sync()
    trial.check()


async def it_can_be_cancelled(court: Court) -> None:
    """Law 8: one that was cancelled holds up no sync, and another one starts where it began."""
    scene, trial = await court.begin()
    scene.map(0, 4)
    scene.map(8)
    await trial.fill()
    await trial.settle()
    await trial.cancel()
    scene.unmap(0, 4)
    await scene.sync()
    again = await court.trial(scene)
    scene.map(20)
    await again.fill()
    await again.settle()
    report = await scene.sync()
    names = sorted(outcome.subscriber for outcome in report.outcomes)
    demand("a sync counts who is there, and nobody else", names, again.subscribers)


async def play(court: Court, seed: int, straddle: str, capacity: int | None) -> None:
    """Play one script, and clear up."""
    scene, trial = await court.begin(capacity, pages=PAGES, straddle=straddle)
    script = Script(scene, Random(seed))
    for _ in range(ROUNDS):
        await script.play_steps()
        await trial.settle()
    await trial.cancel()
    await scene.space.close()


async def it_follows_random_scripts(court: Court) -> None:
    """All laws together: after each sync of a random script it holds what it may."""
    for seed in SEEDS:
        await play(court, seed, "refuse", capacity=None)


async def it_follows_random_scripts_in_a_small_mailbox(court: Court) -> None:
    """All laws together: the same where its mailbox overflows all the time."""
    for seed in SEEDS:
        await play(court, seed, "refuse", capacity=1 + seed % 3)


async def it_follows_random_scripts_that_split(court: Court) -> None:
    """All laws together: the same where an UNMAP that cuts a mapping splits it."""
    for seed in SEEDS:
        await play(court, seed, "split", capacity=1 + seed)


CASES: Final[tuple[ConsumerCase, ...]] = (
    it_follows_map_and_unmap,
    it_holds_what_it_can_get,
    it_is_given_what_is_there,
    it_follows_a_change_in_place,
    it_follows_changes_that_come_at_once,
    it_follows_unmap_all,
    it_takes_an_unmap_that_is_larger_than_what_it_holds,
    it_follows_a_split,
    it_keeps_what_did_not_change,
    it_knows_the_last_byte,
    it_ends_with_its_space,
    it_can_be_cancelled,
    it_follows_random_scripts,
    it_follows_random_scripts_in_a_small_mailbox,
    it_follows_random_scripts_that_split,
)
