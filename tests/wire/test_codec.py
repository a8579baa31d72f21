"""Bytes are a message that keeps its promises, or a `ProtocolError`; nothing else."""

import msgspec
import pytest
from hypothesis import example, given, strategies as st
from msgspec import Raw
from msgspec.structs import replace

from iommubus.caps import Perm
from iommubus.errors import BadMessage, FrameTooLarge, ProtocolError
from iommubus.events import Event, Lost, Map, Unmap
from iommubus.wire.codec import SHOWN_LIMIT, UNCHECKED, VALUE_LIMIT, decode, encode
from iommubus.wire.framing import HEADER_SIZE
from iommubus.wire.messages import Message, Side
from iommubus.wire.messages.greeting import Hello, Ping, Welcome
from iommubus.wire.messages.heard import ObservedHeard
from iommubus.wire.messages.publishing import Publish
from iommubus.wire.messages.replies import Failure, Refused
from iommubus.wire.messages.rows import EVENT_LIMIT, Run, UnmapRow
from iommubus.wire.messages.spaces import CreateSpace
from iommubus.wire.messages.subscribing import Deliver, DeliverPacked, Subscribe
from iommubus.wire.messages.syncing import Fence, Sync
from iommubus.wire.messages.values import NAME_LIMIT, Piece, Range
from iommubus.wire.messages.watching import Observe
from iommubus.wire.runs import pack, to_runs
from tests.wire.packed import heard, packed, said
from tests.wire.vectors import CLIENT, DAEMON, LAST, VECTORS

pytestmark = pytest.mark.usefixtures("either")

NAMES = [f"{type(message).__name__}-{at}" for at, (_, message, _) in enumerate(VECTORS)]

SHORT = "Expected `array` of at least length"
LESS = "it is less than first, which is"
OUT = "bytes from there leave 0..2^64-1"

NOTHING: list[object] = []


def payload(*parts: object) -> bytes:
    return msgspec.msgpack.encode(parts)


@pytest.mark.parametrize(("side", "message", "hexdump"), VECTORS, ids=NAMES)
def test_vectors_hold_in_both_directions(side: Side, message: Message, hexdump: str) -> None:
    whole = bytes.fromhex(hexdump)

    assert encode(side, message) == whole
    assert decode(side, whole[HEADER_SIZE:]) == heard(message)
    assert int.from_bytes(whole[:HEADER_SIZE], "little") == len(whole) - HEADER_SIZE


@pytest.mark.parametrize(("side", "message", "hexdump"), [each for each in VECTORS if isinstance(each[1], Subscribe)])
def test_who_subscribes_in_words_of_before_there_were_holders_has_none(
    side: Side, message: Subscribe, hexdump: str
) -> None:
    """What is newer follows what is older; a reader ignores what it does not know, and need not be told."""
    whole = msgspec.msgpack.decode(bytes.fromhex(hexdump)[HEADER_SIZE:])
    assert whole.pop() == message.holder

    assert decode(side, msgspec.msgpack.encode(whole)) == replace(message, holder=0)


def survives(side: Side, data: bytes) -> None:
    """Decode bytes; what was taken can be said again, and means the same."""
    try:
        message = decode(side, data)
    except ProtocolError:
        return
    again = said(message)
    assert said(decode(side, encode(side, again)[HEADER_SIZE:])) == again


@given(st.sampled_from(Side), st.binary(max_size=80))
@example(CLIENT, b"")
@example(CLIENT, b"\x91" * 100_000)
@example(CLIENT, b"\x93\x03\x01" + b"\x91" * 100_000 + b"\x00")
@example(CLIENT, b"\x92\x03\xc7\x01\x05\x00")
@example(DAEMON, b"\xdd\xff\xff\xff\xff")
def test_any_bytes_are_a_message_or_break_the_protocol(side: Side, data: bytes) -> None:
    survives(side, data)


@given(st.sampled_from(VECTORS), st.data())
def test_damaged_messages_are_messages_or_break_the_protocol(
    vector: tuple[Side, Message, str], data: st.DataObject
) -> None:
    """Bytes of a good one are changed, cut out, put in, or doubled."""
    side, _, hexdump = vector
    good = bytearray(bytes.fromhex(hexdump)[HEADER_SIZE:])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good)))
        gone = data.draw(st.integers(0, 3))
        good[at : at + gone] = data.draw(st.binary(max_size=3) | st.just(bytes(good[at:])))

    survives(side, bytes(good))


@given(
    st.sampled_from(VECTORS),
    st.data(),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), LAST)
        | st.text(max_size=5)
        | st.binary(max_size=5)
        | st.floats(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_a_field_may_hold_anything(vector: tuple[Side, Message, str], data: st.DataObject, value: object) -> None:
    """What is well-formed and of the wrong kind comes to the same."""
    side, message, _ = vector
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    fields[data.draw(st.integers(0, len(fields) - 1))] = value

    survives(side, payload(*fields))


@pytest.mark.parametrize(
    ("side", "data", "error"),
    [
        (CLIENT, payload(40, "s", -1, 2, []), ("Publish", "epoch", "-1", "Expected `int` >= 0")),
        (CLIENT, payload(40, "s", 1, 2, [[2, 1, 2, 3, 4, 9]]), ("Publish", "rows[0][5]", "9", "Expected `int` <= 3")),
        (CLIENT, payload(40, "s", 1, 2, [[2, 1, 2, 3, 4, 0]]), ("Publish", "rows[0][5]", "0", "Expected `int` >= 1")),
        (CLIENT, payload(40, "s", 1, 2, [[8, 1, 2]]), ("Publish", "rows[0][0]", "8", "Invalid value 8")),
        (CLIENT, payload(40, b"s", 1, 2, []), ("Publish", "space", "b's'", "Expected `str`, got `bytes`")),
        (CLIENT, payload(40, "s", 1), ("Publish", "the payload", "[40, 's', 1]", f"{SHORT} 5, got 3")),
        (CLIENT, payload(3, 2.0), ("Ping", "number", "2.0", "Expected `int`, got `float`")),
        (CLIENT, payload(99), ("a message of the client", "the payload[0]", "99", "Invalid value 99")),
        (CLIENT, payload(2, 1, 0, 1, 1), ("a message of the client", "the payload[0]", "2", "Invalid value 2")),
        (DAEMON, payload(1, 1, 1), ("a message of the daemon", "the payload[0]", "1", "Invalid value 1")),
        (CLIENT, payload([1]), ("a message of the client", "the payload[0]", "[1]", "Expected `int`, got `array`")),
        (CLIENT, payload(), ("a message of the client", "the payload", "[]", f"{SHORT} 1, got 0")),
        (CLIENT, b"\x07", ("a message of the client", "the payload", "7", "Expected `array`, got `int`")),
        (CLIENT, b"\x80", ("a message of the client", "the payload", "{}", "Expected `array`, got `object`")),
        (CLIENT, payload(65, 1, 2, 3, 4), ("Translate", "perm", "4", "Expected `int` <= 3")),
        (CLIENT, payload(47, 1, [5, 4, 0, 1]), ("Piece", "last", "0x4", f"{LESS} 0x5")),
        (CLIENT, payload(47, 1, [0, 1, LAST, 1]), ("Piece", "target", f"{LAST:#x}", f"0x2 {OUT}")),
        (CLIENT, payload(20, 1, "s", 1, 9, [[3, 2]], 3), ("Range", "last", "0x2", f"{LESS} 0x3")),
        (
            DAEMON,
            payload(72, 1, [["a", "b", 3, 2, ["K", "t", NOTHING]]]),
            ("MapFailure", "last", "0x2", f"{LESS} 0x3"),
        ),
        (
            DAEMON,
            payload(62, 1, 1, [["s", NOTHING], ["s", [[1, 1, 0, 1], [1, 2, 1, 0]]]]),
            ("runs[1].rows[1] of Deliver", "last", "0x0", f"{LESS} 0x1"),
        ),
        (
            DAEMON,
            payload(102, 1, [["s", [[8, 1, 1], [2, 2, 1, 1, 0, 1, 1]]]]),
            ("runs[0].rows[1] of Observed", "memory", "1", "0 memories are named"),
        ),
        (
            CLIENT,
            payload(40, "s", 1, 1, [[4, 1, 2, 1]]),
            ("rows[0] of Publish", "last", "0x1", f"{LESS} 0x2"),
        ),
        (
            DAEMON,
            payload(121, 1, [["s", *[1] * 10, {"asked": -1}, {}, NOTHING, NOTHING]]),
            ("Counters", "spaces[0][11][...]", "{'asked': -1}", "Expected `int` >= 0"),
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_field_and_value(side: Side, data: bytes, error: tuple[str, ...]) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(side, data)

    found = caught.value
    assert (found.message, found.field, found.value, found.reason) == error


def test_a_name_may_be_as_long_as_its_limit() -> None:
    longest = "é" * NAME_LIMIT
    assert decode(CLIENT, payload(1, 1, 1, longest)) == Hello(1, 1, longest)

    with pytest.raises(BadMessage) as caught:
        decode(CLIENT, payload(1, 1, 1, longest + "x"))
    assert caught.value.field == "name"
    assert caught.value.value == repr(longest)[:VALUE_LIMIT] + "..."


def test_a_list_may_be_as_long_as_its_limit() -> None:
    rows = [[1, 1, 0, 0]] * EVENT_LIMIT
    decode(CLIENT, payload(40, "s", 1, 1, rows))

    with pytest.raises(BadMessage, match=f"the payload.* length <= {EVENT_LIMIT}"):
        decode(CLIENT, payload(40, "s", 1, 1, [*rows, rows[0]]))


def test_a_long_message_is_not_read_without_its_shape_to_show_what_is_wrong() -> None:
    data = payload(99, "x" * SHOWN_LIMIT)

    with pytest.raises(BadMessage) as caught:
        decode(CLIENT, data)

    assert caught.value.message == "a message"
    assert caught.value.field == "the payload[0]"
    assert caught.value.value == data.hex(" ")[:VALUE_LIMIT] + "..."


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Ping(-1), "number"),
        (Ping(2**64), "a field"),
        (Hello(1, 1, "x" * (NAME_LIMIT + 1)), "name"),
        (Hello(1, 1, "\ud800"), "a field"),
        (Sync(1, 2.5), "timeout_us"),  # type: ignore[arg-type]
        (Welcome(1, 0, 1, 1), "the payload[0]"),
        (Refused(1, Failure("K", "t", Raw(b""))), "the payload"),
    ],
)
def test_what_would_be_refused_is_not_sent(message: Message, field: str) -> None:
    with pytest.raises(BadMessage) as caught:
        encode(CLIENT, message)

    assert caught.value.field == field


def test_a_range_that_cannot_be_is_not_even_made() -> None:
    with pytest.raises(BadMessage):
        Range(2, 1)
    with pytest.raises(BadMessage):
        Piece(2, 1, 0, 1)
    with pytest.raises(BadMessage):
        Piece(0, LAST, 1, 1)


def test_a_message_longer_than_a_frame_is_not_sent() -> None:
    run = Run("x" * NAME_LIMIT, packed(*[UnmapRow(LAST, 0, LAST)] * EVENT_LIMIT))

    with pytest.raises(FrameTooLarge):
        encode(DAEMON, Deliver(1, 1, [run] * 40))


def test_the_largest_messages_of_events_fit_a_frame() -> None:
    """Every number as long as can be, and a name and a memory of their full length, in ASCII."""
    event = Map("x" * NAME_LIMIT, LAST, LAST - 1, LAST, LAST - 1, Perm.RW)
    runs = to_runs([event] * EVENT_LIMIT)

    assert len(encode(DAEMON, Deliver(LAST, LAST, runs))) < 200_000
    assert len(encode(CLIENT, Publish("x" * NAME_LIMIT, LAST, LAST, runs[0].rows))) < 200_000


def test_lost_events_are_for_observers_alone() -> None:
    lost = [[8, 1, 1]]

    assert decode(DAEMON, payload(102, 1, [["s", lost]])) == ObservedHeard(1, [Lost("s", 1, 1)])
    for side, data in (DAEMON, payload(62, 1, 1, [["s", lost]])), (CLIENT, payload(40, "s", 1, 1, lost)):
        with pytest.raises(BadMessage):
            decode(side, data)


def test_a_batch_is_encoded_once_for_all_who_get_it() -> None:
    """The very bytes are put into the message of each: there is no event left in it to encode."""
    events: list[Event] = [Map("vtd0", seq, seq, seq, seq, Perm.R) for seq in range(1, 64)]
    runs = to_runs([*events, Unmap("vtd1", 9, 0, LAST)])
    packed = pack(runs)

    frames = [encode(DAEMON, DeliverPacked(number, 7, packed, current=True)) for number in range(1, 101)]

    assert frames == [encode(DAEMON, Deliver(number, 7, runs, current=True)) for number in range(1, 101)]
    assert all(bytes(packed) in frame for frame in frames)
    assert decode(DAEMON, frames[0][HEADER_SIZE:]) == heard(Deliver(1, 7, runs, current=True))


def test_what_nobody_can_get_wrong_is_not_read_again() -> None:
    """Of numbers that were counted or heard alone; what callers choose is looked at."""
    kinds = {type(message) for _, message, _ in VECTORS}

    assert kinds >= UNCHECKED - {DeliverPacked}
    assert not UNCHECKED & {Hello, Ping, Subscribe, Sync, Observe, CreateSpace, Fence, Refused}
