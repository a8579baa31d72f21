"""A subscription at a daemon: whatever is lost, and whenever, the consumer ends with what is mapped."""

import random
from collections.abc import Callable
from typing import Final

import anyio
import pytest

from iommubus.bus.bus import Bus
from iommubus.caps import Cap
from iommubus.contract import Contract
from tests.client.model import World

Step = Callable[[World], object]

STEPS: Final[dict[str, Step]] = {
    "map 0": lambda world: world.map(0, 1),
    "map 1": lambda world: world.map(1, 1),
    "map 0-1": lambda world: world.map(0, 2),
    "map 1-2": lambda world: world.map(1, 2),
    "unmap 0": lambda world: world.unmap(0, 1),
    "unmap 0-1": lambda world: world.unmap(0, 2),
    "unmap 1-2": lambda world: world.unmap(1, 2),
    "unmap all": lambda world: world.unmap(0, 3),
    "send": World.send,
    "want": lambda world: world.daemon.want(),
    "down": World.down,
    "up": World.up,
    "work": World.work,
    "fail": lambda world: world.work(fails=True),
    "lose": World.lose,
    "back": World.back,
    "retry": lambda world: world.place.run_timers(),
}

CONTRACTS: Final = {
    "plain": Contract(),
    "exact": Contract(exact=True),
    "pow2": Contract(pow2=True),
    "exact pow2": Contract(pow2=True, exact=True),
}


async def play(script: tuple[str, ...], caps: Cap, contract: Contract) -> None:
    """Play one history; judge after each step, and at the end."""
    async with Bus() as bus:
        world = World(bus, await bus.create_space("space", last=2**40 - 1), caps, contract)
        try:
            for step in script:
                STEPS[step](world)
                world.judge()
            world.settle()
        except BaseException as failure:
            failure.add_note(f"script {script}")
            raise


WEIGHTS: Final = {"down": 4, "up": 3, "work": 4, "send": 4, "fail": 2}


@pytest.mark.parametrize("contract", CONTRACTS)
def test_long_histories_end_with_what_is_mapped(contract: str) -> None:
    """Laws 1, 4, 6, 7 and 8, in a thousand random histories of forty steps."""
    chance = random.Random(contract)
    names = list(STEPS)
    weights = [WEIGHTS.get(name, 1) for name in names]

    async def run() -> None:
        for _ in range(1000):
            script = tuple(chance.choices(names, weights, k=40))
            await play(script, Cap.IOTLB, CONTRACTS[contract])

    anyio.run(run)
