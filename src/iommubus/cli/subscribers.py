"""``iommubus subscribers``: who subscribes, and how far behind each one is."""

from typing import Annotated, Any, Final

import typer

from ..wire.messages.queries import ListSubscribers, SubscriberInfo
from . import words
from .options import AddressOption, IdentityOption, JsonOption
from .printing import Column, print_document, print_table
from .running import run
from .talking import ask, where

COLUMNS: Final = (
    Column("subscriber", style="bold"),
    Column("client"),
    Column("space"),
    Column("endpoints"),
    Column("kinds", style="cyan", whole=True),
    Column("ranges"),
    Column("lag", number=True),
    Column("acked", number=True),
    Column("of", number=True),
    Column("stops"),
    Column("lease left", number=True),
    Column("state"),
)


def subscribers(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN...", help="Names of the spaces that they see, or patterns with *, ? and []."),
    ] = None,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the subscribers: what each asked for, how far behind it is, what is left of its lease.

    Acked is the number of the last hand-over that a subscriber acknowledged, of those it was given.
    """

    async def work() -> list[Any]:
        named = list(patterns or ())
        return await ask(where(address, identity), "subscribers", lambda request: ListSubscribers(request, named))

    found: list[SubscriberInfo] = [one for part in run("subscribers", work) for one in part.subscribers]
    if as_json:
        print_document([_described(one) for one in found])
    else:
        print_table(COLUMNS, [_row(one) for one in found])


def _state(one: SubscriberInfo) -> str:
    if one.fenced:
        return f"fenced: {one.fenced}"
    return "current" if one.counters.current else "reads its first replay"


def _row(one: SubscriberInfo) -> list[str]:
    return [
        one.name,
        one.client or "(no name)",
        one.space or "none",
        " ".join(one.endpoints),
        ",".join(words.kind_names(one.caps)),
        words.ranges_text((each.first, each.last) for each in one.ranges),
        f"{one.counters.lag:,}",
        f"{one.counters.acked:,}",
        f"{one.counters.handed:,}",
        one.stops,
        "-" if one.lease_us is None else words.seconds_text(one.lease_us / 1e6),
        _state(one),
    ]


def _described(one: SubscriberInfo) -> dict[str, Any]:
    counters = one.counters
    return {
        "subscriber": one.name,
        "subscription": f"{one.subscription:#x}",
        "client": one.client,
        "space": one.space or None,
        "endpoints": list(one.endpoints),
        "kinds": words.kind_names(one.caps),
        "ranges": [{"first": f"{each.first:#x}", "last": f"{each.last:#x}"} for each in one.ranges],
        "stops": one.stops,
        "lease_left_seconds": None if one.lease_us is None else one.lease_us / 1e6,
        "fenced": one.fenced or None,
        "current": counters.current,
        "lag": counters.lag,
        "acked": counters.acked,
        "handed": counters.handed,
        "delivered": {"unmap": counters.unmaps, "map": counters.maps, "device": counters.deviotlb_unmaps},
        "conflations": counters.conflations,
        "pinned": counters.pinned,
    }
