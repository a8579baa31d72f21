"""Random changes of a space, the same for the same seed: some that are possible, some that are not."""

from collections.abc import Callable
from random import Random
from typing import Final

from anyio.lowlevel import checkpoint

from ...caps import Perm
from ...mapping import Mapping
from ...ranges import IovaRange
from .scene import PAGE, Scene

STEPS: Final = 8
"""Changes between two looks at the subscribers, at most."""

LONGEST: Final = 5
"""Pages in the longest range."""


class Script:
    """A producer that does what the dice say.

    Args:
        scene: Where it does that.
        dice: Where it takes it from.
    """

    def __init__(self, scene: Scene, dice: Random) -> None:
        self.scene = scene
        self.dice = dice
        self._steps: tuple[tuple[int, Callable[[], None]], ...] = (
            (40, self._map),
            (30, self._unmap),
            (12, self._remap),
            (12, self._apply),
            (2, scene.unmap_all),
            (2, scene.unmap_whole),
        )

    async def play_steps(self) -> None:
        """Make some changes; others may go on between some of them."""
        weights = [weight for weight, _ in self._steps]
        for _ in range(self.dice.randrange(1, STEPS + 1)):
            self.dice.choices(self._steps, weights)[0][1]()
            if self.dice.random() < 1 / 4:
                await checkpoint()

    # -- inside ----------------------------------------------------------------

    def _pages(self) -> tuple[int, int]:
        """Return a page and a number of pages that lie in the space."""
        all_pages = self.scene.size // PAGE
        first = self.dice.randrange(all_pages)
        return first, min(self.dice.randrange(1, LONGEST + 1), all_pages - first)

    def _perm(self) -> Perm:
        return self.dice.choice((Perm.R, Perm.W, Perm.RW))

    def _map(self) -> None:
        self.scene.map(*self._pages(), self._perm())

    def _unmap(self) -> None:
        self.scene.unmap(*self._pages())

    def _remap(self) -> None:
        self.scene.remap(*self._pages(), self._perm())

    def _apply(self) -> None:
        self.scene.apply([self._change() for _ in range(self.dice.randrange(1, 5))])

    def _change(self) -> Mapping | IovaRange:
        page, pages = self._pages()
        first, last = page * PAGE, (page + pages) * PAGE - 1
        if self.dice.random() < 1 / 2:
            return IovaRange(first, last)
        return Mapping(first, last, self.scene.next_target(), self._perm())
