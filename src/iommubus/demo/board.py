"""What a consumer in another process holds, in memory that the player reads.

A consumer writes each change here where one in the player's process changes its
dictionary: before it acknowledges the event that it changed for.  The player reads
without asking.  So what it reads at the moment at which a `sync` has returned
proves what was held at that moment, and not what would be by the time of an answer.

A slot has a page, where it leads, what is allowed there, and whether it is used.
They are read while everybody who writes is at rest; were somebody not, the player
might see half a change, which is one that should not have been made then.
"""

import os
from collections.abc import Iterator, MutableMapping
from mmap import mmap
from struct import Struct
from typing import Final

from ..mapping import PERMS
from .pages import PAGES_LIMIT, Target

COUNT: Final = Struct("<Q")
"""The header: how many slots were ever used."""

SLOT: Final = Struct("<QQBB6x")
"""Page, target, permission, whether it is used; `COUNT` and this keep every word aligned."""

BOARD_SIZE: Final = COUNT.size + PAGES_LIMIT * SLOT.size
"""Bytes of a board: room for as many pages as there may be, of which the kernel gives only what is used."""


def make_board() -> int:
    """Return the descriptor of a new board."""
    descriptor = os.memfd_create("iommubus-demo", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, BOARD_SIZE)
    return descriptor


class Board(MutableMapping[int, Target]):
    """Pages on a board, to the one process that writes there.

    Args:
        descriptor: Of the board; it may be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap(descriptor, BOARD_SIZE)
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._count = 0

    def __setitem__(self, page: int, target: Target) -> None:
        slot = self._slots.get(page)
        if slot is None:
            slot = self._free.pop() if self._free else self._grow()
            self._slots[page] = slot

        address, perm = target
        SLOT.pack_into(self._memory, slot, page, address, perm, True)

    def __delitem__(self, page: int) -> None:
        slot = self._slots.pop(page)
        SLOT.pack_into(self._memory, slot, 0, 0, 0, False)
        self._free.append(slot)

    def __getitem__(self, page: int) -> Target:
        fields: tuple[int, int, int, bool] = SLOT.unpack_from(self._memory, self._slots[page])
        _, address, perm, _ = fields
        return address, PERMS[perm]

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    def __contains__(self, page: object) -> bool:
        return page in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def _grow(self) -> int:
        slot = COUNT.size + self._count * SLOT.size
        self._count += 1
        COUNT.pack_into(self._memory, 0, self._count)
        return slot


class Reader:
    """Pages on a board, to a process that reads there.

    Args:
        descriptor: Of the board; it may be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap(descriptor, BOARD_SIZE)

    def read(self) -> dict[int, Target]:
        """Return what is there at this moment."""
        (count,) = COUNT.unpack_from(self._memory)
        slots = self._memory[COUNT.size : COUNT.size + count * SLOT.size]
        return {page: (address, PERMS[perm]) for page, address, perm, used in SLOT.iter_unpack(slots) if used}
