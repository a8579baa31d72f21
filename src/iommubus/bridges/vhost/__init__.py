"""Linux vhost: a device of this machine's kernel, whose IOTLB is filled by misses and emptied by UNMAPs.

* `device`: the descriptor, and what is agreed upon with the kernel
* `bridge`: the subscription that answers it

Source: Linux ``include/uapi/linux/vhost.h`` and, for what is refused and when a
write returns, ``drivers/vhost/vhost.c``.
"""

from .bridge import VhostBridge, VhostStatistics
from .device import VhostDevice

__all__ = ["VhostBridge", "VhostDevice", "VhostStatistics"]
