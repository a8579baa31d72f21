"""iommubus: an event bus for the changes of I/O address spaces.

The embedded API.  Read the package in this order:

* `errors`, `caps`, `ranges`, `events`: the words.
* `shape`, `rangeset`, `mapping`, `kinds`, `chunks`, `table`, `contract`, `staging`,
  `feed`, `mailbox`, `ledger`, `completion`: the machines, pure; `compiled` does the
  same as some of them, quicker; `abi` reads other people's bytes.
* `bus`: spaces, endpoints, subscriptions, observers, `sync`; `bus.abc` is the
  contract, and `bus.threads` is for producers in other threads.
* `consumers`: a shadower's `Mirror` and a cacher's `Iotlb`, with pins and views of
  what they hold.
* `client`: the bus of a daemon, with `connect`; loaded when that is asked for.
* `testing`: conformance suites for what is built on this; not loaded here.
* `demo`, `cli`: a real guest's events played through the bus.
"""

from typing import TYPE_CHECKING

from .bus.abc import AddressSpace, Batch, Endpoint, EventBus, Observer, Subscription, Translation, Use
from .bus.bus import Bus
from .bus.notifier import Notifier, Registration
from .bus.reports import MapFailure, Missing, Outcome, SyncReport
from .bus.threads import ThreadPublisher, ThreadSpace
from .caps import Cap, Perm
from .completion import How
from .consumers.iotlb import Iotlb
from .consumers.mirror import Mirror
from .consumers.pins import Pin
from .errors import (
    AccessDenied,
    Fenced,
    IommubusError,
    MappingError,
    MappingFailed,
    MemoryInUse,
    NoBacking,
    NotContiguous,
    NotifierFailed,
    NotMapped,
    PastMemory,
    PublisherClosed,
    StateError,
    SubscribeError,
    SyncFailed,
    TranslationFault,
    UnknownMemory,
)
from .events import DevIotlbUnmap, Event, Lost, Map, Memory, Observed, Unmap
from .ledger import OldPieces
from .mapping import Mapping
from .ranges import LAST, IovaRange

if TYPE_CHECKING:
    from .client import connect

__all__ = [
    "LAST",
    "AccessDenied",
    "AddressSpace",
    "Batch",
    "Bus",
    "Cap",
    "DevIotlbUnmap",
    "Endpoint",
    "Event",
    "EventBus",
    "Fenced",
    "How",
    "IommubusError",
    "Iotlb",
    "IovaRange",
    "Lost",
    "Map",
    "MapFailure",
    "Mapping",
    "MappingError",
    "MappingFailed",
    "Memory",
    "MemoryInUse",
    "Mirror",
    "Missing",
    "NoBacking",
    "NotContiguous",
    "NotMapped",
    "Notifier",
    "NotifierFailed",
    "Observed",
    "Observer",
    "OldPieces",
    "Outcome",
    "PastMemory",
    "Perm",
    "Pin",
    "PublisherClosed",
    "Registration",
    "StateError",
    "SubscribeError",
    "Subscription",
    "SyncFailed",
    "SyncReport",
    "ThreadPublisher",
    "ThreadSpace",
    "Translation",
    "TranslationFault",
    "UnknownMemory",
    "Unmap",
    "Use",
    "connect",
]


def __getattr__(name: str) -> object:
    """Load what needs sockets when it is first asked for."""
    if name != "connect":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .client import connect as made  # noqa: PLC0415

    globals()[name] = made
    return made
