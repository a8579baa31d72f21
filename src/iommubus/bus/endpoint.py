"""Endpoints: what a device sees, and what subscribers name.

An endpoint leads to one space, or to none.  A space comes with an endpoint of its
own name; a producer may make others and move them.  Subscribers may name an
endpoint before it exists: they see nothing mapped, and follow when it appears.
"""

from collections.abc import Callable, Iterable
from operator import index

from anyio.lowlevel import checkpoint

from ..errors import EndpointClosed, MustShare, OutsideRanges
from ..ranges import IovaRange
from .abc import AddressSpace, Endpoint
from .attachment import Ranges, clip
from .member import Member
from .reports import EndpointStatistics
from .space import LocalSpace


class LocalEndpoint(Endpoint):
    """An endpoint in the process of the bus.

    Args:
        name: Its name.
        check_thread: Raises if the caller is not the thread of the bus.
        owns: Says whether a space is one of the bus.
        on_idle: Called when it does not exist and nobody waits for it any more.
    """

    def __init__(
        self,
        name: str,
        check_thread: Callable[[], None],
        owns: Callable[[LocalSpace], bool],
        on_idle: Callable[["LocalEndpoint"], None],
    ) -> None:
        self.name = name
        self.made = False
        self.place: LocalSpace | None = None
        self.members: list[tuple[Member, tuple[LocalEndpoint, ...]]] = []
        self._check_thread = check_thread
        self._owns = owns
        self._on_idle = on_idle

    @property
    def space(self) -> LocalSpace | None:
        return self.place

    def attach(self, space: AddressSpace) -> None:
        self._check_made()
        if not isinstance(space, LocalSpace) or not self._owns(space):
            raise TypeError(f"an endpoint of this bus is attached to a space of this bus, got {space!r}")
        space.check_open()
        space.abandon_lost()
        for member, endpoints in self.members:
            self._check_shared(member, endpoints, space)
        self._move(space)

    def displace(self, space: LocalSpace) -> None:
        """Move it to a space; a subscriber that needs it elsewhere is fenced, and does not keep it there.

        Raises:
            EndpointClosed, SpaceClosed: It is closed, or the space is.
        """
        self._check_made()
        space.check_open()
        for member, endpoints in self.members.copy():
            try:
                self._check_shared(member, endpoints, space)
            except MustShare as contradiction:
                member.abandon(str(contradiction))
        self._move(space)

    def detach(self) -> None:
        self._check_made()
        self._move(None)

    async def close(self) -> None:
        self._check_thread()
        if self.made:
            self.shut()
        await checkpoint()

    def shut(self) -> None:
        """Close without waiting."""
        self.made = False
        self._move(None)
        self._end()

    def finish(self) -> None:
        """Close together with the space that it came with: its subscribers stay until they have let go."""
        self.made = False
        self.place = None
        self._end()

    def __repr__(self) -> str:
        where = "not made yet" if not self.made else "detached" if self.place is None else f"in {self.place.name}"
        return f"<endpoint {self.name}, {where}, {len(self.members)} subscriptions>"

    def statistics(self) -> EndpointStatistics:
        """Return where it is, and who names it."""
        space = None if self.place is None else self.place.name
        return EndpointStatistics(self.made, space, tuple(member.name for member, _ in self.members))

    # -- for the bus -------------------------------------------------------------

    def come(self, space: LocalSpace) -> None:
        """Come into being together with a space of the same name.

        Nobody is asked: who waits for a name has no say about what is made.
        """
        self.made = True
        self._move(space)

    def remove(self, member: Member) -> None:
        """Move it about no longer."""
        self.members = [entry for entry in self.members if entry[0] is not member]
        self.look()

    def look(self) -> None:
        """Say if there is no reason left to keep it."""
        if not self.made and not self.members:
            self._on_idle(self)

    # -- inside ------------------------------------------------------------------

    def _check_made(self) -> None:
        self._check_thread()
        if not self.made:
            raise EndpointClosed(self.name)

    def _check_shared(self, member: Member, endpoints: tuple["LocalEndpoint", ...], space: LocalSpace) -> None:
        for other in endpoints:
            if other is not self and other.place is not None and other.place is not space:
                raise MustShare(member.name, self.name, space.name, other.name, other.place.name)

    def _move(self, space: LocalSpace | None) -> None:
        """Have the subscribers follow; the producers hear of the demand once all have moved."""
        if space is self.place:
            return
        left = self.place
        self.place = space
        interrupts: list[BaseException] = []
        for member, endpoints in self.members.copy():
            try:
                follow(member, endpoints)
            except BaseException as interrupt:  # noqa: BLE001 - raised once everybody has moved
                interrupts.append(interrupt)
        if left is not None:
            left.narrow()
        if interrupts:
            raise interrupts[0]

    def _end(self) -> None:
        for member, endpoints in self.members.copy():
            if not any(endpoint.made for endpoint in endpoints):
                member.end()
                for endpoint in endpoints:
                    endpoint.remove(member)
        self.look()


def follow(member: Member, endpoints: tuple[LocalEndpoint, ...]) -> None:
    """Move a subscription to where all its endpoints are, also if they are moved on meanwhile."""
    while member.live and member.place is not common_space(endpoints):
        member.move(common_space(endpoints))


def common_space(endpoints: Iterable[LocalEndpoint]) -> LocalSpace | None:
    """Return the space that all of them are in; `None` if one is elsewhere, or nowhere."""
    places = {endpoint.place for endpoint in endpoints}
    return places.pop() if len(places) == 1 else None


def check_together(member: Member, endpoints: tuple[LocalEndpoint, ...]) -> None:
    """Check that endpoints of one subscription are not in different spaces.

    Raises:
        MustShare: They are.
    """
    placed = [(endpoint, endpoint.place) for endpoint in endpoints if endpoint.place is not None]
    for endpoint, space in placed[1:]:
        first, first_space = placed[0]
        if space is not first_space:
            raise MustShare(member.name, endpoint.name, space.name, first.name, first_space.name)


def join_ranges(ranges: Iterable[tuple[int, int]], endpoint: str) -> Ranges:
    """Return ranges in order, joined where they touch.

    Raises:
        InvertedRange, RangeWraps: A range is none.
        OutsideRanges: There are none.
        TypeError: An edge is no integer.
    """
    joined: list[tuple[int, int]] = []
    for wish in sorted(IovaRange(index(first), index(last)) for first, last in ranges):
        if joined and wish.first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], wish.last))
        else:
            joined.append((wish.first, wish.last))
    if not joined:
        raise OutsideRanges(endpoint, (), "there are none")
    return tuple(joined)


def check_inside(wanted: Ranges, space: LocalSpace) -> None:
    """Check that some of the ranges lie in a space.

    Raises:
        OutsideRanges: None does.
    """
    if not clip(wanted, space.shape.last):
        raise OutsideRanges(space.name, wanted, f"its last address is {space.shape.last:#x}")
