"""Keeping a connection: who lives longer than one is told when it is there, and when it is lost."""

from enum import IntEnum

from .channel import Channel, Participant


class Rank(IntEnum):
    """In which order participants are told."""

    MEMORIES = 0
    LINKS = 1
    ENDPOINTS = 2
    SEATS = 3


class Keeper:
    """Keeps a connection to the daemon.

    Attributes:
        channel: The connection; `None` while there is none.
        handlers: What takes what the daemon says by itself, by type of message; for every connection.
    """

    def __init__(self) -> None:
        self.channel: Channel | None = None

    def join(self, rank: Rank, participant: Participant) -> None:
        """Tell a participant from now on; at once if there is a connection."""

    def part(self, participant: Participant) -> None:
        """Tell it no more."""
