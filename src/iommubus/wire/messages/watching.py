"""Observing many spaces: a stream that delays nobody."""

from typing import Annotated

from msgspec import Meta, Struct

from .rows import EVENT_LIMIT, WatchedRun
from .values import U64, Patterns


class Observe(Struct, frozen=True, array_like=True, tag=100):
    """Begin to observe; `Observing` answers.

    Attributes:
        request: Number of the request.
        patterns: Names of spaces, or patterns; all there are if none is given.
        kinds: The kinds of event that are sent: UNMAP=1, MAP=2, DEVIOTLB_UNMAP=4; what is left out is not lost.
        capacity: Most events that wait in the daemon; 0 for its default.
    """

    request: U64
    patterns: Patterns = []
    kinds: U64 = 7
    capacity: U64 = 0


class Observing(Struct, frozen=True, array_like=True, tag=101, gc=False):
    """Answer `Observe`.

    Attributes:
        request: Its number.
        observer: Number of the observer, which no other ever has.
    """

    request: U64
    observer: U64


class Observed(Struct, frozen=True, array_like=True, tag=102):
    """Tell an observer what happened, and what it was too slow for.

    Attributes:
        observer: Number of the observer.
        runs: The events, in runs of one space.
        end: Whether nothing comes behind it.
    """

    observer: U64
    runs: Annotated[list[WatchedRun], Meta(max_length=EVENT_LIMIT)]
    end: bool = False


class Unobserve(Struct, frozen=True, array_like=True, tag=103, gc=False):
    """End an observer; `Done` answers.

    Attributes:
        request: Number of the request.
        observer: Number of the observer.
    """

    request: U64
    observer: U64
