"""vfio-user, the server's role: a client's DMA_MAP and DMA_UNMAP are MAP and UNMAP of a space.

* `terms`: what the two agree upon
* `regions`: what the client has mapped, and the error numbers
* `answers`: answers by number, never too early
* `device`: commands that are somebody else's
* `session`: one client
* `bridge`: the bridge
"""

from .bridge import ServerStatistics as ServerStatistics, VfioUserServer as VfioUserServer
from .device import Done as Done, Handler as Handler
from .regions import ERRNOS as ERRNOS
from .terms import GRANULE as GRANULE, MAPS_LIMIT as MAPS_LIMIT
