"""Publishing: the changes of one space's table, and their way to the audience.

Plain code in the caller's stack: check, change the table, number the event, put
it into the mailboxes, run the notifiers.  The table has changed before anybody is
told.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import get_ident
from typing import Literal

from msgspec import Struct

from ..caps import Cap, Perm
from ..errors import NotOffered, SpaceClosed, WrongThread
from ..events import DevIotlbUnmap, Event, Map, Memory, Unmap
from ..ledger import TRIM_EVERY
from ..mapping import PERMS, Mapping
from ..plain import Noted, Plain
from ..ranges import IovaRange
from ..shape import Shape
from ..staging import Staging
from ..table import Table
from .abc import AddressSpace, DemandChanged, Straddling, Translate
from .buried import Buried
from .logs import Lines
from .memory import Memories
from .notifier import Call, Notice, Notifier, Registration
from .questions import Questions
from .removed import Removed
from .routes import Routes


class Making(Struct, frozen=True):
    """What a space is made of, checked.

    Attributes:
        name: Its name.
        shape: The addresses it accepts.
        offers: The kinds it can deliver.
        straddle: What an UNMAP does that cuts a mapping.
        demand_changed: The producer's callback.
        translate: Its handler for misses, in a pull space.
        answer_timeout: Seconds that the handler has.
    """

    name: str
    shape: Shape
    offers: Cap
    straddle: Straddling
    demand_changed: DemandChanged | None
    translate: Translate | None
    answer_timeout: float


class Surroundings(Struct, frozen=True):
    """What all spaces of a bus share.

    Attributes:
        memories: What mappings may lead into.
        lines: Where they log.
        buried: The subscriptions that are to be abandoned.
    """

    memories: Memories
    lines: Lines
    buried: Buried


class Publisher(AddressSpace):
    """The half of a space that publishes.

    Args:
        making: What it is made of.
        around: What it shares with other spaces.
    """

    def __init__(self, making: Making, around: Surroundings) -> None:
        name, shape = making.name, making.shape
        self.name = name
        self.offers = making.offers
        self.shape = shape
        self.seq = 0
        self.pull = not making.offers & Cap.MAP
        self.routes = Routes(name, shape.last, making.offers, making.demand_changed, around.lines)
        self.questions = Questions(name, shape, making.translate, making.answer_timeout, around.lines)
        self._table = Table()
        self._removed = Removed(None if self.pull else self._table)
        self._notice = Notice()
        self._split = making.straddle == "split"
        self.surroundings = around
        self._memories = around.memories
        self._lines = around.lines
        self._buried = around.buried
        self._to_abandon = around.buried.members
        self._owner = get_ident()
        self._open_in = self._owner  # the thread that may publish; 0 once closed
        self._unmapped = 0
        self._invalidated = 0
        # What is plain is made by it, and everything else goes the way through the checks.
        self._plain = None if self.pull else Plain(name, self._table, shape, split=self._split)

    # -- publishing --------------------------------------------------------------

    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        if get_ident() != self._open_in:
            self.check_open()
        plain, seq = self._plain, self.seq + 1
        event = plain.map(iova, size, target, perm, seq) if plain is not None and memory is None else None
        if event is None:
            event, seq = self._map_checked(iova, size, target, perm, memory), self.seq + 1
        if not event:
            return
        self.seq = seq
        routes = self.routes
        for put in routes.maps:
            put(event)
        if routes.map_calls:
            self._notice.tell(event, routes.map_calls)
        if self._to_abandon:
            self._buried.abandon()

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        if get_ident() != self._open_in:
            self.check_open()
        plain, seq = self._plain, self.seq + 1
        made = plain.unmap(iova, size, seq) if plain is not None else None
        if not made:
            return self._unmap_staged(iova, size) if made is None else ()
        event, removed = made
        self.seq = seq
        self._unmapped += 1
        routes = self.routes
        if routes.counted:
            fresh = self._removed.fresh
            if len(fresh) >= TRIM_EVERY:
                self._trim()  # before: nobody was told of this one yet, and so nobody seems to use it
            fresh.append((seq, removed))
        for put in routes.unmaps:
            put(event)
        if routes.unmap_calls:
            self._notice.tell(event, routes.unmap_calls)
        if self._to_abandon:
            self._buried.abandon()
        return removed

    def unmap_all(self) -> Sequence[Mapping]:
        return self.unmap(0, self.shape.last + 1)

    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        self._check_map(iova, size, target, perm, memory)
        wanted = Mapping(iova, iova + size - 1, target, PERMS[perm], memory)
        if self._table.lookup(iova) != wanted:
            self.apply((IovaRange(iova, iova + size - 1), wanted))

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        self._check_thread()
        made = tuple(changes)  # first: an iterable may publish itself, or close the space
        self.check_open()
        self._change(made)

    def repeat(
        self, events: Iterator[Event], limit: int, check_memory: Callable[[Memory], None]
    ) -> tuple[int, Event | None]:
        """Make events of another table of this space happen, as long as they are plain.

        Args:
            events: What is to happen; all that is returned is taken from it.
            limit: Most mappings that there may be.
            check_memory: Raises if a mapping must not lead into a memory.

        Returns:
            How many happened, and the first that did not: it changed nothing, and is
            to be made by `map`, `unmap` or `invalidate_device`, or refused.
        """
        self.check_open()
        if self._plain is None or self.routes.called:  # a notifier is told of each before the next one happens
            return 0, next(events, None)

        def check(memory: Memory, target: int, size: int) -> None:
            check_memory(memory)
            self._memories.check(memory, target, size)

        made: list[Event] = []
        removed: Noted = []
        try:
            return self._plain.repeat(events, self.seq, limit - len(self._table), check, made, removed)
        finally:
            self._publish(made, removed)

    def invalidate_device(self, iova: int, size: int) -> None:
        self._check_range(iova, size)
        if not self.offers & Cap.DEVIOTLB_UNMAP:
            raise NotOffered("DEVIOTLB_UNMAP")
        last = iova + size - 1
        if self._table.walk(iova, last, 1):
            self._lines.warn("mapped", self.name, f"device TLB invalidated at {iova:#x}, which is still mapped")
        self._publish([DevIotlbUnmap(self.name, self.seq + 1, iova, last)], [])

    def register(self, notifier: Notifier) -> Registration:
        """Have a notifier called inside every later change; embedded only.

        One that asks for MAP is called with every present mapping first.

        Raises:
            CapabilityRefused, DemandRefused: As for a subscription.
            NotifierFailed: It raised at a present mapping; it is not registered.

        Source: QEMU ``memory_region_register_iommu_notifier`` and
        ``memory_region_iommu_replay``, in one step.
        """
        self.check_open()
        registration = Registration(notifier, self._unregister)
        self.routes.add_notifier(registration)
        try:
            if notifier.caps & Cap.MAP:
                self._replay(registration)
        except BaseException:
            registration.close()
            raise
        return registration

    @property
    def mappings(self) -> int:
        """How many are live."""
        return len(self._table)

    # -- inside: checks ------------------------------------------------------------

    def _check_thread(self) -> None:
        if get_ident() != self._owner:
            raise WrongThread(self._owner, get_ident())

    def check_open(self) -> None:
        self._check_thread()
        if not self._open_in:
            raise SpaceClosed(self.name)

    def _check_range(self, iova: int, size: int) -> None:
        self.check_open()
        self.shape.check_range(iova, size)

    def _check_map(self, iova: int, size: int, target: int, perm: int, memory: Memory | None) -> None:
        self.check_open()
        self.shape.check_map(iova, size, target, perm)
        if self.pull:
            raise NotOffered("MAP")
        if memory is not None:
            self._memories.check(memory, target, size)

    # -- inside: staging and publishing ----------------------------------------------

    def _change(self, changes: Sequence[Mapping | IovaRange]) -> Noted:
        """Make changes in the table, all or none, and publish them; return what they removed."""
        table = None if self.pull else self._table
        check_memory = self._memories.check
        staging = Staging(self.name, self.seq, table, self.shape, split=self._split, check_memory=check_memory)
        try:
            staging.add_all(changes, self._plain)
        except BaseException:
            staging.undo()
            raise
        self._publish(staging.events, staging.removed)
        return staging.removed

    def _map_checked(
        self, iova: int, size: int, target: int, perm: Perm, memory: Memory | None
    ) -> Map | Literal[False]:
        """Map what is not plain; `False` if that very mapping was there; or say what is wrong with it."""
        self._check_map(iova, size, target, perm, memory)
        last, allowed = iova + size - 1, PERMS[perm]
        return self._table.insert(iova, last, target, allowed, memory) and Map(
            self.name, self.seq + 1, iova, last, target, allowed, memory
        )

    def _unmap_staged(self, iova: int, size: int) -> Sequence[Mapping]:
        """Unmap where that may be no event, or several; or say what is wrong with it."""
        self._check_range(iova, size)
        last = iova + size - 1
        removed = self._change((IovaRange(iova, last),))
        return [piece.clip(iova, last) for _, pieces in removed for piece in pieces]

    def _publish(self, events: list[Event], removed: Noted) -> None:
        """Put events that are in the table into the mailboxes, then run the notifiers.

        In that order for all of them: a notifier may publish too, and nobody
        may see what it says before what it was told.

        Args:
            events: MAPs and UNMAPs, or one device invalidation.
            removed: For each UNMAP of them, its number and what it removed from the table; nothing in a pull space.
        """
        if events:
            self.seq = events[-1].seq
            self._note(events, removed)
            self.routes.spread(events)
            if sum([len(pieces) for _, pieces in removed]) >= TRIM_EVERY:
                self._trim()
        try:
            if self.routes.called:
                self._notice.tell_all([(event, self._calls_for(event)) for event in events])
        finally:
            self._buried.abandon()

    def _note(self, events: list[Event], removed: Noted) -> None:
        """Remember what events took away."""
        ranges = [] if removed else [event for event in events if type(event) is not Map]
        if ranges:
            self.questions.outdate()
        if type(events[0]) is DevIotlbUnmap:
            self._invalidated += 1
        else:
            self._unmapped += len(removed) + len(ranges)
        if self.routes.counted and (removed or ranges):
            if self._removed.full:
                self._trim()  # before: nobody was told of these yet, and so nobody seems to use them
            self._removed.fresh += removed
            self._removed.remember(ranges)

    def _calls_for(self, event: Event) -> Sequence[Call]:
        if isinstance(event, Map):
            return self.routes.map_calls
        if isinstance(event, Unmap):
            return self.routes.unmap_calls
        return self.routes.device_calls

    def _unregister(self, registration: Registration) -> None:
        self._check_thread()
        registration.live = False
        self.routes.remove_notifier(registration)

    def _replay(self, registration: Registration) -> None:
        """Call a notifier with every mapping of its range that is present now."""
        notifier = registration.notifier
        calls = ((registration, notifier.offer),)
        present = self._table.walk(notifier.first, notifier.last, len(self._table))
        self._notice.tell_all([(mapping.event(self.name, self.seq), calls) for mapping in present])

    # -- inside: the audience ------------------------------------------------------

    def _trim(self) -> None:
        """Forget what everybody has let go of."""
        self._removed.trim(self.routes.covered(self.seq))
