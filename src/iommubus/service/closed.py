"""Spaces that were closed, for who still syncs them.

One is kept while somebody counts in it, and after that its number alone: of what
everybody has let go nothing is left to wait for.  Of one that is not known here
nobody can say that, so no `sync` over it succeeds.
"""

from collections.abc import Sequence
from typing import Final

from ..bus.space import LocalSpace
from ..transport.credentials import Peer

KEPT: Final = 1024
"""Most closed spaces that are kept while somebody has not let go of them: who
closes so many, and syncs none, has no use for the answer."""

REMEMBERED: Final = 16_384
"""Most numbers of closed spaces that everybody has let go of, 100 bytes each: whoever
closes a space syncs it soon after, or never."""


class Closed:
    """The closed spaces of a daemon, oldest first, by epoch."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Sequence[LocalSpace], Peer]] = {}
        self._done: dict[int, Peer] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, epoch: int, spaces: Sequence[LocalSpace], peer: Peer) -> None:
        """Keep one, with those that a `sync` of it covers.

        Args:
            epoch: Its epoch.
            spaces: It, and those.
            peer: Who published it.
        """
        self._kept[epoch] = spaces, peer
        self._trim()
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    def find(self, epoch: int) -> tuple[Sequence[LocalSpace], Peer] | None:
        """Return what a `sync` of one covers, and who published it; `None` if that is not known."""
        self._trim()
        if epoch in self._done:
            return (), self._done[epoch]
        return self._kept.get(epoch)

    def _trim(self) -> None:
        for epoch, (spaces, peer) in list(self._kept.items()):
            if not any(space.counting() for space in spaces):
                del self._kept[epoch]
                self._done[epoch] = peer
        while len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]
