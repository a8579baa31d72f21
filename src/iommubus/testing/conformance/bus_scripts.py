"""Cases for a bus: random scripts of one producer and several subscribers, all laws together."""

from random import Random
from typing import Final

from ...caps import Cap
from ..oracle import WHOLE
from .scene import PAGE, Stage
from .script import Script

ROUNDS: Final = 12
"""Times that everybody is checked in a script."""

AROUND: Final = ((0, 10 * PAGE - 1), (13 * PAGE, 24 * PAGE - 1))
"""Two ranges with a hole between them, as around an MSI window."""

SEEDS: Final = range(4)


async def random_scripts(stage: Stage) -> None:
    """Laws 1, 3, 4 and 6: after each sync of a random script every shadower holds what is mapped."""
    for seed in SEEDS:
        await play(stage, seed, "refuse")


async def random_scripts_that_split(stage: Stage) -> None:
    """Laws 1, 3, 4 and 6: the same where an UNMAP that cuts a mapping splits it."""
    for seed in SEEDS:
        await play(stage, seed, "split")


async def play(stage: Stage, seed: int, straddle: str) -> None:
    """Play one script."""
    scene = await stage.scene(f"{straddle}{seed}", pages=24, straddle=straddle)
    script = Script(scene, Random(seed))
    for ranges, capacity, dawdle in ((WHOLE, 4096, 0), (AROUND, 3, 2), (WHOLE, 1, 6)):
        await script.play_steps()
        await scene.join(ranges=ranges, capacity=capacity, dawdle=dawdle)
    await scene.join(Cap.UNMAP, capacity=2)
    for _ in range(ROUNDS):
        await script.play_steps()
        await scene.settle()


CASES: Final = (
    random_scripts,
    random_scripts_that_split,
)
