"""Spaces that were closed, for who still syncs them.

One is kept while somebody counts in it, and after that its number alone: of what
everybody has let go nothing is left to wait for.  Of one that is not known here
nobody can say that, so no `sync` over it succeeds.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from ...bus.space import LocalSpace
from ...transport.credentials import Peer
from ..clients import same_user

KEPT: Final = 1024
"""Most closed spaces of one user that are kept while somebody has not let go of them: who
closes so many, and syncs none, has no use for the answer."""

REMEMBERED: Final = 16_384
"""Most numbers of closed spaces of one user that everybody has let go of, 100 bytes each: whoever
closes a space syncs it soon after, or never."""

Thing = TypeVar("Thing")


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
        thin(self._kept, {epoch: whose for epoch, (_, whose) in self._kept.items()}, peer, KEPT)

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
                thin(self._done, self._done, peer, REMEMBERED)


def thin(things: dict[int, Thing], whose: Mapping[int, Peer], peer: Peer, limit: int) -> None:
    """Forget the oldest things of one user where there are too many; nobody makes room by what is another's."""
    if len(things) > limit:
        own = [epoch for epoch, each in whose.items() if same_user(each, peer)]
        for epoch in own[: max(len(own) - limit, 0)]:
            del things[epoch]
