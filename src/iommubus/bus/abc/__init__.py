"""What a bus is to those who use it, embedded or remote.

An emulator that is written against these classes moves from one to the other by
changing the line that makes the bus.  Docstrings here are the contract;
implementations inherit them.

Functions that cannot wait are plain; those that can are ``async`` and are
cancelled safely: a cancelled call has changed nothing, or says what it has.
"""

from .bus import EventBus as EventBus
from .consumer import (
    Batch as Batch,
    Observer as Observer,
    Subscription as Subscription,
    Translation as Translation,
    Use as Use,
)
from .producer import AddressSpace as AddressSpace, Endpoint as Endpoint
from .terms import (
    SYNC_TIMEOUT as SYNC_TIMEOUT,
    Acknowledge as Acknowledge,
    DemandChanged as DemandChanged,
    OnFence as OnFence,
    Stops as Stops,
    Straddling as Straddling,
    Translate as Translate,
)
