"""iommubus: an event bus for the changes of I/O address spaces.

The embedded API.  Read the package in this order:

* `errors`, `caps`, `ranges`, `events`: the words.
* `shape`, `rangeset`, `table`, `staging`, `mailbox`, `ledger`, `completion`: the
  machines, pure; `abi` reads other people's bytes.
* `bus`: spaces, subscriptions, observers, `sync`; `bus.abc` is the contract, and
  `bus.threads` is for producers in other threads.
* `consumers`: a shadower's `Mirror` and a cacher's `Iotlb`.
* `demo`, `cli`: a real guest's events played through the bus.
"""

from .bus.abc import AddressSpace, Batch, EventBus, Observer, Subscription, Translation
from .bus.bus import Bus
from .bus.notifier import Notifier, Registration
from .bus.reports import MapFailure, Missing, Outcome, SyncReport
from .bus.threads import ThreadPublisher, ThreadSpace
from .caps import Cap, Perm
from .completion import How
from .consumers.iotlb import Iotlb
from .consumers.mirror import Mirror
from .errors import (
    AccessDenied,
    Fenced,
    IommubusError,
    MappingError,
    MappingFailed,
    NotifierFailed,
    NotMapped,
    PublisherClosed,
    StateError,
    SubscribeError,
    SyncFailed,
    TranslationFault,
)
from .events import DevIotlbUnmap, Event, Lost, Map, Observed, Unmap
from .ledger import OldPieces
from .ranges import LAST, IovaRange
from .table import Mapping

__all__ = [
    "LAST",
    "AccessDenied",
    "AddressSpace",
    "Batch",
    "Bus",
    "Cap",
    "DevIotlbUnmap",
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
    "Mirror",
    "Missing",
    "NotMapped",
    "Notifier",
    "NotifierFailed",
    "Observed",
    "Observer",
    "OldPieces",
    "Outcome",
    "Perm",
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
    "Unmap",
]
