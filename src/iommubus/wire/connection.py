"""One connection, seen from either end: who may say what, and when.

Feed it what arrived (`receive_data`), ask it for messages (`next_message`) until
there is none, and write what `send` returns.  It knows no socket and no clock:
heartbeats and deadlines are the business of who owns it.

Both ends speak at once, so what one may say depends on what it has said and heard
itself, and a `Bye` of one leaves the other its last words.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Generic, TypeVar, cast

from ..errors import OutOfPlace, ProtocolError
from .codec import decode, encode
from .framing import FRAME_LIMIT, GREETING_LIMIT, FrameReader
from .messages import WORDS, ClientHeard, ClientMessage, DaemonHeard, DaemonMessage, Message, Side
from .messages.greeting import Bind, Bound, Bye, Descriptor, Draining, Hello, Welcome
from .messages.heard import SAID
from .messages.subscribing import Deliver, DeliverPacked


class State(Enum):
    """How far a connection is."""

    GREETING = "greeting"
    """Nobody has said anything."""

    WELCOMING = "welcoming"
    """The client has said `Hello`, and waits for the daemon's answer."""

    READY = "ready"
    """Anything may be said, by both."""

    DRAINING = "draining"
    """The daemon has said that it stops soon; it refuses what is new."""

    BINDING = "binding"
    """A second connection: the client has said which one it belongs to."""

    BOUND = "bound"
    """A second connection, for descriptors."""

    LEAVING = "leaving"
    """The client has said `Bye`; what the daemon had under way still arrives."""

    DISMISSED = "dismissed"
    """The daemon has said `Bye`; what the client had under way still arrives, and is not answered."""

    BROKEN = "broken"
    """The other end broke the protocol; it is told so, and not heard any more."""

    CLOSED = "closed"
    """Nobody says anything any more."""

    __hash__ = object.__hash__  # as that of `Side`


Words = dict[type[Message], State]


def _all(side: Side, state: State, *but: type[Message]) -> Words:
    """Return everything that a side may say, staying in a state, but for some."""
    never = {Hello, Welcome, Bind, Bound, *but}
    return {kind: state for kind in WORDS[side] if kind not in never}


TRANSITIONS: Final[dict[State, dict[Side, Words]]] = {
    State.GREETING: {
        Side.CLIENT: {Hello: State.WELCOMING, Bind: State.BINDING, Bye: State.CLOSED},
        Side.DAEMON: {Bye: State.DISMISSED},
    },
    State.WELCOMING: {
        Side.CLIENT: {Bye: State.LEAVING},
        Side.DAEMON: {Welcome: State.READY, Bye: State.DISMISSED},
    },
    State.READY: {
        Side.CLIENT: _all(Side.CLIENT, State.READY, Descriptor) | {Bye: State.LEAVING},
        Side.DAEMON: _all(Side.DAEMON, State.READY, Descriptor) | {Draining: State.DRAINING, Bye: State.DISMISSED},
    },
    State.DRAINING: {
        Side.CLIENT: _all(Side.CLIENT, State.DRAINING, Descriptor) | {Bye: State.LEAVING},
        Side.DAEMON: _all(Side.DAEMON, State.DRAINING, Descriptor, Draining) | {Bye: State.DISMISSED},
    },
    State.BINDING: {
        Side.CLIENT: {Bye: State.LEAVING},
        Side.DAEMON: {Bound: State.BOUND, Bye: State.DISMISSED},
    },
    State.BOUND: {
        Side.CLIENT: {Descriptor: State.BOUND, Bye: State.LEAVING},
        Side.DAEMON: {Descriptor: State.BOUND, Bye: State.DISMISSED},
    },
    State.LEAVING: {
        Side.CLIENT: {},
        Side.DAEMON: dict.fromkeys(WORDS[Side.DAEMON], State.LEAVING) | {Bye: State.CLOSED},
    },
    State.DISMISSED: {
        Side.CLIENT: dict.fromkeys(WORDS[Side.CLIENT], State.DISMISSED) | {Bye: State.CLOSED},
        Side.DAEMON: {},
    },
    State.BROKEN: {
        Side.CLIENT: {Bye: State.CLOSED},
        Side.DAEMON: {Bye: State.CLOSED},
    },
    State.CLOSED: {Side.CLIENT: {}, Side.DAEMON: {}},
}
"""What each side may say in each state, and the state after."""

STRANGERS: Final = {State.GREETING, State.WELCOMING, State.BINDING}
"""States in which no long frame is taken: the other end has not said enough."""


def after(state: State, side: Side, kind: type[Any]) -> State:
    """Return the state after a side has said a message of a kind.

    Raises:
        OutOfPlace: It may not.
    """
    try:
        return TRANSITIONS[state][side][PACKED.get(kind, kind)]
    except KeyError:
        raise OutOfPlace(kind.__name__, side.value, state.value) from None


PACKED: Final[dict[type[Any], type[Message]]] = {DeliverPacked: Deliver}
"""What is said in another class than the words have, and as what."""


def _with(others: Mapping[type[Any], type[Any]], words: Words) -> dict[type[Any], State]:
    """Return words and those of other classes that are the same on the wire."""
    return {**words, **{other: words[kind] for other, kind in others.items() if kind in words}}


_SAYING: Final = {
    (state, side): _with(PACKED, words) for state, sides in TRANSITIONS.items() for side, words in sides.items()
}
_HEARING: Final = {
    (state, side): _with(SAID, words) for state, sides in TRANSITIONS.items() for side, words in sides.items()
}


HeardT = TypeVar("HeardT", bound=Message)  # as it is heard
SaidT = TypeVar("SaidT", bound=Message | DeliverPacked)


class Connection(Generic[HeardT, SaidT]):
    """One end of a connection.

    Args:
        side: Which end it is.
        limit: Longest payload that is taken once both ends have greeted each other, in bytes.

    Attributes:
        side: The same.
        state: How far the connection is, as this end sees it.
    """

    def __init__(self, side: Side, limit: int = FRAME_LIMIT) -> None:
        self.side = side
        self._other = side.other
        self._limit = limit
        self._reader = FrameReader(GREETING_LIMIT)
        self._enter(State.GREETING)
        self._error: ProtocolError | None = None

    @property
    def partial(self) -> bool:
        """Whether part of a message has arrived, and the rest has not: who never sends it should not be waited for."""
        return self._reader.partial

    @property
    def more(self) -> bool:
        """Whether `next_message` may have anything to return, or to raise."""
        return self._reader.partial or self._error is not None

    def receive_data(self, data: bytes) -> None:
        """Take what arrived; after a `ProtocolError` it is thrown away."""
        if self._error is None:
            self._reader.feed(data)

    def next_message(self) -> HeardT | None:
        """Return the next message of the other end, or `None` if more bytes are needed.

        Raises:
            ProtocolError: The other end broke the protocol.  Nothing of that message
                was taken and nothing more is read: the same is raised from now
                on.  Say why, by a `Bye`, and close.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._next()
        except ProtocolError as error:
            self._error = error
            self._enter(State.BROKEN if Bye in TRANSITIONS[self.state][self.side] else State.CLOSED)
            raise

    def send(self, message: SaidT) -> bytes:
        """Return the bytes that say a message.

        Raises:
            OutOfPlace: It may not be said now.
            BadMessage: A field holds what the other end would refuse.
            FrameTooLarge: It is longer than a frame may be.
        """
        state = self._saying.get(type(message)) or after(self.state, self.side, type(message))
        data = encode(self.side, message)
        if state is not self.state:
            self._enter(state)
        return data

    # -- inside ----------------------------------------------------------------

    def _next(self) -> HeardT | None:
        payload = self._reader.next_payload()
        if payload is None:
            return None
        message = decode(self._other, payload)
        kind = type(message)
        state = self._hearing.get(kind) or after(self.state, self._other, SAID.get(kind, kind))
        if state is not self.state:
            self._enter(state)
        return cast("HeardT", message)

    def _enter(self, state: State) -> None:
        self.state = state
        self._saying = _SAYING[state, self.side]
        self._hearing = _HEARING[state, self._other]
        self._reader.limit = GREETING_LIMIT if state in STRANGERS else self._limit


class ClientConnection(Connection[DaemonHeard, ClientMessage]):
    """The client's end."""

    def __init__(self) -> None:
        super().__init__(Side.CLIENT)


class ServerConnection(Connection[ClientHeard, DaemonMessage | DeliverPacked]):
    """The daemon's end."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        super().__init__(Side.DAEMON, limit)
