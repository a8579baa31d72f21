"""The back-end side of vhost-user: QEMU connects, and its translations are a pull space of the bus.

* `device`: what serves the rings
* `offers`: what is offered to a front end, and what follows from what it takes
* `misses`, `rings`: what waits and what was said, without a socket
* `line`: a connection, and what works on it
* `answers`, `memory`, `serving`, `asking`: parts of what is done for a front end
* `handling`: what is done with each request, and `front_end`: one after another
* `bridge`: one front end after another
* `sink`: a device that takes what a guest transmits
"""

from .bridge import Statistics, VhostUserBackend
from .device import Call, Device, LiveRing, NoDevice

__all__ = ["Call", "Device", "LiveRing", "NoDevice", "Statistics", "VhostUserBackend"]
