"""A scene makes each change twice, and compares."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from iommubus import Bus, IovaRange, Mapping, Perm
from iommubus.errors import PromiseBroken
from iommubus.testing import PassingSpace
from iommubus.testing.conformance.scene import PAGE, Scene, Stage
from tests.loops import every_loop


class Lies(PassingSpace):
    """A space that removes and says that it has not."""

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        super().unmap(iova, size)
        return ()


class Agrees(PassingSpace):
    """A space that refuses nothing."""

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        try:
            return super().unmap(iova, size)
        except ValueError:
            return ()


class Publishes(PassingSpace):
    """A space that publishes something before it refuses."""

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        self.inner.map(60 * PAGE, PAGE, 0, Perm.RW)
        return super().unmap(iova, size)


@asynccontextmanager
async def scene_of(kind: type[PassingSpace]) -> AsyncGenerator[Scene]:
    """Give a scene whose space is of this kind, and has a mapping of two pages."""
    async with Bus() as bus, anyio.create_task_group() as tasks:
        scene = await Stage(bus, tasks, 1).scene()
        scene.map(0, 2)
        scene.space = kind(scene.space)
        yield scene


@every_loop
async def test_what_is_the_same_passes() -> None:
    async with scene_of(PassingSpace) as scene:
        scene.unmap(0)
        scene.apply([IovaRange(0, 2 * PAGE - 1), Mapping(0, PAGE - 1, scene.next_target(), Perm.RW)])
        scene.unmap_whole()
        await scene.settle()
        assert scene.pages.mappings() == []


@pytest.mark.parametrize(
    ("kind", "pages", "promise"),
    [
        (Lies, 2, "a change returns what it removed"),
        (Agrees, 1, "what cannot be is refused with Straddle"),
        (Publishes, 1, "what is refused publishes nothing"),
    ],
)
@every_loop
async def test_what_differs_is_named(kind: type[PassingSpace], pages: int, promise: str) -> None:
    async with scene_of(kind) as scene:
        with pytest.raises(PromiseBroken, match=promise):
            scene.unmap(0, pages)
