"""Who is told of what: the subscriptions, notifiers and observers of one space.

The tuples that publishing walks are made when somebody comes or goes, not when
something is published.
"""

from collections.abc import Callable
from functools import reduce
from typing import Final

from ..caps import Cap
from ..errors import CapabilityRefused, DemandRefused, SubscribeError
from ..events import Event
from ..feed import Feed
from .abc import DemandChanged
from .attachment import Attachment
from .logs import Lines
from .notifier import Call, Registration

Put = Callable[[Event], None]

REASONS: Final = {
    Cap.MAP: "it is a pull space and keeps no table; ask for UNMAP, and translate",
    Cap.UNMAP: "its producer publishes no UNMAP",
    Cap.DEVIOTLB_UNMAP: "its producer publishes no device invalidations",
}
"""Why a space does not deliver a kind."""


class Routes:
    """The audience of one space.

    Args:
        space: Name of the space.
        last: Last address of the space.
        offers: The kinds it can deliver.
        demand_changed: The producer's callback.
        lines: Where refusals that cannot be given to anybody are logged.
    """

    def __init__(self, space: str, last: int, offers: Cap, demand_changed: DemandChanged | None, lines: Lines) -> None:
        self.present: list[Attachment] = []
        self.lingering: list[Attachment] = []  # who is told nothing more, and has not let go
        self.demand = Cap(0)
        self.counted = False  # somebody has to let go of what is removed
        self.maps: tuple[Put, ...] = ()
        self.unmaps: tuple[Put, ...] = ()
        self.devices: tuple[Put, ...] = ()
        self.map_calls: tuple[Call, ...] = ()
        self.unmap_calls: tuple[Call, ...] = ()
        self.device_calls: tuple[Call, ...] = ()
        self._space = space
        self._whole = ((0, last),)
        self._offers = offers
        self._demand_changed = demand_changed
        self._lines = lines
        self._asking: list[Cap] = []  # of those who are being admitted
        self._notifiers: list[Registration] = []
        self._observers: list[Put] = []
        self._feeds: dict[tuple[Cap, tuple[tuple[int, int], ...]], Feed] = {}

    def add(self, attachment: Attachment) -> None:
        """Publish to a subscription from now on.

        Raises:
            CapabilityRefused: The space does not deliver what it asks for.
            DemandRefused: The producer refused.
        """
        try:
            self._admit(attachment.member.caps)
        except SubscribeError:
            self.narrow()  # others may have come or gone while the producer was asked
            raise
        except BaseException:  # an interrupt: the producer was told
            self._enter(attachment)
            raise
        self._enter(attachment)

    def part(self, attachment: Attachment) -> None:
        """Publish to it no longer; it still counts."""
        self._remove(attachment)
        self.lingering.append(attachment)
        self.remake()

    def forget(self, attachment: Attachment) -> None:
        """Publish to it no longer; it counts no longer."""
        self._remove(attachment)
        self.remake()

    def add_notifier(self, registration: Registration) -> None:
        """Register a notifier; raises as `add` does."""
        try:
            self._admit(registration.notifier.caps)
        except BaseException:
            self.narrow()  # an interrupted producer was told, and nobody came
            raise
        self._notifiers.append(registration)
        self.remake()

    def remove_notifier(self, registration: Registration) -> None:
        """Call it no more."""
        if registration in self._notifiers:
            self._notifiers.remove(registration)
            self.remake()
            self.narrow()

    def add_observer(self, put: Put) -> None:
        """Show an observer everything that is published."""
        self._observers.append(put)
        self.remake()

    def remove_observer(self, put: Put) -> None:
        """Show it nothing more."""
        if put in self._observers:
            self._observers.remove(put)
            self.remake()

    def counting(self) -> tuple[Attachment, ...]:
        """Return everybody a `sync` has to wait for."""
        return (*self.present, *self.lingering)

    def share(self, attachment: Attachment) -> None:
        """Feed a subscription together with those who have the same mask and ranges."""
        caps, ranges = attachment.member.caps, attachment.ranges
        attachment.member.mailbox.follow(self._feeds.setdefault((caps, ranges), Feed(ranges)))
        self.remake()

    def narrow(self) -> None:
        """Tell the producer of a smaller demand, which it cannot refuse; it may publish in answer."""
        old, self.demand = self.demand, self._wanted()
        if old == self.demand or self._demand_changed is None:
            return
        try:
            self._demand_changed(old, self.demand)
        except Exception as failure:  # noqa: BLE001 - there is nobody it could be raised to
            self._lines.warn("demand", self._space, f"its demand callback raised {failure!r} at {self.demand!r}")

    def remake(self) -> None:
        """Make the tuples anew: somebody came, went, or changed its way."""
        self.counted = bool(self.present or self.lingering)
        self._feeds = {key: feed for key, feed in self._feeds.items() if feed.followed}
        self.maps = self._puts(Cap.MAP)
        self.unmaps = self._puts(Cap.UNMAP)
        self.devices = self._puts(Cap.DEVIOTLB_UNMAP)
        self.map_calls = self._calls(Cap.MAP)
        self.unmap_calls = self._calls(Cap.UNMAP)
        self.device_calls = self._calls(Cap.DEVIOTLB_UNMAP)

    # -- inside ----------------------------------------------------------------

    def _remove(self, attachment: Attachment) -> None:
        if attachment in self.present:
            attachment.member.mailbox.unshare()
            self.present.remove(attachment)
        elif attachment in self.lingering:
            self.lingering.remove(attachment)

    def _wanted(self) -> Cap:
        masks = [attachment.member.caps for attachment in self.present]
        masks += [entry.notifier.caps for entry in self._notifiers]
        masks += self._asking
        return reduce(lambda wanted, mask: wanted | mask, masks, Cap(0))

    def _enter(self, attachment: Attachment) -> None:
        self.present.append(attachment)
        self.remake()

    def _admit(self, caps: Cap) -> None:
        for kind, reason in REASONS.items():
            if caps & kind & ~self._offers:
                raise CapabilityRefused(self._space, int(caps), int(self._offers), reason)
        self._asking.append(caps)  # it counts while the producer is asked, who may have others come or go
        try:
            self._ask()
        finally:
            self._asking.remove(caps)

    def _ask(self) -> None:
        """Tell the producer of a larger demand, which it may refuse."""
        old, wanted = self.demand, self._wanted()
        if wanted == old:
            return
        self.demand = wanted
        try:
            if self._demand_changed is not None:
                self._demand_changed(old, wanted)
        except Exception as refusal:
            self.demand = old
            raise DemandRefused(self._space, int(old), int(wanted), str(refusal)) from refusal

    def _puts(self, kind: Cap) -> tuple[Put, ...]:
        shared = [
            feed.put if ranges == self._whole else feed.offer
            for (caps, ranges), feed in self._feeds.items()
            if caps & kind
        ]
        alone = [
            attachment.member.mailbox.put if attachment.ranges == self._whole else attachment.offer
            for attachment in self.present
            if attachment.member.caps & kind and not attachment.member.mailbox.shared
        ]
        return (*shared, *alone, *self._observers)

    def _calls(self, kind: Cap) -> tuple[Call, ...]:
        return tuple(self._call(entry) for entry in self._notifiers if entry.notifier.caps & kind)

    def _call(self, entry: Registration) -> Call:
        notifier = entry.notifier
        whole = notifier.first == 0 and notifier.last >= self._whole[0][1]
        return entry, notifier.notify if whole else notifier.offer
