"""What goes wrong on purpose: a `sync` that has to fail, and one who leaves unclean."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from ...bus.abc import Subscription
from ...bus.reports import MapFailure, Missing
from ...caps import Cap
from ...errors import PromiseBroken, SyncFailed
from ...mapping import Mapping
from .demands import demand
from .follower import BackEndFailed
from .scene import Stage

MOMENT: Final = 0.05
"""Seconds for a `sync` that has to fail however long it takes."""


class SyncFailure:
    """A `sync` that failed, typed.

    Args:
        failed: What it raised.
    """

    def __init__(self, failed: SyncFailed) -> None:
        self.missing = [entry for entry in failed.missing if isinstance(entry, Missing)]
        self.failures = [entry for entry in failed.failures if isinstance(entry, MapFailure)]
        demand("a sync that fails says who and why", len(self.missing), len(failed.missing))
        demand("a sync that fails says what failed", len(self.failures), len(failed.failures))

    def demand_missing(self, subscriber: str, *pieces: Mapping) -> None:
        """Demand that one is missing, alone, and that these old translations are named with it."""
        demand("those are missing who may use what is gone", [entry.subscriber for entry in self.missing], [subscriber])
        named = self.missing[0].pieces
        if not named.truncated:
            demand("a sync that fails names the removed pieces with their old targets", list(named), list(pieces))


async def failure_of(sync: Callable[..., Awaitable[object]], *patterns: str, within: float = MOMENT) -> SyncFailure:
    """Call a `sync` that has to fail.

    Args:
        sync: That of a bus or a space.
        patterns: What it is given.
        within: Seconds it gets; the longer, if it need not wait for its deadline.

    Raises:
        PromiseBroken: It succeeds.
    """
    try:
        await sync(*patterns, timeout=within)
    except SyncFailed as failed:
        return SyncFailure(failed)
    raise PromiseBroken("a sync raises while somebody may use what was unmapped", "SyncFailed", "success")


async def leave_unclean(stage: Stage, **options: Any) -> Subscription:
    """Leave by an exception, with something live in hand; return the handle."""
    subscription = stage.bus.subscribe("space", Cap.IOTLB, **options)
    try:
        async with subscription as events:
            await anext(aiter(events))
            raise BackEndFailed  # noqa: TRY301 - this is how the block is left
    except BackEndFailed:
        pass
    return subscription
