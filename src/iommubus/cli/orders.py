"""What a producer by hand says, one order a line.

``#`` begins a comment.  Numbers are decimal, or hexadecimal with ``0x``; PERM is
``r``, ``w`` or ``rw``.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from ..bus.abc import AddressSpace
from ..bus.reports import SyncReport
from ..errors import span
from ..mapping import Mapping as Piece
from . import words

Read = Callable[[str], Any]


class Outcome(Struct, frozen=True):
    """What came of an order.

    Attributes:
        text: For people.
        told: The same for programs.
    """

    text: str
    told: Mapping[str, Any]


class BadOrder(ValueError):
    """A line that is no order."""


class Order(Struct, frozen=True):
    """What can be ordered.

    Attributes:
        reads: What reads each word behind its name.
        needed: How many there have to be.
        usage: How it is written.
        about: What it does.
        act: Does it.
    """

    usage: str
    about: str
    reads: tuple[Read, ...]
    needed: int
    act: Callable[..., Outcome | Awaitable[Outcome]]


def parse(line: str) -> tuple[str, Order, list[Any]] | None:
    """Return the order of a line, and what it is about; `None` if the line has none.

    Raises:
        BadOrder: It has something else.
    """
    name, *texts = line.partition("#")[0].split() or [""]
    if not name:
        return None
    if name not in ORDERS:
        raise BadOrder(f"there is no order {name!r}; there are {', '.join(ORDERS)}")
    order = ORDERS[name]
    if not order.needed <= len(texts) <= len(order.reads):
        raise BadOrder(f"an order is {order.usage!r}")
    try:
        return name, order, [read(text) for read, text in zip(order.reads, texts, strict=False)]
    except ValueError as wrong:
        raise BadOrder(f"{wrong}, in {order.usage!r}") from wrong


async def carry_out(order: Order, space: AddressSpace, values: list[Any]) -> Outcome:
    """Do what was ordered.

    Raises:
        IommubusError: It cannot be done; why.
    """
    outcome = order.act(space, *values)
    return outcome if isinstance(outcome, Outcome) else await outcome


def usage() -> list[str]:
    """Return how each order is written, and what it does."""
    width = max(len(order.usage) for order in ORDERS.values())
    return [f"{order.usage.ljust(width)}  {order.about}" for order in ORDERS.values()]


# -- inside ------------------------------------------------------------------


def _map(space: AddressSpace, iova: int, size: int, target: int, perm: Any) -> Outcome:
    space.map(iova, size, target, perm)
    return _mapped("mapped", iova, size, target, perm)


def _remap(space: AddressSpace, iova: int, size: int, target: int, perm: Any) -> Outcome:
    space.remap(iova, size, target, perm)
    return _mapped("mapped anew", iova, size, target, perm)


def _unmap(space: AddressSpace, iova: int, size: int) -> Outcome:
    return _removed(f"unmapped {span(iova, iova + size - 1)}", list(space.unmap(iova, size)))


def _unmap_all(space: AddressSpace) -> Outcome:
    return _removed("unmapped everything", list(space.unmap_all()))


def _invalidate(space: AddressSpace, iova: int, size: int) -> Outcome:
    space.invalidate_device(iova, size)
    return Outcome(f"invalidated {span(iova, iova + size - 1)} in devices", _range(iova, iova + size - 1))


async def _sync(space: AddressSpace, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109 - of the bus
    return synced(await (space.sync() if timeout is None else space.sync(timeout)))


def synced(report: SyncReport) -> Outcome:
    """Return what came of a `sync`."""
    who = [f"{one.subscriber} {one.how.value} after {words.seconds_text(one.seconds)}" for one in report.outcomes]
    counted = "; ".join(who) or "nobody counted"
    told = [
        {"subscriber": one.subscriber, "space": one.space, "how": one.how.value, "seconds": one.seconds}
        for one in report.outcomes
    ]
    text = f"nobody uses what was unmapped, after {words.seconds_text(report.seconds)}: {counted}"
    return Outcome(text, {"seconds": report.seconds, "outcomes": told})


async def _drain(space: AddressSpace) -> Outcome:
    await space.drain()
    return Outcome("every mailbox is at most half full", {})


async def _fence(space: AddressSpace, subscriber: str) -> Outcome:
    proven = await space.fence(subscriber)
    judged = "proven stopped" if proven else "not proven stopped: every sync fails until it is"
    return Outcome(f"{subscriber} is fenced, and {judged}", {"subscriber": subscriber, "proven": proven})


def _mapped(what: str, iova: int, size: int, target: int, perm: Any) -> Outcome:
    last = iova + size - 1
    told = {**_range(iova, last), "target": f"{target:#x}", "perm": words.perm_name(perm)}
    return Outcome(f"{what} {words.mapping_text(iova, last, target, perm, None)}", told)


def _removed(what: str, pieces: list[Piece]) -> Outcome:
    named = [words.mapping_text(one.first, one.last, one.target, one.perm, one.memory) for one in pieces]
    told = [{**_range(one.first, one.last), "target": f"{one.target:#x}"} for one in pieces]
    return Outcome(f"{what}: {', '.join(named) or 'nothing was there'}", {"removed": told})


def _range(first: int, last: int) -> dict[str, str]:
    return {"first": f"{first:#x}", "last": f"{last:#x}"}


N, S, P = words.number, words.seconds, words.perm

ORDERS: Final[Mapping[str, Order]] = {
    "map": Order("map IOVA SIZE TARGET PERM", "adds a mapping", (N, N, N, P), 4, _map),
    "remap": Order("remap IOVA SIZE TARGET PERM", "puts one in the place of what is there", (N, N, N, P), 4, _remap),
    "unmap": Order("unmap IOVA SIZE", "removes what is there", (N, N), 2, _unmap),
    "unmap-all": Order("unmap-all", "removes everything", (), 0, _unmap_all),
    "invalidate": Order("invalidate IOVA SIZE", "has devices forget a range", (N, N), 2, _invalidate),
    "sync": Order("sync [SECONDS]", "waits until nobody uses what was unmapped", (S,), 0, _sync),
    "drain": Order("drain", "waits until every mailbox is at most half full", (), 0, _drain),
    "fence": Order("fence SUBSCRIBER", "stops a subscriber for good", (str,), 1, _fence),
}
"""The orders, by name."""
