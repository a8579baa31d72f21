"""What is waited for on one connection: by the client, and by the daemon.

Both ends number their requests themselves.  One that waits here has a task, with a
cancel scope of its own, or is held by whoever will answer it from a callback; what
the daemon asked has a future.
"""

import asyncio
from collections.abc import Awaitable, Callable
from logging import getLogger
from typing import Any, Final, Protocol

from anyio import CancelScope

from ..errors import BadMessage, IommubusError, LimitReached
from ..transport.tasks import Tasks
from ..wire.messages import Message

LIMIT: Final = 1024
"""Most requests of one connection that wait at once: each has a task of some 5 KiB, or as
much in callbacks, and a machine has fewer virtual CPUs that could miss at the same time."""

LOGGER: Final = getLogger("iommubus.service")

Work = Callable[..., Awaitable[object]]
Refuse = Callable[[int, BaseException], None]


class Ending(Protocol):
    """A request that waits, to those who end it."""

    def cancel(self) -> None:
        """End it: nobody waits for its answer."""
        ...


class Waiting:
    """One request that waits in a task; it can be cancelled before its task has begun."""

    __slots__ = ("cancelled", "scope")

    def __init__(self) -> None:
        self.cancelled = False
        self.scope: CancelScope | None = None  # made in the task: a callback of the loop cannot make one

    def begin(self) -> CancelScope:
        """Return the scope of its task."""
        self.scope = CancelScope()
        if self.cancelled:
            self.scope.cancel()
        return self.scope

    def cancel(self) -> None:
        """End it."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()


class Running:
    """The requests of a client that wait.

    Args:
        tasks: Where they run.
        refuse: Answers one that failed.
    """

    __slots__ = ("_refuse", "_tasks", "_waiting")

    def __init__(self, tasks: Tasks, refuse: Refuse) -> None:
        self._tasks = tasks
        self._refuse = refuse
        self._waiting: dict[int, Ending] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self, request: int, work: Work, *args: Any) -> None:
        """Begin one.

        Raises:
            LimitReached: Too many wait already.
            BadMessage: One of this number does.
        """
        waiting = Waiting()
        self.hold(request, waiting)
        self._tasks.start_soon(self._run, request, waiting, work, args)

    def hold(self, request: int, waiting: Ending) -> None:
        """Count one that is answered from a callback, until it is released; raises as `start`."""
        self.check_new(request)
        self._waiting[request] = waiting

    def check_new(self, request: int) -> None:
        """Check that one more may wait, and that none of its number does; raises as `start`."""
        if request in self._waiting:
            raise BadMessage("a request", "request", str(request), "another one of this number waits")
        if len(self._waiting) >= LIMIT:
            raise LimitReached("requests that wait on one connection", LIMIT)

    def release(self, request: int) -> None:
        """Count one that was held no longer: it was answered, or goes on in a task."""
        self._waiting.pop(request, None)

    def cancel(self, request: int) -> None:
        """End one whose answer nobody waits for; one that is over is left alone."""
        if request in self._waiting:
            self._waiting[request].cancel()

    def end(self) -> None:
        """End all of them."""
        for waiting in list(self._waiting.values()):
            waiting.cancel()

    async def _run(self, request: int, waiting: Waiting, work: Work, args: tuple[Any, ...]) -> None:
        try:
            with waiting.begin():
                await work(*args)
        except (IommubusError, OSError) as failure:  # no descriptors are left, perhaps
            self._refuse(request, failure)
        except Exception as failure:
            LOGGER.exception("a request failed in a way that it should not")
            self._refuse(request, failure)
        finally:
            del self._waiting[request]


class Asked:
    """What the daemon asked a client, and has no answer to yet."""

    __slots__ = ("_last", "_open")

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, asyncio.Future[Message]] = {}

    def begin(self) -> tuple[int, asyncio.Future[Message]]:
        """Return a new number, and what its answer comes in."""
        self._last += 1
        future = self._open[self._last] = asyncio.get_running_loop().create_future()
        return self._last, future

    def forget(self, number: int) -> bool:
        """Wait for an answer no longer; say whether it was still open."""
        return self._open.pop(number, None) is not None

    def asked(self, number: int) -> bool:
        """Say whether anything of this number was ever asked."""
        return 0 < number <= self._last

    def answer(self, number: int, message: Message) -> None:
        """Take an answer; one that nobody waits for any more is thrown away.

        Raises:
            BadMessage: Nobody ever asked that.
        """
        if not self.asked(number):
            raise BadMessage(type(message).__name__, "request", str(number), "nothing of this number was asked")
        future = self._open.pop(number, None)
        if future is not None and not future.done():
            future.set_result(message)

    def lose(self, error: Callable[[], Exception]) -> None:
        """Take it that no answer will come."""
        waiting, self._open = self._open, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error())
