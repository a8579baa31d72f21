"""vfio-user, the client's role: a server is given what is mapped in a space, and gives it back.

* `terms`: what the two agree upon
* `calls`: commands that wait for their answers
* `access`: DMA_READ and DMA_WRITE
* `link`: one connection, and what the server may hold
* `applying`: how a hand-over reaches the server
* `bridge`: the bridge
"""

from .bridge import ClientStatistics as ClientStatistics, VfioUserClient as VfioUserClient
from .calls import WINDOW as WINDOW
from .link import STOP_TIMEOUT as STOP_TIMEOUT
from .terms import MAPS_LIMIT as MAPS_LIMIT
