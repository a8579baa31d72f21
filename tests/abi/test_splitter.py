"""Streams are cut into the messages that were sent, wherever the transport cuts them."""

import pytest
from hypothesis import given, strategies as st

from iommubus.abi.splitter import Splitter
from iommubus.errors import TooLong

LIMIT = 9


def length_of(header: bytes) -> int:
    assert len(header) == 2
    if header[1] > LIMIT:
        raise TooLong("message", header[1], LIMIT)
    return 2 + header[1]


def message(payload: bytes) -> bytes:
    return bytes([0xFE, len(payload)]) + payload


@given(st.lists(st.binary(max_size=LIMIT)), st.data())
def test_cuts_never_matter(payloads: list[bytes], data: st.DataObject) -> None:
    sent = [message(payload) for payload in payloads]
    stream, splitter, found = b"".join(sent), Splitter(2, length_of), list[bytes]()
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        splitter.feed(stream[:cut])
        found += iter(splitter.next_message, None)
        stream = stream[cut:]

    assert found == sent


def test_a_message_is_given_with_its_last_byte_and_not_before() -> None:
    splitter = Splitter(2, length_of)
    for byte in message(b"abc")[:-1]:
        splitter.feed(bytes([byte]))
        assert splitter.next_message() is None
    splitter.feed(b"c" + message(b""))

    assert splitter.next_message() == message(b"abc")
    assert splitter.next_message() == message(b"")
    assert splitter.next_message() is None


def test_a_forged_header_is_refused_as_soon_as_it_is_there_and_ever_after() -> None:
    splitter = Splitter(2, length_of)
    splitter.feed(message(b"ok") + b"\xfe")
    assert splitter.next_message() == message(b"ok")
    assert splitter.next_message() is None
    splitter.feed(bytes([LIMIT + 1]))

    for _ in range(2):
        with pytest.raises(TooLong):
            splitter.next_message()
        splitter.feed(message(b"later"))
