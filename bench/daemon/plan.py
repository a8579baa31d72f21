"""How much is measured: in full, and for a first look."""

from typing import Final

from msgspec import Struct


class Plan(Struct, frozen=True):
    """How much.

    Attributes:
        repetitions: How often everything is measured.
        seconds: About how long one measurement takes.
        paced: Events of one measurement of latency, at 500 a second.
        crowd: How many subscribers there are, of which a few want what is published, or all.
        crowd_events: Events published to them.
        spaces: How many spaces there are.
        space_events: Events published in all of them together.
        live: How many mappings there are.
        live_events: Events published beside them.
    """

    repetitions: int
    seconds: float
    paced: int
    crowd: tuple[int, ...]
    crowd_events: int
    spaces: tuple[int, ...]
    space_events: int
    live: tuple[int, ...]
    live_events: int


FULL: Final = Plan(
    repetitions=5,
    seconds=0.5,
    paced=400,
    crowd=(4, 16, 64, 256),
    crowd_events=100_000,
    spaces=(1, 10, 100, 1000),
    space_events=40_000,
    live=(1_000, 10_000, 100_000, 1_000_000),
    live_events=40_000,
)
"""Twenty minutes."""

QUICK: Final = Plan(
    repetitions=1,
    seconds=0.1,
    paced=50,
    crowd=(4, 64),
    crowd_events=4_000,
    spaces=(1, 50),
    space_events=4_000,
    live=(1_000, 50_000),
    live_events=8_000,
)
"""Two minutes, also on a busy machine."""
