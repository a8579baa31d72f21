"""Notifiers: callbacks that run inside `map` and `unmap`.

They are the producer's own code, in its own thread and call: QEMU's
``IOMMUNotifier``.  One that raises stops nobody else; the event is published and
the producer gets all the exceptions as a group, or an interrupt as it is.  One
that publishes itself is served after the event that it was told of, so that
everybody sees the same order.
"""

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from msgspec import Struct

from ..caps import Cap, check_mask
from ..errors import NotifierFailed
from ..events import Event, crop
from ..ranges import LAST, IovaRange


class Notifier(Struct, frozen=True, eq=False):
    """A callback for the kinds and the range it names.

    Attributes:
        notify: Called with each event, cropped to the range.
        caps: The kinds it wants.
        first: First address it wants.
        last: Last address it wants.

    Raises:
        EmptyMask, UnknownCapability, MapAlone: ``caps`` cannot be had.
        InvertedRange, RangeWraps: ``first`` and ``last`` are no range.

    Source: QEMU ``IOMMUNotifier`` and ``iommu_notifier_init``.
    """

    notify: Callable[[Event], object]
    caps: Cap
    first: int = 0
    last: int = LAST

    def __post_init__(self) -> None:
        check_mask(self.caps)
        IovaRange(self.first, self.last)

    def offer(self, event: Event) -> None:
        """Call back with the part of the event that lies in the range."""
        part = crop(event, self.first, self.last)
        if part is not None:
            self.notify(part)


class Registration:
    """A registered notifier; close it, or use it as a context manager."""

    def __init__(self, notifier: Notifier, close: Callable[["Registration"], None]) -> None:
        self.notifier = notifier
        self.live = True
        self._close = close

    def close(self) -> None:
        """Call the notifier no more.  May be called from inside it, or another.

        Raises:
            WrongThread: The bus belongs to another thread; the notifier goes on.
        """
        self._close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Call = tuple[Registration, Callable[[Event], object]]
"""A notifier's callback, or its `Notifier.offer` where events must be cropped."""


class Notice:
    """Tells notifiers of events in order, even of those they cause."""

    __slots__ = ("_backlog", "_busy")

    def __init__(self) -> None:
        self._backlog: deque[tuple[Event, Sequence[Call]]] = deque()
        self._busy = False

    def tell(self, event: Event, calls: Sequence[Call]) -> None:
        """Run every callback; what one publishes is told of afterwards.

        Raises:
            NotifierFailed: Some raised; all have run.
        """
        if self._busy or self._backlog:
            self.tell_all(((event, calls),))
        else:
            self._work_off(event, calls)

    def tell_all(self, told: Sequence[tuple[Event, Sequence[Call]]]) -> None:
        """Tell of several events; raises as `tell` does."""
        self._backlog.extend(told)
        if self._backlog and not self._busy:
            self._work_off(*self._backlog.popleft())

    def _work_off(self, event: Event, calls: Sequence[Call]) -> None:
        """Run the callbacks for an event, and then for all that wait behind it."""
        self._busy = True
        failures: list[Exception] = []
        interrupts: list[BaseException] = []
        try:
            run(event, calls, failures, interrupts)
            while self._backlog:
                run(*self._backlog.popleft(), failures, interrupts)
        finally:
            self._busy = False
        if interrupts:
            raise interrupts[0]
        if failures:
            raise NotifierFailed(f"{len(failures)} notifiers raised", failures)


def run(event: Event, calls: Sequence[Call], failures: list[Exception], interrupts: list[BaseException]) -> None:
    """Run callbacks, and collect what they raise."""
    for registration, call in calls:
        if not registration.live:
            continue
        try:
            call(event)
        except Exception as failure:  # noqa: BLE001 - handed to the producer; trying costs nothing
            failures.append(failure)
        except BaseException as interrupt:  # noqa: BLE001 - raised once everybody was told
            interrupts.append(interrupt)
