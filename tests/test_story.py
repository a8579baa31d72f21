"""Stories on the embedded bus: they end well there, and do not on a bus with a mistake."""

import gc
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import pytest

from iommubus import Bus, EventBus
from iommubus.testing import MakeBus
from tests.faulty import FAULTS
from tests.mistakes import MISTAKES
from tests.seeds import quiet
from tests.story import Story
from tests.virtual import VirtualLoop, run
from tests.world import Machine, Stale

SEEDS: Final = 100

ALL: Final = FAULTS | MISTAKES

FOUND: Final[dict[str, type[BaseException]]] = {
    "AnswersForEver": Stale,
    "FailsSilently": Stale,
    "LosesUnmaps": Stale,
    "NeverAttaches": AssertionError,
    "NeverDetaches": Stale,
    "NeverLeaves": AssertionError,
    "PinsNothing": Stale,
    "SyncsAtOnce": Stale,
    "UnmapsAtDetach": AssertionError,
    "ignores first and last": AssertionError,
    "stops everybody by a lease": Stale,
}
"""Mistakes, and how a story tells of them: law 1 is broken, or it does not become well again."""


class Embedded:
    """A bus that everybody shares, in one process."""

    fates: Sequence[str] = ("stop",)

    def __init__(self, machine: Machine, bus: EventBus) -> None:
        self.process = machine.process("bus")
        self._bus = bus

    def begin(self) -> None:
        """Find it there."""

    @asynccontextmanager
    async def connect(self, name: str) -> AsyncGenerator[EventBus]:
        del name
        yield self._bus

    def is_connected(self, name: str) -> bool:
        del name
        return True

    async def end(self) -> None:
        assert self._bus.spaces() == ()


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    with quiet():
        yield


def tell(seed: int, make: MakeBus = Bus, note: Callable[[str], object] | None = None) -> Machine:
    """Tell one story."""

    async def case(loop: VirtualLoop) -> Machine:
        machine = Machine(loop, Random(seed), note)  # noqa: S311 - the same each time
        async with make() as bus:
            await Story(machine, Embedded(machine, bus)).play()
        return machine

    return run(case)


def test_stories_end_well() -> None:
    judged = sum(tell(seed).judged for seed in range(SEEDS))

    assert judged > SEEDS


def test_a_story_is_the_same_each_time() -> None:
    first, second = list[str](), list[str]()
    tell(7, note=first.append)
    tell(7, note=second.append)

    assert first == second


def ends_badly(seed: int, make: MakeBus, how: type[BaseException]) -> bool:
    try:
        tell(seed, make)
    except how:
        return True
    except Exception:  # noqa: BLE001 - it may end badly in other ways, too
        return False
    return False


@pytest.mark.filterwarnings("ignore")  # what a story that broke off has left is collected
@pytest.mark.parametrize("name", FOUND)
def test_a_mistake_is_found(name: str) -> None:
    assert any(ends_badly(seed, ALL[name], FOUND[name]) for seed in range(2 * SEEDS))
    gc.collect()
