"""What was taken away in one space and may still be in use, by kind of removal.

Each subscription is held to the kinds that it is told of: who hears of device
invalidations alone does not keep an UNMAP from being forgotten.
"""

from collections.abc import Iterable
from typing import Final

from ..caps import Cap
from ..events import DevIotlbUnmap, Event
from ..ledger import PIECE_LIMIT, TRIM_EVERY, Ledger, OldPieces
from ..table import Table
from .attachment import Attachment

FEW: Final = 16
"""Removed pieces, and removals, that may be kept although everybody has let go of them, until more
come: to ask after every `sync` would be a tenth of what that costs."""


class Removed:
    """The removals of one space that not everybody has let go of.

    Args:
        table: Its table; `None` for a pull space, which keeps none.

    Attributes:
        fresh: Where the number of an UNMAP and its pieces are noted; ask for `full` now and then.
    """

    __slots__ = ("_invalidated", "_table", "_unmapped", "fresh")

    def __init__(self, table: Table | None) -> None:
        self._table = table
        self._unmapped = Ledger()
        self._invalidated = Ledger()  # of device TLBs, for those who were told
        self.fresh = self._unmapped.fresh

    def __len__(self) -> int:
        return len(self._unmapped)

    @property
    def full(self) -> bool:
        """Whether it is worth asking who has let go."""
        return len(self.fresh) >= TRIM_EVERY

    @property
    def many(self) -> bool:
        """Whether there is so much that it is worth asking after every `sync` who has let go."""
        return len(self.fresh) >= FEW or len(self) >= FEW or self._unmapped.merged or self._invalidated.merged

    def remember(self, events: Iterable[Event]) -> None:
        """Keep what events took away of which nothing but the range is known."""
        for event in events:
            ledger = self._invalidated if isinstance(event, DevIotlbUnmap) else self._unmapped
            ledger.add_range(event.seq, event.first, event.last)

    def trim(self, seq: int) -> None:
        """Forget what was removed up to number ``seq``: nobody uses it any more."""
        self._unmapped.trim(seq)
        self._invalidated.trim(seq)

    def since(self, attachment: Attachment, *, everybody: bool) -> OldPieces:
        """Return what may be in use by a subscription, of the kinds that it is told of.

        Who went elsewhere may still use what it left behind, too: that is all
        there is, for nobody took notes of what came after it had left.

        Args:
            attachment: The subscription in the space.
            everybody: Whether UNMAPs are told to everybody, because it is the end.
        """
        caps, ranges, covered = attachment.member.caps, attachment.ranges, attachment.covered
        pieces = OldPieces((), ranges, ())
        if caps & Cap.UNMAP or everybody or attachment.left:
            pieces = self._unmapped.since(covered, ranges)
        if caps & Cap.DEVIOTLB_UNMAP:
            pieces = pieces.beside(self._invalidated.since(covered, ranges).ranges)
        if not attachment.left:
            return pieces
        return pieces.beside(ranges) if self._table is None else pieces.among(*self._table.snapshot(PIECE_LIMIT))
