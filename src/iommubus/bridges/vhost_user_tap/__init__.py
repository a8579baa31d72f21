"""A tap between a front end and a back end of vhost-user: how to watch a pair without changing it.

* `cutting`: a stream cut into messages with their descriptors
* `seen`: what was passed on, on its way to the event loop
* `ways`, `carrying`: the thread that passes it on
* `reading`: what messages mean for the translations
* `showing`: those as a space of the bus
* `counting`, `recording`: what is counted and written down
* `watching`: all of that for one connection, and `ends`, `tap`: one connection after another
"""

from .counting import Statistics
from .recording import Recorder
from .tap import VhostUserTap

__all__ = ["Recorder", "Statistics", "VhostUserTap"]
