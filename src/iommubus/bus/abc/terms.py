"""What is agreed upon when a space is made, and when somebody subscribes."""

from collections.abc import Awaitable, Callable
from typing import Final, Literal

from ...caps import Cap, Perm
from ...mapping import Mapping

SYNC_TIMEOUT: Final = 5.0
"""Seconds a `sync` waits by default: well below the 20 s after which a Linux
guest, whose CPU stands still meanwhile, reports a soft lockup."""

Stops = Literal["lease", "exit"]
"""How a subscriber that left unclean is proven stopped.

``"lease"``: it is software that asks `Subscription.fenced` before each use, as
`Mirror` and `Iotlb` do.  ``"exit"``: it is hardware, or another process, that
keeps what it holds until its ``on_fence`` has returned or it was closed; to a
daemon, also until its process has ended, and the holder that it named.
"""

Straddling = Literal["refuse", "split"]
"""What an UNMAP does that cuts a mapping: it is refused, or the rest is mapped anew."""

Acknowledge = Literal["next", "manual"]
"""``"next"``: asking for the next event says that the one before is applied and
no longer used.  ``"manual"``: `Subscription.ack` says so."""

OnFence = Callable[[], Awaitable[object]]
DemandChanged = Callable[[Cap, Cap], object]

Translate = Callable[[int, Perm], Awaitable[Mapping | None]]
"""Answers a miss in a pull space: where an address leads, for an access; `None` if nowhere."""
