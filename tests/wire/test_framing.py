"""Frames come out as they went in, however the stream was sliced."""

import pytest
from hypothesis import given, strategies as st

from iommubus.errors import FrameTooLarge
from iommubus.wire.framing import FRAME_LIMIT, GREETING_LIMIT, HEADER_SIZE, FrameReader, frame

PAYLOADS = st.lists(st.binary(max_size=70), max_size=8)


def read(reader: FrameReader) -> list[bytes]:
    return list(iter(reader.next_payload, None))


@given(PAYLOADS, st.data())
def test_any_slicing_gives_the_same_payloads(payloads: list[bytes], data: st.DataObject) -> None:
    stream, reader, seen = b"".join(map(frame, payloads)), FrameReader(), list[bytes]()
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:cut])
        seen += read(reader)
        stream = stream[cut:]

    assert seen == payloads
    assert not reader.partial


def test_a_frame_is_its_length_in_little_endian_and_its_payload() -> None:
    assert frame(b"") == bytes(4)
    assert frame(b"abc") == b"\x03\x00\x00\x00abc"
    assert frame(bytes(0x12345))[:HEADER_SIZE].hex() == "45230100"


def test_a_payload_comes_with_its_last_byte_and_not_before() -> None:
    reader, whole = FrameReader(), frame(b"abc")
    for byte in whole[:-1]:
        reader.feed(bytes([byte]))
        assert reader.next_payload() is None
        assert reader.partial

    reader.feed(whole[-1:])

    assert reader.next_payload() == b"abc"
    assert reader.next_payload() is None
    assert not reader.partial


@pytest.mark.parametrize("limit", [0, 1, GREETING_LIMIT, FRAME_LIMIT])
def test_the_limit_is_the_longest_payload_that_is_taken(limit: int) -> None:
    reader = FrameReader(limit)
    reader.feed(frame(bytes(limit)))
    assert reader.next_payload() == bytes(limit)

    reader.feed((limit + 1).to_bytes(4, "little"))
    with pytest.raises(FrameTooLarge) as caught:
        reader.next_payload()
    assert (caught.value.size, caught.value.limit) == (limit + 1, limit)


def test_a_forged_length_is_refused_before_anything_of_it_is_kept() -> None:
    reader = FrameReader()
    reader.feed(b"GET ")  # what a browser says first

    with pytest.raises(FrameTooLarge, match="542393671 bytes, at most 1048576"):
        reader.next_payload()


def test_nothing_longer_than_the_limit_is_framed() -> None:
    assert len(frame(bytes(FRAME_LIMIT))) == HEADER_SIZE + FRAME_LIMIT
    with pytest.raises(FrameTooLarge):
        frame(bytes(FRAME_LIMIT + 1))


@given(PAYLOADS, st.data())
def test_payloads_may_be_asked_for_later(payloads: list[bytes], data: st.DataObject) -> None:
    """More may arrive before all that has arrived was asked for: nothing is lost, and nothing comes twice."""
    stream, reader, seen = b"".join(map(frame, payloads)), FrameReader(), list[bytes]()
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:cut])
        stream = stream[cut:]
        if data.draw(st.booleans()) and (payload := reader.next_payload()) is not None:
            seen.append(payload)

    assert seen + read(reader) == payloads
    assert not reader.partial


def test_a_payload_is_bytes_however_it_came() -> None:
    """What is made of it may keep parts of it, and the reader's buffer changes."""
    reader, whole = FrameReader(), frame(b"abc")
    reader.feed(whole + whole[:2])
    first = reader.next_payload()
    reader.feed(whole[2:])

    assert [type(first), type(reader.next_payload())] == [bytes, bytes]


def test_a_limit_can_be_raised_between_two_payloads() -> None:
    reader = FrameReader(1)
    reader.feed(frame(b"a") + frame(b"bc"))
    assert reader.next_payload() == b"a"

    reader.limit = 2

    assert reader.next_payload() == b"bc"


def test_the_longest_frame_may_come_byte_by_byte() -> None:
    """If each byte moved all before it, that would be 500 GB of copying, which no test waits for."""
    reader, whole = FrameReader(), frame(bytes(FRAME_LIMIT))
    feed, ask = reader.feed, reader.next_payload
    for at in range(len(whole) - 1):
        feed(whole[at : at + 1])
        assert ask() is None

    feed(whole[-1:])

    assert ask() == bytes(FRAME_LIMIT)


def test_very_many_frames_may_come_at_once() -> None:
    """If each frame moved all behind it, that would be as much."""
    reader, count = FrameReader(), 500_000
    reader.feed(frame(b"x") * count)

    assert sum(1 for _ in iter(reader.next_payload, None)) == count
