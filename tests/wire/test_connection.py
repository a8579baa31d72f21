"""Who may say what, and when: every state, every message, both sides."""

from typing import Final

import msgspec
import pytest
from hypothesis import given, strategies as st

from iommubus.errors import BadMessage, FrameTooLarge, OutOfPlace, ProtocolError
from iommubus.wire.codec import encode
from iommubus.wire.connection import TRANSITIONS, ClientConnection, ServerConnection, State, after
from iommubus.wire.framing import FRAME_LIMIT, GREETING_LIMIT, frame
from iommubus.wire.messages import WORDS, Message, Side
from iommubus.wire.messages.greeting import Bind, Bound, Bye, Descriptor, Draining, Hello, Ping, Pong, Welcome
from iommubus.wire.messages.publishing import Publish
from iommubus.wire.messages.rows import UnmapRow
from iommubus.wire.messages.subscribing import Ack, Deliver, DeliverPacked, Ended
from iommubus.wire.messages.syncing import Sync
from iommubus.wire.runs import pack
from tests.wire.packed import heard, packed
from tests.wire.vectors import CLIENT, DAEMON, VECTORS

pytestmark = pytest.mark.usefixtures("either")

End = ClientConnection | ServerConnection

SAMPLES: Final[dict[tuple[Side, type[Message]], Message]] = {
    (side, type(message)): message for side, message, _ in reversed(VECTORS)
}
"""The first vector of each message of each side."""

HELLO, WELCOME, BIND, BOUND, BYE = Hello(1, 1), Welcome(1, 0, 1, 1), Bind(b"t"), Bound(), Bye("end")

WAYS: Final[dict[State, list[tuple[Side, Message]]]] = {
    State.GREETING: [],
    State.WELCOMING: [(CLIENT, HELLO)],
    State.READY: [(CLIENT, HELLO), (DAEMON, WELCOME)],
    State.DRAINING: [(CLIENT, HELLO), (DAEMON, WELCOME), (DAEMON, Draining("", 1))],
    State.BINDING: [(CLIENT, BIND)],
    State.BOUND: [(CLIENT, BIND), (DAEMON, BOUND)],
    State.LEAVING: [(CLIENT, HELLO), (CLIENT, BYE)],
    State.DISMISSED: [(DAEMON, BYE)],
    State.CLOSED: [(CLIENT, BYE)],
}
"""What is said to get into each state but `BROKEN`, which is got into by what may not be said."""

EVERYTHING: Final = [(side, kind) for side in Side for kind in WORDS[side]]


STEPS: Final[dict[tuple[State, type[Message]], State]] = {
    (State.GREETING, Hello): State.WELCOMING,
    (State.GREETING, Bind): State.BINDING,
    (State.WELCOMING, Welcome): State.READY,
    (State.BINDING, Bound): State.BOUND,
    (State.BOUND, Descriptor): State.BOUND,
    (State.READY, Draining): State.DRAINING,
}
"""What may be said in one state alone."""

GONE: Final = {State.LEAVING: CLIENT, State.DISMISSED: DAEMON}
"""Who has said its last word."""

FAREWELLS: Final = {
    (State.CLOSED, CLIENT): None,
    (State.CLOSED, DAEMON): None,
    (State.BROKEN, CLIENT): State.CLOSED,
    (State.BROKEN, DAEMON): State.CLOSED,
    (State.GREETING, CLIENT): State.CLOSED,  # there is nothing to answer
}
"""What `Bye` leads to, where it does not leave the other side its last words."""


def expected(state: State, side: Side, kind: type[Message]) -> State | None:
    """Return the state that comes next, in the words of the documentation; `None` where the message is out of place."""
    if state in GONE:
        then = State.CLOSED if kind is Bye else state
        return None if side is GONE[state] else then
    if kind is Bye:
        return FAREWELLS.get((state, side), State.LEAVING if side is CLIENT else State.DISMISSED)
    anything = state in {State.READY, State.DRAINING} and kind not in {step[1] for step in STEPS}
    return state if anything else STEPS.get((state, kind))


def pair(state: State) -> dict[Side, End]:
    """Return both ends of a connection in a state."""
    ends: dict[Side, End] = {CLIENT: ClientConnection(), DAEMON: ServerConnection()}
    for side, message in WAYS[state]:
        ends[side.other].receive_data(say(ends[side], message))
        assert ends[side.other].next_message() == heard(message)
    return ends


def say(end: End, message: Message) -> bytes:
    return end.send(message)  # type: ignore[arg-type]


def read(end: End) -> list[Message]:
    return list[Message](iter(end.next_message, None))


@pytest.mark.parametrize("state", State)
def test_the_table_is_what_is_promised(state: State) -> None:
    """Each of the 73 things that can be said, in each of the 10 states."""
    assert TRANSITIONS.keys() == set(State)
    for side, kind in EVERYTHING:
        assert TRANSITIONS[state][side].get(kind) is expected(state, side, kind), (side, kind)


@pytest.mark.parametrize("state", WAYS)
def test_both_ends_follow_the_table(state: State) -> None:
    """What may be said is sent, heard, and leads both ends to the same state; all else is neither sent nor heard."""
    for side, kind in EVERYTHING:
        ends, message = pair(state), SAMPLES[side, kind]
        assert {end.state for end in ends.values()} == {state}
        then = TRANSITIONS[state][side].get(kind)
        if then is not None:
            ends[side.other].receive_data(say(ends[side], message))
            assert ends[side.other].next_message() == heard(message)
            assert {end.state for end in ends.values()} == {then}
            continue

        with pytest.raises(OutOfPlace):
            say(ends[side], message)
        assert ends[side].state is state
        ends[side.other].receive_data(encode(side, message))
        with pytest.raises(OutOfPlace) as caught:
            ends[side.other].next_message()
        assert vars(caught.value) == {"message": kind.__name__, "side": side.value, "state": state.value}


@pytest.mark.parametrize(("side", "kind"), [(CLIENT, Welcome), (DAEMON, Hello)])
def test_nobody_says_what_the_other_side_says(side: Side, kind: type[Message]) -> None:
    for state in State:
        with pytest.raises(OutOfPlace):
            after(state, side, kind)


def test_every_state_can_be_reached_and_ends_in_closed() -> None:
    reached = {State.GREETING, State.BROKEN}
    for _ in State:
        reached |= {then for state in reached for words in TRANSITIONS[state].values() for then in words.values()}
    assert reached == set(State)

    ending = {State.CLOSED}
    for _ in State:
        ending |= {
            state
            for state in State
            if ending & {then for words in TRANSITIONS[state].values() for then in words.values()}
        }
    assert ending == set(State)


@given(st.data())
def test_any_slicing_gives_the_same_messages(data: st.DataObject) -> None:
    said = data.draw(st.lists(st.sampled_from([m for side, m, _ in VECTORS if ready(side, m, CLIENT)]), max_size=8))
    daemon = pair(State.READY)[DAEMON]
    stream, told = b"".join(encode(CLIENT, message) for message in said), list[Message]()
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        daemon.receive_data(stream[:cut])
        told += read(daemon)
        stream = stream[cut:]

    assert told == list(map(heard, said))
    assert not daemon.partial


def ready(side: Side, message: Message, speaker: Side) -> bool:
    """Say whether a speaker may say it again and again."""
    return side is speaker and TRANSITIONS[State.READY][side].get(type(message)) is State.READY


@pytest.mark.parametrize("speaker", Side)
def test_all_that_is_said_is_heard_byte_by_byte(speaker: Side) -> None:
    """Every vector, in one stream; a message comes with its last byte and not before."""
    ends = pair(State.READY)
    said = [message for side, message, _ in VECTORS if ready(side, message, speaker)]
    for message in said:
        stream = say(ends[speaker], message)
        for at in range(len(stream) - 1):
            ends[speaker.other].receive_data(stream[at : at + 1])
            assert ends[speaker.other].next_message() is None
            assert ends[speaker.other].partial
        ends[speaker.other].receive_data(stream[-1:])
        assert read(ends[speaker.other]) == [heard(message)]


def test_both_may_end_at_once() -> None:
    """Their words cross; each hears the other's last ones."""
    ends = pair(State.READY)
    from_client = say(ends[CLIENT], Ack(1, 1)) + say(ends[CLIENT], BYE)
    from_daemon = say(ends[DAEMON], Ended(1)) + say(ends[DAEMON], BYE)

    ends[DAEMON].receive_data(from_client)
    ends[CLIENT].receive_data(from_daemon)

    assert read(ends[DAEMON]) == [Ack(1, 1), BYE]
    assert read(ends[CLIENT]) == [Ended(1), BYE]
    assert {end.state for end in ends.values()} == {State.CLOSED}


def test_what_a_client_asked_for_before_it_heard_of_the_end_is_no_mistake() -> None:
    ends = pair(State.READY)
    asked = say(ends[CLIENT], Sync(1, 0))
    say(ends[DAEMON], Draining("", 1))

    ends[DAEMON].receive_data(asked)

    assert ends[DAEMON].next_message() == Sync(1, 0)


BROKEN_STREAMS: Final[list[tuple[bytes, type[ProtocolError]]]] = [
    (frame(b""), BadMessage),
    (frame(msgspec.msgpack.encode([99])), BadMessage),
    (frame(msgspec.msgpack.encode([40, "s", 1, 1, [[1, 1, 0, 1], [1, 2, 1, 0]]])), BadMessage),
    (encode(CLIENT, HELLO), OutOfPlace),
    ((FRAME_LIMIT + 1).to_bytes(4, "little"), FrameTooLarge),
]


@pytest.mark.parametrize(("stream", "kind"), BROKEN_STREAMS)
def test_after_broken_bytes_nothing_more_is_read(stream: bytes, kind: type[ProtocolError]) -> None:
    """What came before was heard; of what broke it, and of all that comes after, nothing is."""
    daemon = pair(State.READY)[DAEMON]
    daemon.receive_data(encode(CLIENT, Ping(1)) + stream + encode(CLIENT, Ping(2)))
    assert daemon.next_message() == Ping(1)

    with pytest.raises(kind) as first:
        daemon.next_message()
    daemon.receive_data(encode(CLIENT, Ping(3)))
    with pytest.raises(kind) as second:
        daemon.next_message()

    assert first.value is second.value
    assert daemon.state is State.BROKEN


@pytest.mark.parametrize(("stream", "kind"), BROKEN_STREAMS)
def test_who_broke_the_protocol_is_told_so_and_nothing_else(stream: bytes, kind: type[ProtocolError]) -> None:
    ends = pair(State.READY)
    ends[DAEMON].receive_data(stream)
    with pytest.raises(kind):
        ends[DAEMON].next_message()

    with pytest.raises(OutOfPlace):
        say(ends[DAEMON], Pong(1))
    ends[CLIENT].receive_data(say(ends[DAEMON], BYE))

    assert ends[CLIENT].next_message() == BYE
    assert ends[DAEMON].state is State.CLOSED


def test_nothing_is_kept_of_what_comes_after_broken_bytes() -> None:
    daemon = pair(State.READY)[DAEMON]
    daemon.receive_data(frame(b""))
    with pytest.raises(BadMessage):
        daemon.next_message()

    daemon.receive_data(bytes(1000))

    assert not daemon.partial


def test_who_has_said_its_last_word_has_none_left_for_broken_bytes() -> None:
    daemon = pair(State.DISMISSED)[DAEMON]
    daemon.receive_data(frame(b""))

    with pytest.raises(BadMessage):
        daemon.next_message()

    assert daemon.state is State.CLOSED


def test_half_a_message_is_nothing() -> None:
    daemon = pair(State.READY)[DAEMON]
    whole = encode(CLIENT, Publish("vtd0", 1, 1, packed(UnmapRow(1, 0, 1), UnmapRow(2, 2, 3))))

    daemon.receive_data(whole[:-1])

    assert daemon.next_message() is None
    assert daemon.partial
    assert daemon.state is State.READY


@pytest.mark.parametrize("state", [State.GREETING, State.WELCOMING, State.BINDING])
def test_a_stranger_is_given_little_memory(state: State) -> None:
    """Until both have greeted, a frame of 4,097 bytes is not waited for; afterwards it is."""
    header = (GREETING_LIMIT + 1).to_bytes(4, "little")
    for end in pair(state).values():
        end.receive_data(header)
        with pytest.raises(FrameTooLarge):
            end.next_message()
    for end in pair(State.READY).values():
        end.receive_data(header)
        assert end.next_message() is None


def test_what_is_not_sent_changes_nothing() -> None:
    client = ClientConnection()
    with pytest.raises(BadMessage):
        client.send(Hello(1, 1, "x" * 256))

    assert client.state is State.GREETING


def test_packed_runs_are_heard_as_what_they_are() -> None:
    ends = pair(State.READY)
    daemon = ends[DAEMON]
    assert isinstance(daemon, ServerConnection)

    ends[CLIENT].receive_data(daemon.send(DeliverPacked(1, 2, pack([]), end=True)))

    assert ends[CLIENT].next_message() == heard(Deliver(1, 2, [], end=True))
    with pytest.raises(OutOfPlace, match="the daemon may not say DeliverPacked while the connection is greeting"):
        ServerConnection().send(DeliverPacked(1, 2, pack([])))


def test_each_end_knows_its_side() -> None:
    assert (ClientConnection().side, ServerConnection().side) == (CLIENT, DAEMON)
    assert [side.other for side in Side] == [DAEMON, CLIENT]


def test_all_words_have_a_sample() -> None:
    assert SAMPLES.keys() == set(EVERYTHING)
    assert len(EVERYTHING) == 74
