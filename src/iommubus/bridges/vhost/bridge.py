"""A vhost device of the kernel as a cacher: its misses are answered, and what is unmapped is taken from it."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Struct

from ...abi.vhost import IotlbMsg, IotlbType, invalidations, updates
from ...bridging.addresses import Addresses
from ...bridging.telling import Notice, Tell, log
from ...bus.abc import Batch, EventBus, Subscription, Translation
from ...caps import Cap, Perm
from ...errors import (
    BadMemory,
    BusClosed,
    Fenced,
    IommubusError,
    KernelRefused,
    NoBacking,
    SubscriptionClosed,
    TranslationFault,
    UnknownMemory,
)
from ...ranges import LAST, IovaRange
from .device import FEATURES, VhostDevice

MISSES_AT_ONCE: Final = 64
"""Most questions of the kernel that wait for answers; the next are read after that.  A ring has one at a
time, and a device a few rings."""

ATTEMPTS: Final = 16
"""Most answers to one question that an UNMAP overtakes; after that it is taken as one that has no answer."""

WHOLE: Final = IovaRange(0, LAST)


class VhostStatistics(NamedTuple):
    """Counters of one bridge."""

    #: questions of the kernel
    misses: int
    #: questions that were being answered already, and were not asked again
    repeated: int
    #: answers written
    updates: int
    #: answers that an UNMAP overtook, and that were not written
    stale: int
    #: questions that stay without an answer
    unanswered: int
    #: ranges taken away
    invalidations: int
    #: ranges that the kernel refused to take away
    failed: int


class _Counts(Struct):
    misses: int = 0
    repeated: int = 0
    updates: int = 0
    stale: int = 0
    unanswered: int = 0
    invalidations: int = 0
    failed: int = 0


class VhostBridge:
    """Keeps the IOTLB of a device of the kernel.

    The kernel does not drop a question that it asked already, knows no negative
    answer, and takes an answer as it comes.  So equal questions are asked once, one
    without an answer is told of and left, and an answer is written only if no UNMAP
    was handed over since the question.

    An UNMAP is acknowledged once the kernel's write has returned: no worker of the
    device uses it then.

    Run it in the process that sets up the rings, and once.  However it is left,
    everything is taken from the device first.

    Args:
        bus: The bus.
        device: The device; it stays the caller's, who sets up the rings once the bridge has started.
        space: What the device sees: an endpoint.
        features: What is agreed upon with the guest, as a bitmap.
        name: How reports call it.
        tell: Told what was agreed upon, and of trouble.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        device: VhostDevice,
        space: str | Iterable[str],
        features: int = FEATURES,
        name: str | None = None,
        tell: Tell = log,
    ) -> None:
        self._bus = bus
        self._device = device
        self._space = space
        self._features = features
        self._name = name
        self._tell = tell
        self._lane = anyio.Lock()  # one thread at a time tells the kernel
        self._room = anyio.Semaphore(MISSES_AT_ONCE)
        self._asked: set[tuple[int, Perm]] = set()
        self._stopped = False
        self._counts = _Counts()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve the device to the end of the space, or until this is cancelled.

        Raises:
            KernelRefused: The kernel refuses to be set up, or to be emptied in the end.
            PeerCannot: It cannot do what is needed.
            SubscribeError: The space cannot be had.
            Fenced: It was fenced; everything was taken from the device.
        """
        self._tell(await anyio.to_thread.run_sync(self._device.negotiate, self._features))
        async with self._bus.subscribe(
            self._space, Cap.UNMAP, stops="exit", on_fence=self._stop, name=self._name
        ) as events:
            task_status.started()
            try:
                await self._serve(events)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop()
                    with suppress(BusClosed):  # then there is nobody to promise it to
                        await events.close()

    def statistics(self) -> VhostStatistics:
        """Return its counters."""
        return VhostStatistics(**{name: getattr(self._counts, name) for name in VhostStatistics._fields})

    # -- misses ------------------------------------------------------------------

    async def _serve(self, events: Subscription) -> None:
        over: list[IommubusError] = []

        async def first(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except IommubusError as error:  # raised by itself, and not as one of a group
                over.append(error)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first, lambda: self._follow(events))
            tasks.start_soon(first, lambda: self._read(events, tasks))
        for error in over:
            raise error

    async def _read(self, events: Subscription, tasks: TaskGroup) -> None:
        addresses = Addresses(events)
        while True:
            await anyio.wait_readable(self._device.fd)
            while (message := self._device.read()) is not None:
                await self._take(message, events, addresses, tasks)

    async def _take(self, message: IotlbMsg, events: Subscription, addresses: Addresses, tasks: TaskGroup) -> None:
        if message.type is not IotlbType.MISS:
            self._tell(Notice(f"{self._device.name} says {message.type.name} at {message.iova:#x}; it is passed over"))
            return
        self._counts.misses += 1
        question = message.iova, Perm(message.perm)
        if question in self._asked:
            self._counts.repeated += 1
            return
        await self._room.acquire()
        self._asked.add(question)
        tasks.start_soon(self._answer, *question, events, addresses)

    async def _answer(self, iova: int, perm: Perm, events: Subscription, addresses: Addresses) -> None:
        try:
            for _ in range(ATTEMPTS):
                if await self._answer_once(iova, perm, events, addresses):
                    return
            self._leave(iova, perm, f"UNMAPs overtook {ATTEMPTS} answers")
        except (TranslationFault, NoBacking, BadMemory, KernelRefused) as failure:
            self._leave(iova, perm, str(failure))
        except (Fenced, SubscriptionClosed):  # whoever follows the stream is told
            return
        finally:
            self._room.release()

    async def _answer_once(self, iova: int, perm: Perm, events: Subscription, addresses: Addresses) -> bool:
        """Ask where an address leads and tell the kernel; say whether it was done before an UNMAP overtook it."""
        found = await events.translate(iova, perm)
        mapping = found.mapping
        try:
            messages = updates(IovaRange(mapping.first, mapping.last), addresses.of(mapping), mapping.perm)
        except UnknownMemory:  # it was removed, after an UNMAP that is on its way
            self._counts.stale += 1
            return False
        async with self._lane:
            if not self._may_write(found):
                self._counts.stale += 1
                return self._stopped
            # The write wakes the rings whose questions were read before it.  The same question
            # of another ring, read during it, has to have an answer of its own.
            self._asked.discard((iova, perm))
            await anyio.to_thread.run_sync(self._device.write_all, messages)
        self._counts.updates += 1
        return True

    def _may_write(self, found: Translation) -> bool:
        """Say whether an answer holds at this moment; what is handed over from now on is taken away behind it."""
        return found.valid and not self._stopped

    def _leave(self, iova: int, perm: Perm, why: str) -> None:
        """Leave a question without an answer, and tell of the first, the second, the fourth and so on."""
        self._asked.discard((iova, perm))
        count = self._counts.unanswered = self._counts.unanswered + 1
        if count & (count - 1) == 0:
            so_far = f", the {count}th that does" if count > 1 else ""
            self._tell(
                Notice(f"a miss of {self._device.name} at {iova:#x} for {perm!r} stays unanswered{so_far}: {why}", True)
            )

    # -- invalidations -----------------------------------------------------------

    async def _follow(self, events: Subscription) -> None:
        async for batch in events.batches():
            start = 0
            while start < len(batch):
                start = await self._take_away(events, batch, start)

    async def _take_away(self, events: Subscription, batch: Batch, start: int) -> int:
        """Take away what a batch says from one place on, and return the place to go on at."""
        ranges = [IovaRange(event.first, event.last) for event in batch[start:]]
        async with self._lane:
            done, refusal = await anyio.to_thread.run_sync(self._invalidate, ranges)
        self._counts.invalidations += done
        if refusal is None:
            return len(batch)
        event = batch[start + done]
        self._counts.failed += 1
        self._tell(Notice(f"{event} could not be done, and every sync fails until it is: {refusal}", trouble=True))
        events.fail(event, refusal)
        return start + done + 1

    def _invalidate(self, ranges: list[IovaRange]) -> tuple[int, KernelRefused | None]:
        """Take ranges away, in a thread; return how many were, and why no more."""
        for done, where in enumerate(ranges):
            try:
                self._device.write_all(invalidations(where))
            except KernelRefused as refusal:
                return done, refusal
        return len(ranges), None

    async def _stop(self) -> None:
        """Have the device use nothing any more; proven by the return of the kernel's write."""
        self._stopped = True
        async with self._lane:
            await anyio.to_thread.run_sync(self._device.write_all, invalidations(WHOLE))
