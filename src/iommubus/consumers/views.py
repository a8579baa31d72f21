"""Views of mapped memory, which end with their mapping.

What `Mirror` and `Iotlb` share.  A view is a `memoryview` of the bytes that a
range of addresses leads to.  When an UNMAP of any of it is applied the view is
released, so that whoever uses it afterwards gets a `ValueError` from Python
itself.  What cannot be released, because a NumPy array, a ctypes object, a
slice or a cast of the view is still there, is a use like a pin: it holds back the
acknowledgement until it is gone.

`memoryview.release` alone would not do: CPython counts a slice as a view of its
own beside the one that it was made from, and lets the latter go while the
slice goes on reading.  So each view is made of a ctypes array over the whole
memory that nothing else refers to: whatever is made of the view, however it is
made, keeps that array alive, and the use ends with the array.  (A memoryview over
a memoryview would count too, but the garbage collector of Python 3.11 crashes
where it finds one in a cycle, and that of early 3.12: CPython issue 77894.)
"""

import ctypes
from contextlib import suppress
from mmap import mmap
from typing import Final, cast
from weakref import ref

from msgspec import Struct

from ..bus.abc import Subscription, Use
from ..caps import Perm
from ..errors import AccessDenied, EmptyRange, NoBacking, NotContiguous
from ..mapping import Mapping
from ..table import Table

SWEEP: Final = 64
"""Views handed out after which those that were dropped are forgotten; later
twice as many as there were, so that each costs a constant."""


class Handed(Struct, frozen=True, eq=False):
    """A view that was handed out; its users alone keep it alive.

    Attributes:
        first: First address that it shows.
        last: Last address.
        base: What it, and all that is made of it, keeps alive.
        view: What was handed out.
        use: Lasts as long as ``base``.
    """

    first: int
    last: int
    base: ref["ctypes.Array[ctypes.c_char]"]
    view: ref[memoryview]
    use: Use

    def take_back(self) -> None:
        """Release it; where its bytes are still looked at, hold back the acknowledgement."""
        view = self.view()
        if view is not None:
            with suppress(BufferError):  # it is exported: then the base is alive, too
                view.release()
        del view
        if self.base() is not None:
            self.use.revoke()


class Views:
    """The views that a consumer handed out of its table.

    Args:
        subscription: What gives the bytes of a memory.
    """

    __slots__ = ("_handed", "_limit", "_subscription")

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._handed: list[Handed] = []
        self._limit = SWEEP

    def give(self, table: Table, head: Mapping, iova: int, size: int | None, perm: Perm) -> memoryview:
        """Return a view of a range that begins in the mapping ``head``; raises as `Mirror.view` does."""
        last = head.last if size is None else iova + size - 1
        if last < iova:
            raise EmptyRange(iova, last - iova + 1)
        if head.memory is None:
            raise NoBacking(iova, head.target + iova - head.first)
        granted = common_perm(table, head, iova, last, perm)
        backing = self._subscription.backing(head.memory)
        if backing.readonly:
            granted &= ~Perm.W
        if perm & Perm.W & ~granted:
            raise AccessDenied(iova, int(perm), int(granted))
        offset = head.target + iova - head.first
        base = (ctypes.c_char * backing.nbytes).from_buffer(cast("mmap", backing.obj))
        view = memoryview(base).cast("B")[offset : offset + last - iova + 1]
        if not granted & Perm.W:
            view = view.toreadonly()
        self._remember(Handed(iova, last, ref(base), ref(view), self._subscription.use(base)))
        return view

    def take_back(self, first: int, last: int) -> None:
        """Release every view that shows an address of the range.

        It looks at every view there is: a consumer holds few at a time.
        """
        touched = [handed for handed in self._handed if handed.first <= last and handed.last >= first]
        for handed in touched:
            handed.take_back()
        if touched:
            self._sweep()

    # -- inside ----------------------------------------------------------------

    def _remember(self, handed: Handed) -> None:
        if len(self._handed) >= self._limit:
            self._sweep()
            self._limit = max(SWEEP, 2 * len(self._handed))
        self._handed.append(handed)

    def _sweep(self) -> None:
        """Forget the views of which nothing is left."""
        self._handed = [handed for handed in self._handed if handed.base() is not None]


def common_perm(table: Table, head: Mapping, first: int, last: int, perm: Perm) -> Perm:
    """Return what all mappings of a range allow, which have to be one piece of memory.

    Raises:
        NotContiguous: They are not.
        AccessDenied: One of them does not allow ``perm``.
    """
    granted, end = head.perm, head.last
    while end < last:
        following = table.lookup(end + 1)
        if following is None or not continues(head, following):
            raise NotContiguous(first, last, end)
        if perm & ~following.perm:
            raise AccessDenied(following.first, int(perm), int(following.perm))
        granted, end = granted & following.perm, following.last
    return granted


def continues(head: Mapping, following: Mapping) -> bool:
    """Say whether a later mapping leads where ``head`` would, if it went on."""
    return following.memory == head.memory and following.target - head.target == following.first - head.first
