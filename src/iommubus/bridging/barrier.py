"""A `sync` that is not given up before nobody uses what was unmapped.

Who asked for it (a guest behind QEMU, a vfio-user client) goes on as soon as it
is answered, whatever the answer is.  So there is no answer before the `sync`
has completed: at each deadline those who are missing are fenced, and it goes on.
"""

from collections.abc import Callable
from typing import Final, cast

import anyio

from ..bus.abc import SYNC_TIMEOUT, AddressSpace
from ..bus.reports import Missing
from ..errors import IommubusError, SyncFailed, UnknownName
from .telling import Notice, Tell

RETRY: Final = 0.1
"""Seconds between two attempts of a `sync` that fails at once, because somebody is not proven stopped
and nothing is known to wait for: an administrator may be needed, and is not waited for busily."""


async def sync_or_fence(space: AddressSpace, *, deadline: float = SYNC_TIMEOUT, tell: Tell) -> None:
    """Return once nobody uses a translation that was unmapped before the call, however long that takes.

    Args:
        space: The space.
        deadline: Seconds after which who is missing is fenced.
        tell: Told of whoever is fenced, once of whoever cannot be proven stopped, and of MAPs that
            somebody could not apply.

    Raises:
        WrongThread: The bus cannot be used by the caller.
    """
    said: set[str] = set()
    while True:
        try:
            await space.sync(deadline)
        except SyncFailed as failed:
            missing = cast("tuple[Missing, ...]", failed.missing)
            if failed.failures:
                tell(Notice(str(SyncFailed((), failed.failures)), trouble=True))
            if not missing:  # only MAPs that somebody could not apply; nothing old is in use
                return
            for one in missing:
                await _fence(space, one, deadline, said, tell)
            await anyio.sleep(RETRY)
        else:
            return


async def _fence(space: AddressSpace, one: Missing, deadline: float, said: set[str], tell: Tell) -> None:
    proven = False
    try:
        with anyio.move_on_after(deadline):  # what stops it may take for ever, and others have to be fenced, too
            proven = await space.fence(one.subscriber)
    except UnknownName:  # it let go meanwhile
        return
    except IommubusError as failure:  # the daemon is away, or forbids it: the next attempt says it again
        outcome = f"it could not be fenced: {failure}"
    else:
        outcome = "it was fenced" if proven else "it was fenced, and the answer waits until it is proven stopped"
    if one.subscriber not in said:
        said.add(one.subscriber)
        tell(Notice(f"{one.subscriber} {one.reason}; {outcome}", trouble=True))


class Barrier:
    """Settles many UNMAPs with few `sync`s: those that came during one share the next.

    Args:
        space: The space.
        deadline: Seconds after which who is missing is fenced.
        tell: Told of whoever is fenced.

    Attributes:
        syncs: How many were made.
    """

    def __init__(self, space: AddressSpace, *, deadline: float = SYNC_TIMEOUT, tell: Tell) -> None:
        self._space = space
        self._deadline = deadline
        self._tell = tell
        self._waiting: list[Callable[[], object]] = []
        self._more = anyio.Event()
        self.syncs = 0

    def settle(self, done: Callable[[], object]) -> None:
        """Have something done once nobody uses what was unmapped before the call."""
        self._waiting.append(done)
        self._more.set()

    async def run(self) -> None:
        """Settle what comes, until it is cancelled."""
        while True:
            await self._more.wait()
            self._more = anyio.Event()
            waiting, self._waiting = self._waiting, []
            await sync_or_fence(self._space, deadline=self._deadline, tell=self._tell)
            self.syncs += 1
            for done in waiting:
                done()
