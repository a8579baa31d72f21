"""Many processes: the daemon beside the servers that people would otherwise take.

A publisher's process, a server, and a process for each subscriber; Unix sockets or
loopback.  Read it in this order:

* `events`, `check`: what is published, and that none was lost.
* `subject`, `servers`: what every subject is, and how its server is started.
* `peer`: what the publishers and subscribers of all peers have in common; `hub` and
  `peers` are what they have not; `bus` is iommubus.
* `words`, `worker`, `fleet`: the processes, and how they are told what to do.
* `cases`, `growth`, `measure`: what is measured; `rows`, `text`, `plots`: what comes of it.
"""
