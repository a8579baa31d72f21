"""A bus that watches its producer: what was taken away, and whether that was synced.

Every removal is remembered until a `sync` over its space that began after it
has succeeded.  Until then its target must not be mapped again: a device may
still use the old translation, and so the page, whoever has it by now.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct

from ...bus.abc import SYNC_TIMEOUT, AddressSpace, EventBus
from ...bus.reports import SyncReport
from ...caps import Cap, Perm
from ...errors import SyncFailed, UnknownName, span
from ...events import Memory
from ...mapping import Mapping
from ...ranges import LAST, IovaRange
from ..oracle import without
from ..passing import PassingBus, PassingSpace


class Removal(Struct, eq=False):
    """Something that was taken away and is not known to be out of use.

    Attributes:
        space: The space it was in.
        first: First address.
        last: Last address.
        piece: What was mapped there, if that is known.
    """

    space: "WatchedSpace"
    first: int
    last: int
    piece: Mapping | None = None

    def reused_by(self, space: "WatchedSpace", mapping: Mapping) -> bool:
        """Say whether a MAP leads where this led, but for the same pages in their old place."""
        old = self.piece
        if old is None or old.memory != mapping.memory:
            return False
        if old.target >= mapping.target + mapping.size or mapping.target >= old.target + old.size:
            return False
        return space is not self.space or old.target - old.first != mapping.target - mapping.first

    def __str__(self) -> str:
        return f"{self.piece or span(self.first, self.last)} of {self.space.name}"


class Log:
    """What was removed and not synced, over all spaces, and where that was ignored.

    Attributes:
        unsynced: What was removed since the last `sync` that covers it.
        reused: What was mapped too early, in words.
        failed: Times a `sync` has failed.
        on_failure: Called then.
    """

    def __init__(self) -> None:
        self.unsynced: list[Removal] = []
        self.reused: list[str] = []
        self.failed = 0
        self.on_failure: Callable[[], object] = lambda: None

    def mapped(self, space: "WatchedSpace", mapping: Mapping) -> None:
        """Note a MAP, and whether it comes too early."""
        for removal in self.unsynced:
            if removal.reused_by(space, mapping):
                self.reused.append(f"{mapping} in {space.name} reuses {removal}, which no sync has covered")

    async def sync(self, spaces: Collection["WatchedSpace"], sync: Callable[[], Awaitable[SyncReport]]) -> SyncReport:
        """Sync; what had been removed from these spaces before is out of use when it succeeds."""
        covered = {removal for removal in self.unsynced if removal.space in spaces}
        try:
            report = await sync()
        except SyncFailed:
            self.failed += 1
            self.on_failure()
            raise
        self.unsynced = [removal for removal in self.unsynced if removal not in covered]
        return report


class WatchedSpace(PassingSpace):
    """A space that writes down what its producer does.

    Args:
        inner: The space that does it.
        log: Where it is written down.

    Attributes:
        open: Whether it was not closed yet.
        live: What is mapped, in no order.
    """

    def __init__(self, inner: AddressSpace, log: Log) -> None:
        super().__init__(inner)
        self.open = True
        self.live: list[Mapping] = []
        self._log = log

    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        super().map(iova, size, target, perm, memory=memory)
        self._map(Mapping(iova, iova + size - 1, target, Perm(perm), memory))

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        removed = super().unmap(iova, size)
        self._unmap(iova, iova + size - 1)
        return removed

    def unmap_all(self) -> Sequence[Mapping]:
        removed = super().unmap_all()
        self._unmap(0, LAST)
        return removed

    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        super().remap(iova, size, target, perm, memory=memory)
        mapping = Mapping(iova, iova + size - 1, target, Perm(perm), memory)
        if mapping not in self.live:
            self._unmap(mapping.first, mapping.last)
            self._map(mapping)

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        made = list(changes)
        super().apply(made)
        for change in made:
            if isinstance(change, Mapping):
                self._map(change)
            else:
                self._unmap(change.first, change.last)

    def invalidate_device(self, iova: int, size: int) -> None:
        super().invalidate_device(iova, size)
        self._log.unsynced.append(Removal(self, iova, iova + size - 1))

    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        return await self._log.sync({self}, lambda: self.inner.sync(timeout))

    async def close(self) -> None:
        await super().close()
        self.closed()

    def closed(self) -> None:
        """Note that everything was taken away, for good."""
        self.open = False
        self._unmap(0, LAST)

    # -- inside ----------------------------------------------------------------

    def _map(self, mapping: Mapping) -> None:
        if mapping not in self.live:
            self.live.append(mapping)
            self._log.mapped(self, mapping)

    def _unmap(self, first: int, last: int) -> None:
        if not self.offers & Cap.MAP:
            self._log.unsynced.append(Removal(self, first, last))
        for mapping in [live for live in self.live if live.first <= last and live.last >= first]:
            self.live.remove(mapping)
            self.live += without(mapping, first, last)
            piece = mapping.clip(first, last)
            self._log.unsynced.append(Removal(self, piece.first, piece.last, piece))


class WatchedBus(PassingBus):
    """A bus whose spaces write down what their producer does.

    Args:
        inner: The bus behind it.
        log: Where that is written down.
        attend: Called with each new space, before its producer gets it.
    """

    def __init__(self, inner: EventBus, log: Log, attend: Callable[[WatchedSpace], Awaitable[object]]) -> None:
        super().__init__(inner)
        self.watched: list[WatchedSpace] = []
        self._log = log
        self._attend = attend

    async def create_space(self, name: str, **options: Any) -> WatchedSpace:
        space = WatchedSpace(await super().create_space(name, **options), self._log)
        self.watched.append(space)
        await self._attend(space)
        return space

    async def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        spaces = [
            space for space in self.spaces() if any(fnmatchcase(space.name, pattern) for pattern in patterns or ("*",))
        ]
        return await self._log.sync(spaces, lambda: self.inner.sync(*patterns, timeout=timeout))

    def spaces(self) -> tuple[WatchedSpace, ...]:
        return tuple(space for space in self.watched if space.open)

    async def wait_space(self, name: str) -> WatchedSpace:
        found = await super().wait_space(name)
        for space in self.watched:
            if space.inner is found:
                return space
        raise UnknownName(name, tuple(space.name for space in self.watched))

    async def close(self) -> None:
        await super().close()
        for space in self.spaces():
            space.closed()
