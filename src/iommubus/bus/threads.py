"""The bus for other threads: a call is carried out in the loop of the bus, and waited for.

A thread that plays a CPU of a guest, or is one of an emulator's, publishes here
as a task does with the space itself, and gets the same results and errors.  It
makes its next call when the one before was carried out, so its order is kept;
between threads there is none.

No thread waits here for ever.  Whoever ends the block, by its last line, an
exception or cancellation, ends every call that waits; a call that comes later is
refused.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..caps import Perm
from ..errors import LoopThread, PublisherClosed, UnknownName
from ..events import Memory
from ..mapping import Mapping
from ..ranges import IovaRange
from .abc import SYNC_TIMEOUT, AddressSpace, Endpoint, EventBus, Subscription
from .reports import SpaceStatistics, SyncReport
from .soon import Soon, soon_in_this_loop

A = TypeVar("A")
T = TypeVar("T")


class ThreadPublisher:
    """What other threads publish with, while its block lasts.

    Enter it with ``async with``, in the loop of the bus.  The tasks that wait on
    behalf of threads are its own, and end with the block.

    Args:
        bus: Any bus, embedded or not; `Bus.in_thread` is the short way.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._calls = Calls()
        self._tasks: TaskGroup  # from the moment that it is entered

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._calls.open(self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.close()  # before anything is waited for: threads may be what holds up the rest
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)  # told of the error, it would wrap it into a group

    def space(self, name: str) -> "ThreadSpace":
        """Return an open space, for the use of threads.

        It may be called in any thread, in that of the bus too.

        Raises:
            UnknownName: There is none of this name.
            PublisherClosed: The block has ended, or was not entered.
        """
        return ThreadSpace(self._calls.look(partial(self._find, name)), self._calls)

    def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        """Do `EventBus.sync`, and keep the thread waiting meanwhile.

        Raises:
            SyncFailed, UnknownName, BusClosed: As `EventBus.sync`.
            PublisherClosed: The block has ended; nothing is promised about use.
            LoopThread: It was called in the thread of the bus.
        """
        return self._calls.wait(partial(self._bus.sync, *patterns, timeout=timeout))

    def detach(self, endpoint: Endpoint) -> None:
        """Do `Endpoint.detach`; `ThreadSpace.attach` is the other way.

        Raises:
            EndpointClosed: As `Endpoint.detach`.
            PublisherClosed: The block has ended; nothing was moved.
            LoopThread: It was called in the thread of the bus.
        """
        self._calls.do(endpoint.detach)

    def __repr__(self) -> str:
        return f"<thread publisher of {self._bus!r}, {self._calls!r}>"

    # -- inside ----------------------------------------------------------------

    def _find(self, name: str) -> AddressSpace:
        spaces = {space.name: space for space in self._bus.spaces()}
        if name not in spaces:
            raise UnknownName(name, tuple(spaces))
        return spaces[name]


class ThreadSpace:
    """A space, to producers in other threads; any number of them may share it.

    Each method does what that of `AddressSpace` does, in the thread of the bus,
    and returns or raises here what it did there.  Beside that, each raises:

    * `PublisherClosed` when the block of the publisher has ended.  A plain call
      has then changed nothing; one that waits was cancelled.
    * `LoopThread` in the thread of the bus, which would wait for itself.

    Attributes:
        name: Its name.
        offers: The kinds of event it can deliver.
    """

    def __init__(self, space: AddressSpace, calls: "Calls") -> None:
        self.name = space.name
        self.offers = space.offers
        self._space = space
        self._calls = calls

    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        """Do `AddressSpace.map`."""
        self._calls.do(partial(self._space.map, iova, size, target, perm, memory=memory))

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        """Do `AddressSpace.unmap`; return the pieces removed."""
        return self._calls.do(partial(self._space.unmap, iova, size))

    def unmap_all(self) -> Sequence[Mapping]:
        """Do `AddressSpace.unmap_all`; return the pieces removed."""
        return self._calls.do(self._space.unmap_all)

    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        """Do `AddressSpace.remap`."""
        self._calls.do(partial(self._space.remap, iova, size, target, perm, memory=memory))

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        """Do `AddressSpace.apply`: all or none, and no other thread's change in between."""
        made = tuple(changes)  # here: what makes them is the caller's, and may itself call
        self._calls.do(partial(self._space.apply, made))

    def invalidate_device(self, iova: int, size: int) -> None:
        """Do `AddressSpace.invalidate_device`."""
        self._calls.do(partial(self._space.invalidate_device, iova, size))

    def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        """Do `AddressSpace.sync`, and keep the thread waiting meanwhile."""
        return self._calls.wait(partial(self._space.sync, timeout))

    def drain(self) -> None:
        """Do `AddressSpace.drain`, and keep the thread waiting meanwhile."""
        self._calls.wait(self._space.drain)

    def fence(self, subscription: Subscription | str) -> bool:
        """Do `AddressSpace.fence`; return whether the subscriber is proven stopped."""
        return self._calls.wait(partial(self._space.fence, subscription))

    def close(self) -> None:
        """Do `AddressSpace.close`; the publisher and other spaces stay open."""
        self._calls.wait(self._space.close)

    def statistics(self) -> SpaceStatistics:
        """Return the counters of the space."""
        return self._calls.do(self._space.statistics)

    def attach(self, endpoint: Endpoint) -> None:
        """Do `Endpoint.attach` to this space."""
        self._calls.do(partial(endpoint.attach, self._space))

    def __repr__(self) -> str:
        return f"<thread space {self.name} {self.offers!r}, {self._calls!r}>"


class Calls:
    """The calls of other threads that wait for their outcome."""

    def __init__(self) -> None:
        self._owner = 0  # the thread that carries them out; 0 while it does not
        self._waiting: set[Future[Any]] = set()
        self._soon: Soon  # these from the moment that it is opened
        self._tasks: TaskGroup
        self._context: Context

    def open(self, tasks: TaskGroup) -> None:
        """Begin to take calls into this loop; what waits there runs as one of ``tasks``."""
        self._tasks = tasks
        self._soon = soon_in_this_loop()
        self._context = copy_context()  # a thread's own would not say which loop this is
        self._owner = get_ident()
        tasks.start_soon(self._close_when_cancelled)

    def close(self) -> None:
        """Take no more, and end those that wait."""
        self._owner = 0  # before the look at who waits: see `_outcome_of`
        with suppress(KeyError):  # until there is none
            while True:
                self._waiting.pop().set_exception(PublisherClosed())

    def look(self, act: Callable[[], T]) -> T:
        """Call a function that only reads: in the loop, or here if this is its thread."""
        if get_ident() == self._owner:
            return act()
        return self._outcome_of(self._act, act)

    def do(self, act: Callable[[], T]) -> T:
        """Have the loop call a function; return what it returned, or raise what it raised."""
        self._check_thread()
        return self._outcome_of(self._act, act)

    def wait(self, act: Callable[[], Awaitable[T]]) -> T:
        """Have a task await what a function returns; return or raise its outcome."""
        self._check_thread()
        return self._outcome_of(self._start, act)

    def __repr__(self) -> str:
        return f"{'open' if self._owner else 'closed'}, {len(self._waiting)} calls"

    # -- in the calling thread ---------------------------------------------------

    def _check_thread(self) -> None:
        if get_ident() == self._owner:
            raise LoopThread(self._owner)

    def _outcome_of(self, step: Callable[[A, Future[T]], None], act: A) -> T:
        """Have the loop take a step that leads to an outcome, and wait for that.

        There is no lock.  This enters what waits and then looks whether it may;
        `close` forbids it and then looks what waits.  So one sees the other,
        whatever comes between.
        """
        outcome: Future[T] = Future()
        self._waiting.add(outcome)
        if not self._owner:
            self._waiting.discard(outcome)
            raise PublisherClosed
        try:
            self._soon(lambda: self._context.run(step, act, outcome))
        except RuntimeError:  # the loop has ended
            self._waiting.discard(outcome)
            raise PublisherClosed from None
        return outcome.result()

    # -- in the loop ---------------------------------------------------------------

    def _act(self, act: Callable[[], T], outcome: Future[T]) -> None:
        if outcome.done():  # closed since: the caller was told that nothing was changed
            return
        try:
            result = act()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that caused it, interrupts too
            outcome.set_exception(error)
        else:
            outcome.set_result(result)
        self._waiting.discard(outcome)

    def _start(self, act: Callable[[], Awaitable[T]], outcome: Future[T]) -> None:
        if not outcome.done():
            self._tasks.start_soon(self._wait, act, outcome)

    async def _wait(self, act: Callable[[], Awaitable[T]], outcome: Future[T]) -> None:
        try:
            result = await act()
        except Exception as error:  # noqa: BLE001 - raised in the thread that caused it
            self._act(partial(throw, error), outcome)
        else:
            self._act(lambda: result, outcome)

    async def _close_when_cancelled(self) -> None:
        """Close once the block is cancelled, even if what it waits for cannot be.

        It may wait for the very threads that wait here, and end only with them.
        """
        try:
            await anyio.sleep_forever()
        finally:
            self.close()


def throw(error: Exception) -> NoReturn:
    """Raise an exception where a function is wanted."""
    raise error
