"""A stream is cut where messages begin, however it was torn, and each descriptor stays with its message."""

import itertools

import pytest

from iommubus.abi.vhost_user import PAYLOAD_LIMIT, Channel
from iommubus.bridges.vhost_user_tap.cutting import Cutter, Passage
from tests.vhost_user_talk import CALL, HEADER, KICK, Said, iotlb, message, ram_table, ring, update

FD = 77  # only a number: nothing here uses it


def cut(*parts: tuple[bytes, list[int]]) -> list[list[Passage]]:
    cutter = Cutter(Channel.FRONT_END)
    return [cutter.feed(*part) for part in parts]


def test_what_is_whole_is_passed_on() -> None:
    one, other = update(0x1000), ring(CALL, 0x100)

    assert cut((one.data + other.data, []), (b"", [])) == [
        [Passage(one.data, [], True, 22), Passage(other.data, [], True, CALL)],
        [],
    ]


@pytest.mark.parametrize("said", [ram_table(), ring(KICK, 0, files=1), message(21, files=1)])
def test_a_message_torn_anywhere_is_passed_on_when_it_is_whole(said: Said) -> None:
    data, request = said.data, said.request
    for at in range(1, len(data)):
        assert cut((data[:at], [FD]), (data[at:], [])) == [[], [Passage(data, [FD], True, request)]], at
        assert cut((data[:at], []), (data[at:], [FD])) == [[], [Passage(data, [FD], True, request)]], at


def test_descriptors_go_with_the_message_that_begins_last() -> None:
    """The kernel ends a read behind what had descriptors, and may begin it with what had none."""
    call, kick = ring(CALL, 0x100), ring(KICK, 0, files=1)
    for at in range(len(call.data)):
        for end in range(1, len(kick.data) + 1):
            parts = cut((call.data[:at], []), (call.data[at:] + kick.data[:end], [FD]), (kick.data[end:], []))
            assert list(itertools.chain(*parts)) == [
                Passage(call.data, [], True, CALL),
                Passage(kick.data, [FD], True, KICK),
            ], (at, end)


def test_descriptors_of_several_messages_that_were_sent_at_once_go_with_one_that_takes_some() -> None:
    kick, plain = ring(KICK, 0, files=1), iotlb(2, 0x1000)

    assert cut((kick.data + plain.data, [FD])) == [
        [Passage(kick.data, [FD], True, KICK), Passage(plain.data, [], True, 22)]
    ]


def test_descriptors_that_come_with_nothing_that_takes_any_are_passed_on_all_the_same() -> None:
    plain = update(0x1000)

    assert cut((plain.data, [FD])) == [[Passage(plain.data, [FD], True, 22)]]
    assert cut((plain.data[:20], []), (plain.data[20:], [FD])) == [[], [Passage(plain.data, [FD], True, 22)]]


@pytest.mark.parametrize(
    "wrong", [HEADER.pack(22, 2, 32), HEADER.pack(22, 0x11, 32), HEADER.pack(5, 1, PAYLOAD_LIMIT + 1)]
)
def test_behind_a_header_that_cannot_be_read_everything_is_passed_on_as_it_comes(wrong: bytes) -> None:
    good = update(0x1000).data
    cutter = Cutter(Channel.FRONT_END)

    assert cutter.feed(good + wrong + b"tail", [FD]) == [Passage(good, [], True, 22), Passage(wrong + b"tail", [FD])]
    assert cutter.lost
    assert cutter.feed(good, [FD]) == [Passage(good, [FD])]


def test_the_longest_payload_is_still_cut() -> None:
    data = HEADER.pack(99, 1, PAYLOAD_LIMIT) + bytes(PAYLOAD_LIMIT)

    assert cut((data, [])) == [[Passage(data, [], True, 99)]]


def test_what_has_begun_is_given_back_at_the_end() -> None:
    cutter = Cutter(Channel.FRONT_END)
    cutter.feed(b"\x05\0", [FD])

    assert cutter.rest() == Passage(b"\x05\0", [FD])
    assert cutter.rest() == Passage(b"", [])
