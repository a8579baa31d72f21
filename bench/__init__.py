"""Measurements: iommubus beside other ways to tell many of one change.

* ``python -m bench.daemon``: many processes, the daemon beside the servers that people
  would otherwise take, and beside a bare hub.
* ``python -m bench.embedded``: one process, the bus beside other event buses.

From the top of the repository; ``--quick`` for a first look.  Nothing here is imported by
the package, and no test depends on a time.

Only ratios are worth comparing between runs: every subject is measured once in
each round, the ratio is taken inside the round, and the median of the rounds
is what is reported.
"""
