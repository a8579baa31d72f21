"""A space that drives a vhost-user back end: DPDK, SPDK, or a device of one's own.

* `rings`: what a back end is told of its rings
* `agreement`: what it has to offer
* `counts`: what is counted
* `table`: which memories it has, and by which addresses; `lending`: how it gets them
* `asking`: the main channel; `stopping`: what proves that it has stopped
* `questions`: the back-end channel; `answering`: MISSes and UPDATEs
* `revoking`: UNMAPs and INVALIDATEs
* `session`: one connection; `frontend`: the bridge

Source: QEMU ``docs/interop/vhost-user.rst``.
"""

from .counts import FrontendStatistics as FrontendStatistics
from .frontend import VhostUserFrontend as VhostUserFrontend
from .rings import Ring as Ring
