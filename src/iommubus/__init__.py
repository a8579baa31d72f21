"""iommubus: an event bus for the changes of I/O address spaces.

The embedded API.  Read on in this order:

* `errors`, `caps`, `ranges`, `events`: the words.
* `rangeset`, `table`, `shape`, `mailbox`, `ledger`, `completion`: the machines,
  pure; `abi` reads other people's bytes.
* `bus`: spaces, subscriptions, observers, `sync`; `bus.abc` is the contract.
* `consumers`: a shadower's `Mirror` and a cacher's `Iotlb`.
* `demo`, `cli`: a real guest's events played through the bus.
"""

from .bus.abc import (
    AddressSpace as AddressSpace,
    Batch as Batch,
    EventBus as EventBus,
    Observer as Observer,
    Subscription as Subscription,
    Translation as Translation,
)
from .bus.bus import Bus as Bus
from .bus.notifier import Notifier as Notifier
from .bus.reports import (
    MapFailure as MapFailure,
    Missing as Missing,
    Outcome as Outcome,
    SyncReport as SyncReport,
)
from .caps import Cap as Cap, Perm as Perm
from .completion import How as How
from .consumers.iotlb import Iotlb as Iotlb
from .consumers.mirror import Mirror as Mirror
from .errors import IommubusError as IommubusError
from .events import (
    DevIotlbUnmap as DevIotlbUnmap,
    Event as Event,
    Lost as Lost,
    Map as Map,
    Observed as Observed,
    Unmap as Unmap,
)
from .ranges import LAST as LAST, IovaRange as IovaRange
from .table import Mapping as Mapping
