"""Messages as bytes: MessagePack, by msgspec.

Whatever a peer sends becomes a message that keeps every promise of its class, or a
`ProtocolError`.  What is sent is held to the same, with the exception of messages
full of events, which are made from events that were checked.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.msgpack import Decoder, Encoder

from ..errors import BadMessage
from .framing import frame
from .messages import WORDS, ClientMessage, DaemonMessage, Message, Side
from .messages.publishing import Publish
from .messages.subscribing import Deliver, DeliverPacked
from .messages.watching import Observed
from .runs import check_rows, check_watched

VALUE_LIMIT: Final = 60
"""Most characters of a wrong value that an error repeats: what was sent by others is
shown, and not believed to be short."""

SHOWN_LIMIT: Final = 4096
"""Longest payload, in bytes, that is read again to show what is wrong in it: what is
read without a shape takes up to sixty times as much memory."""

MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that decoding raises: ill-formed, of another shape, no UTF-8, nested without end."""

_ENCODER: Final = Encoder()
_DECODERS: Final[dict[Side, Decoder[Any]]] = {
    Side.CLIENT: Decoder(ClientMessage),
    Side.DAEMON: Decoder(DaemonMessage),
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
    if type(message) not in FULL_OF_EVENTS:
        decode(side, payload)
    return frame(payload)


def decode(side: Side, payload: bytes) -> Message:
    """Return the message of a payload.

    Args:
        side: Who said it.
        payload: What a frame holds.

    Raises:
        BadMessage: It is no message of this side, or a field holds what it cannot hold.
    """
    try:
        message: Message = _DECODERS[side].decode(payload)
    except MALFORMED as error:
        raise _blame(side, payload, str(error)) from None
    check = CHECKS.get(type(message))
    if check is not None:
        check(message)
    return message


# -- messages full of events -------------------------------------------------


def _check_publish(message: Publish) -> None:
    check_rows("Publish", "rows", message.rows, message.memories)


def _check_deliver(message: Deliver) -> None:
    for at, run in enumerate(message.runs):
        check_rows("Deliver", f"runs[{at}].rows", run.rows, run.memories)


def _check_observed(message: Observed) -> None:
    for at, run in enumerate(message.runs):
        check_watched(f"runs[{at}].rows", run.rows, run.memories)


CHECKS: Final[dict[type[Message], Callable[[Any], None]]] = {
    Publish: _check_publish,
    Deliver: _check_deliver,
    Observed: _check_observed,
}
"""What has to be looked at beyond the shape: all other messages do so as they are made, which costs
more, and there are hundreds of thousands of events a second."""

FULL_OF_EVENTS: Final = {*CHECKS, DeliverPacked}
"""Messages that are not looked at before they are sent."""


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
