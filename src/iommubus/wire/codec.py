"""Messages as bytes: MessagePack, by msgspec.

Whatever a peer sends becomes a message that keeps every promise of its class, or a
`ProtocolError`; one with rows becomes one with their events (`messages.heard`).  What is
sent is held to the same, with the exception of what nobody can get wrong (`UNCHECKED`).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from ..errors import BadMessage
from .framing import HEADER_SIZE, frame
from .messages import WORDS, ClientMessage, DaemonMessage, Message, Side
from .messages.greeting import Pong
from .messages.heard import DeliverHeard, Heard, ObservedHeard, PublishHeard
from .messages.publishing import Publish, Published
from .messages.replies import Cancel, Done
from .messages.rows import Run, WatchedRun
from .messages.subscribing import Ack, AckWanted, Deliver, DeliverPacked, Ended, Using
from .messages.syncing import Synced
from .messages.watching import Observed
from .runs import from_any_rows, from_rows

VALUE_LIMIT: Final = 60
"""Most characters of a wrong value that an error repeats: what was sent by others is
shown, and not believed to be short."""

SHOWN_LIMIT: Final = 4096
"""Longest payload, in bytes, that is read again to show what is wrong in it: what is
read without a shape takes up to sixty times as much memory."""

MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that decoding raises: ill-formed, of another shape, no UTF-8, nested without end."""

_ENCODER: Final = Encoder()
_decode: Final[dict[Side, Callable[[bytes], Message]]] = {
    Side.CLIENT: Decoder[ClientMessage](ClientMessage).decode,
    Side.DAEMON: Decoder[DaemonMessage](DaemonMessage).decode,
}
_TYPES: Final = {side: {kind.__struct_config__.tag: kind for kind in kinds} for side, kinds in WORDS.items()}
_PATH: Final = re.compile(r"(?P<reason>.*) - at `\$(?P<path>.*)`", re.DOTALL)
_KNOWN: Final = re.compile(r"(?:\[\d+\])*")  # a step into a map does not say which key
_STEPS: Final = re.compile(r"\d+")


def encode(side: Side, message: Message | DeliverPacked) -> bytes:
    """Return the frame of a message.

    Args:
        side: Who says it.
        message: The message.

    Raises:
        BadMessage: A field holds what the other end would refuse.
        FrameTooLarge: It is longer than a frame may be.
    """
    try:
        payload = _ENCODER.encode(message)
    except (UnicodeEncodeError, OverflowError) as error:
        raise BadMessage(type(message).__name__, "a field", "no such value", str(error)) from None
    if type(message) not in UNCHECKED:
        decode(side, payload)
    return frame(payload)


def decode(side: Side, payload: bytes) -> Message:
    """Return the message of a payload, as it is heard.

    Args:
        side: Who said it.
        payload: What a frame holds.

    Raises:
        BadMessage: It is no message of this side, or a field holds what it cannot hold.
    """
    try:
        message = _decode[side](payload)
    except MALFORMED as error:
        raise _blame(side, payload, str(error)) from None
    hear = HEARING.get(type(message))
    return message if hear is None else hear(message, payload)


# -- messages full of events -------------------------------------------------


def _hear_publish(message: Publish, payload: bytes) -> PublishHeard:
    events = from_rows(message)
    if events is None:
        events = _judge(message, payload, "rows", "[4]", message)
    return PublishHeard(message.space, message.epoch, message.number, events, message.more)


def _hear_deliver(message: Deliver, payload: bytes) -> DeliverHeard:
    runs = message.runs
    events = _hear_runs(message, payload)
    memories = runs[0].memories if len(runs) == 1 else [name for run in runs for name in run.memories]
    return DeliverHeard(
        message.subscription,
        message.number,
        events,
        tuple([name.memory for name in memories]) if memories else (),
        HEADER_SIZE + len(payload),
        message.more,
        message.current,
        message.end,
        message.prompt,
        message.fails,
    )


def _hear_observed(message: Observed, payload: bytes) -> ObservedHeard:
    return ObservedHeard(message.observer, _hear_runs(message, payload), message.end)


def _hear_runs(message: Deliver | Observed, payload: bytes) -> list[Any]:
    """Return the events of all runs, in order."""
    runs: Sequence[Run | WatchedRun] = message.runs
    events: list[Any] = []
    for at, run in enumerate(runs):
        some = from_rows(run)
        if some is None:
            place = 3 if type(message) is Deliver else 2
            some = _judge(message, payload, f"runs[{at}].rows", f"[{place}][{at}][1]", run)
        if events:
            events += some
        else:
            events = some  # the usual one
    return events


def _judge(
    message: Publish | Deliver | Observed, payload: bytes, field: str, path: str, run: Publish | Run | WatchedRun
) -> list[Any]:
    """Return the events of rows that are not plain; or raise what is wrong with them.

    Args:
        message: What has them.
        payload: The same, as it arrived.
        field: What people call where they are.
        path: Where they are in the payload.
        run: What has them, and the memories that they name.
    """
    try:
        return from_any_rows(type(message).__name__, field, run)
    except MALFORMED as error:
        side = Side.CLIENT if type(message) is Publish else Side.DAEMON
        raise _blame(side, payload, _deeper(str(error), path)) from None


HEARING: Final[dict[type[Struct], Callable[[Any, bytes], Heard]]] = {
    Publish: _hear_publish,
    Deliver: _hear_deliver,
    Observed: _hear_observed,
}
"""What has rows, of which events are made at once: all other messages are taken as they are."""

UNCHECKED: Final = frozenset(
    {
        *HEARING,
        DeliverPacked,
        Ack,
        AckWanted,
        Cancel,
        Done,
        Ended,
        Pong,
        Published,
        Synced,
        Using,
    }
)
"""Messages that are not read again before they are sent, which costs as much as to write them.  What
is in those with rows was checked as the events were made.  The others have numbers that this end counted
itself or heard, names that it heard, and durations that it measured; no caller chooses any of them."""


# -- whose fault -------------------------------------------------------------


def _blame(side: Side, payload: bytes, text: str) -> BadMessage:
    """Return the error that says which field is wrong, and what it holds."""
    found = _PATH.fullmatch(text)
    reason, path = (found["reason"], found["path"]) if found else (text, "")
    try:
        value: Any = msgspec.msgpack.decode(payload[:SHOWN_LIMIT])
    except MALFORMED:
        return BadMessage("a message", f"the payload{path}", _short(payload.hex(" ")), reason)
    message, field = _name(side, value, path)
    for step in _STEPS.findall(_KNOWN.match(path)[0]):  # type: ignore[index]
        value = value[int(step)]
    return BadMessage(message, field, _short(repr(value)), reason)


def _deeper(text: str, path: str) -> str:
    """Return what msgspec says of a part of a payload as it would say it of the whole."""
    found = _PATH.fullmatch(text)
    reason, inside = (found["reason"], found["path"]) if found else (text, "")
    return f"{reason} - at `${path}{inside}`"


def _name(side: Side, value: Any, path: str) -> tuple[str, str]:
    """Return what people call a message, and the field at a path in it."""
    try:
        kind = _TYPES[side][value[0]]
    except (LookupError, TypeError):
        return f"a message of the {side.value}", f"the payload{path}"
    names = {f"[{at}]": name for at, name in enumerate(kind.__struct_fields__, start=1)}
    first, bracket, rest = path.partition("]")
    return kind.__name__, names.get(first + bracket, "the payload") + rest


def _short(text: str) -> str:
    return text if len(text) <= VALUE_LIMIT else text[:VALUE_LIMIT] + "..."
