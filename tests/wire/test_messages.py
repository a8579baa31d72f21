"""What a message is: its number, its fields, and what older and newer readers make of it."""

import inspect
import re
from typing import Final

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from iommubus.wire.codec import decode, encode
from iommubus.wire.framing import FRAME_LIMIT, HEADER_SIZE
from iommubus.wire.messages import WORDS, Message, Side
from iommubus.wire.messages.greeting import Hello
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.replies import Failure
from iommubus.wire.messages.rows import DevIotlbUnmapRow, LostRow, MapRow, UnmapRow
from iommubus.wire.messages.spaces import CreateSpace
from iommubus.wire.messages.syncing import PIECE_LIMIT, MapFailure, Missing, SyncRefused
from iommubus.wire.messages.values import (
    ENTRY_LIMIT,
    NAME_LIMIT,
    TEXT_LIMIT,
    MemoryName,
    Piece,
    clip_text,
)
from tests.wire.packed import heard
from tests.wire.vectors import CLIENT, DAEMON, LAST, VECTORS

KINDS: Final = list(dict.fromkeys(kind for side in Side for kind in WORDS[side]))
"""Every message, once."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_a_frozen_array_with_a_number(kind: type[Message]) -> None:
    config = kind.__struct_config__

    assert config.frozen
    assert config.array_like
    assert isinstance(config.tag, int)
    assert 0 < config.tag < 128  # one byte


def test_no_number_means_two_things() -> None:
    assert len({kind.__struct_config__.tag for kind in KINDS}) == len(KINDS)


def test_the_numbers_of_events_are_the_capabilities_that_they_need() -> None:
    rows: list[type[Struct]] = [UnmapRow, MapRow, DevIotlbUnmapRow, LostRow]

    assert [row.__struct_config__.tag for row in rows] == [1, 2, 4, 8]


@pytest.mark.parametrize("kind", [*KINDS, MapRow, UnmapRow, DevIotlbUnmapRow, LostRow, MemoryName, Piece, Failure])
def test_every_field_is_described_in_order(kind: type[Struct]) -> None:
    attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]

    assert tuple(re.findall(r"^    (\w+): ", attributes, re.MULTILINE)) == kind.__struct_fields__


def test_who_asks_and_who_answers_puts_the_number_first() -> None:
    for kind in KINDS:
        assert "request" not in kind.__struct_fields__[1:]


def test_every_message_of_each_side_has_a_golden_vector() -> None:
    assert {(side, type(message)) for side, message, _ in VECTORS} == {
        (side, kind) for side in Side for kind in WORDS[side]
    }


# -- older and newer ends ----------------------------------------------------


@pytest.mark.parametrize(("side", "message"), [(side, message) for side, message, _ in VECTORS])
def test_what_a_newer_end_adds_is_ignored(side: Side, message: Message) -> None:
    """Whatever it is, behind the last field that is known here."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))

    newer = decode(side, msgspec.msgpack.encode([*fields, "new", {"of": ["any", 1.5, None]}]))

    assert sized(newer) == sized(heard(message))


def sized(message: Message) -> Message:
    """Return a message without its length, if it knows that."""
    return replace(message, size=0) if isinstance(message, DeliverHeard) else message


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_older_end_leaves_out_has_its_default(kind: type[Message]) -> None:
    """A message cut after any field, down to those that have always been there."""
    message = next(message for _, message, _ in VECTORS if type(message) is kind)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    defaults = len(kind.__struct_defaults__)
    names = kind.__struct_fields__
    for left_out in range(defaults + 1):
        shorter = msgspec.msgpack.decode(msgspec.msgpack.encode(fields[: len(fields) - left_out]), type=kind)

        kept = {name: getattr(message, name) for name in names[: len(names) - left_out]}
        assert shorter == kind(**kept)


class NewHello(Struct, frozen=True, array_like=True, tag=1):
    """What a later version might make of `Hello`."""

    least: int
    most: int
    name: str = ""
    required: int = 0
    optional: int = 0
    language: str = "en"


class OldHello(Struct, frozen=True, array_like=True, tag=1):
    """What an earlier version might have been."""

    least: int
    most: int


def test_an_older_and_a_newer_end_understand_each_other() -> None:
    new, old = msgspec.msgpack.encode(NewHello(1, 3, "x", language="de")), msgspec.msgpack.encode(OldHello(1, 1))

    assert decode(CLIENT, new) == Hello(1, 3, "x")
    assert decode(CLIENT, old) == Hello(1, 1)
    ours = encode(CLIENT, Hello(1, 1, "y", 1, 2))[HEADER_SIZE:]
    assert msgspec.msgpack.decode(ours, type=NewHello) == NewHello(1, 1, "y", 1, 2, "en")
    assert msgspec.msgpack.decode(ours, type=OldHello) == OldHello(1, 1)


# -- limits ------------------------------------------------------------------


def test_the_answer_to_a_failed_sync_fits_a_frame_with_everything_at_its_limit() -> None:
    """In ASCII, which is what `FRAME_LIMIT` says of itself."""
    name, text = "n" * NAME_LIMIT, "t" * TEXT_LIMIT
    failure = Failure("NameTaken", text, msgspec.Raw(msgspec.msgpack.encode([text])))
    bare = Piece(LAST - 1, LAST, LAST - 1, 3)
    missing = [Missing(name, name, text, [bare] * PIECE_LIMIT, [], failure)]
    missing += [Missing(name, name, text, [], [], failure)] * (ENTRY_LIMIT - 1)
    failures = [MapFailure(name, name, LAST, LAST, failure, LAST)] * ENTRY_LIMIT

    frame = encode(DAEMON, SyncRefused(LAST, missing, failures, truncated=True))

    assert 0.5 * FRAME_LIMIT < len(frame) < 0.8 * FRAME_LIMIT


def test_a_greeting_is_shorter_than_1_kib() -> None:
    assert len(encode(CLIENT, Hello(LAST, LAST, "n" * NAME_LIMIT, LAST, LAST))) < 1024


def test_a_text_is_cut_and_can_be_written() -> None:
    assert clip_text("x" * (TEXT_LIMIT + 1)) == "x" * TEXT_LIMIT
    assert clip_text("a\ud800b") == "a?b"
    assert clip_text("grün") == "grün"


def test_a_space_has_the_defaults_of_the_bus() -> None:
    space = CreateSpace(1, "s", 0x1000, LAST, [], 3)

    assert (space.straddle, space.asks_demand, space.answers, space.answer_us, space.epoch) == (
        "refuse",
        False,
        False,
        1_000_000,
        0,
    )
