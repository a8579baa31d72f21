"""Rows as messages hold them, and messages as they are heard."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from iommubus.wire.framing import HEADER_SIZE
from iommubus.wire.messages import Message
from iommubus.wire.messages.heard import DeliverHeard, ObservedHeard, PublishHeard
from iommubus.wire.messages.publishing import Publish
from iommubus.wire.messages.rows import LostRow, Row, Rows, Run, WatchedRows, WatchedRun
from iommubus.wire.messages.subscribing import Deliver
from iommubus.wire.messages.watching import Observed
from iommubus.wire.runs import from_any_rows, to_rows, to_runs, to_watched

EMPTY: Final = Raw(b"\x90")
"""No rows."""


def packed(*rows: Row | LostRow) -> Raw:
    """Return rows as messages hold them."""
    return Raw(msgspec.msgpack.encode(rows))


def rows_of(run: Publish | Run) -> list[Row]:
    """Return the rows of what has some."""
    return msgspec.msgpack.decode(run.rows, type=Rows)


def watched_rows_of(run: WatchedRun) -> list[Row | LostRow]:
    """Return the rows of what an observer gets."""
    return msgspec.msgpack.decode(run.rows, type=WatchedRows)


def heard(message: Message) -> Message:
    """Return a message as it is heard, by the Python code alone."""
    match message:
        case Publish():
            events = from_any_rows("Publish", "rows", message)
            return PublishHeard(message.space, message.epoch, message.number, events, message.more)
        case Deliver():
            return heard_delivery(message)
        case Observed():
            return ObservedHeard(message.observer, events_of(message.runs), message.end)
        case _:
            return message


def heard_delivery(message: Deliver) -> DeliverHeard:
    """Return a `Deliver` as it is heard."""
    return DeliverHeard(
        message.subscription,
        message.number,
        events_of(message.runs),
        tuple(name.memory for run in message.runs for name in run.memories),
        HEADER_SIZE + len(msgspec.msgpack.encode(message)),
        message.more,
        message.current,
        message.end,
        message.prompt,
        message.fails,
    )


def events_of(runs: Sequence[Run | WatchedRun]) -> list[Any]:
    """Return the events of runs, in order."""
    return [event for run in runs for event in from_any_rows("runs", "rows", run)]


def said(message: Message) -> Message:
    """Return what says a message that was heard; it may be said in other words than it was."""
    match message:
        case PublishHeard(space, epoch, number, events, more):
            rows, memories, _ = to_rows(events)
            return Publish(space, epoch, number, rows, memories, more)
        case DeliverHeard():
            runs = to_runs(message.events)
            flags = message.more, message.current, message.end, message.prompt, message.fails
            return Deliver(message.subscription, message.number, runs, *flags)
        case ObservedHeard(observer, told, end):
            return Observed(observer, to_watched(told), end)
        case _:
            return message
