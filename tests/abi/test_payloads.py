"""Nothing, and bytes that are passed on."""

import pytest
from hypothesis import given, strategies as st

from iommubus.abi.payloads import EMPTY, OPAQUE, Empty, Opaque
from iommubus.errors import BadLength


def test_nothing_is_nothing() -> None:
    assert EMPTY.decode(b"") == Empty()
    assert EMPTY.encode(Empty()) == b""
    with pytest.raises(BadLength):
        EMPTY.decode(b"\0")


@given(st.binary(max_size=100))
def test_what_is_passed_on_stays_as_it_is(data: bytes) -> None:
    assert OPAQUE.decode(bytearray(data)) == Opaque(data)
    assert OPAQUE.encode(Opaque(data)) == data
    assert OPAQUE.least <= len(data) <= OPAQUE.most
