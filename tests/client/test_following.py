"""A subscription at a daemon: whatever is lost, and whenever, the consumer ends with what is mapped."""

import itertools
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

import anyio
import pytest

from iommubus.bus.bus import Bus
from iommubus.caps import Cap
from iommubus.contract import Contract
from tests.client.model import World

Step = Callable[[World], object]
Script = tuple[str, ...]

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
    "pin": World.pin,
    "unpin": World.unpin,
    "lose": World.lose,
    "back": World.back,
    "retry": lambda world: world.place.run_timers(),
}
"""What may happen to a shadower."""

MISSES: Final[dict[str, Step]] = {
    **STEPS,
    "miss 0": lambda world: world.miss(0),
    "miss 1": lambda world: world.miss(1),
    "wake": World.wake,
}
"""What may happen to a cacher."""

WEIGHTS: Final = {"down": 4, "up": 4, "work": 4, "send": 4, "fail": 2, "miss 0": 2, "miss 1": 2, "wake": 2}
"""How often it does, where that is not once."""

KINDS: Final[dict[str, tuple[Cap, Contract]]] = {
    "shadower": (Cap.IOTLB, Contract()),
    "exact": (Cap.IOTLB, Contract(exact=True)),
    "pow2": (Cap.IOTLB, Contract(pow2=True)),
    "exact pow2": (Cap.IOTLB, Contract(pow2=True, exact=True)),
    "limited": (Cap.IOTLB, Contract(limit=3)),
    "device": (Cap.ALL, Contract()),
    "cacher": (Cap.UNMAP, Contract()),
    "cacher of large pages": (Cap.UNMAP, Contract(granule=0x1000, pow2=True)),
    "device cache": (Cap.DEVIOTLB_UNMAP, Contract()),
}

BEGINNINGS: Final[dict[str, Script]] = {
    "nothing": (),
    "registered": ("up", "down", "send", "down"),
    "holds": ("map 0", "up", "down", "send", "down", "work", "work", "map 1", "send"),
    "holds and lost": ("map 0", "up", "down", "send", "down", "work", "unmap 0", "map 0-1", "send", "lose", "back"),
    "unmap in hand": ("map 0", "map 1", "up", "down", "send", "down", "work", "work", "unmap 0", "send", "down"),
}
"""Where short histories begin."""

SHORT: Final = ("map 0", "map 0-1", "unmap all", "send", "down", "up", "work", "fail", "lose", "back")
"""What may happen in those, three times."""


async def play(script: Script, caps: Cap, contract: Contract) -> None:
    """Play one history; judge after each step, and at the end."""
    async with Bus() as bus:
        space = await bus.create_space("space", last=2**40 - 1, offers=Cap.ALL)
        world = World(bus, space, caps, contract)
        try:
            for step in script:
                MISSES[step](world)
                world.judge()
            world.settle()
        except BaseException as failure:
            failure.add_note(f"script {script}")
            raise


def play_all(scripts: Iterable[Script], kind: str) -> None:
    async def run() -> None:
        for script in scripts:
            await play(script, *KINDS[kind])

    anyio.run(run)


def random_scripts(kind: str, count: int) -> Iterable[Script]:
    """Return long histories that a kind of consumer may have."""
    chance = Random(kind)  # noqa: S311 - the same histories each time
    names = list(STEPS if KINDS[kind][0] & Cap.MAP else MISSES)
    weights = [WEIGHTS.get(name, 1) for name in names]
    return (tuple(chance.choices(names, weights, k=40)) for _ in range(count))


@pytest.mark.parametrize("kind", KINDS)
def test_long_histories_end_with_what_is_mapped(kind: str) -> None:
    """Laws 1, 4, 6, 7 and 8, in hundreds of random histories of forty steps."""
    play_all(random_scripts(kind, 300), kind)


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_short_histories_end_with_what_is_mapped(beginning: str) -> None:
    """The same in all histories of three steps, for the kind that forgives least."""
    steps = itertools.product(SHORT, repeat=3)
    play_all((BEGINNINGS[beginning] + script for script in steps), "exact")
