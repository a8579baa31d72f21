"""What proves a subscriber stopped: a decision, which knows no clock and no process.

Source: law 8 of the design.
"""

from msgspec import Struct

from ...bus.abc import Stops


class Evidence(Struct, frozen=True):
    """What is known of a subscriber that was fenced, or left unclean, or whose connection is lost.

    Attributes:
        seen: Whether its process can be seen.
        ended: Whether that process has ended.
        inherited: Whether somebody went on with its connection after that: a
            child, who may use what is held under its lease.
        lost: Whether its connection is gone.
        lease_over: Whether the lease of its connection has run out since.
        fenced: Whether its client has said that nothing new is used.
        uses: How many translations were in use when it last said so.
        kept: Whether another process that keeps what it was given has not ended.
    """

    seen: bool = False
    ended: bool = False
    inherited: bool = False
    lost: bool = False
    lease_over: bool = False
    fenced: bool = False
    uses: int = 0
    kept: bool = False


def verdict(stops: Stops, known: Evidence) -> str:
    """Return what proves a subscriber stopped, in words; "" if nothing does."""
    if stops == "exit":
        return "its process has ended" if known.ended and not known.kept else ""
    if known.ended and known.lost and not known.inherited:
        return "its process has ended"
    if known.fenced and not known.uses:
        return "it uses nothing any more"
    if known.lease_over and not (known.uses and known.seen):
        return "its lease has run out"
    return ""
