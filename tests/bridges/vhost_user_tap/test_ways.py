"""What is read at one end is sent at the other, then seen; what cannot be sent waits, and nothing is read meanwhile."""

import random
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from iommubus.abi.vhost_user import Channel
from iommubus.bridges.vhost_user_tap.seen import Seen
from iommubus.bridges.vhost_user_tap.ways import Way
from iommubus.transport.descriptors import close_all
from tests.peers import open_descriptors
from tests.vhost_user_talk import KICK, Said, Talker, conversation, inode, memfd, ram_table, ring, update


@contextmanager
def way(*, to_back: bool = True) -> Generator[tuple[Talker, Way, Talker, list[Seen]]]:
    """Give who sends, the way, who receives, and what was seen; no descriptor is left open."""
    before = open_descriptors()
    (one, source), (sink, other) = socket.socketpair(), socket.socketpair()
    seen: list[Seen] = []
    with source, sink, Talker(one) as sender, Talker(other) as receiver:
        middle = Way(source, sink, Channel.FRONT_END, lambda each, _: seen.append(each), to_back=to_back)
        yield sender, middle, receiver, seen
        middle.close()
        for each in seen:
            close_all(each.fds)
    assert open_descriptors() == before


def heard(talker: Talker) -> tuple[bytes, list[int]]:
    data, fds = talker.hear()
    inodes = [inode(fd) for fd in fds]
    close_all(fds)
    return data, inodes


@pytest.mark.parametrize("seed", range(20))
def test_a_conversation_arrives_byte_for_byte_with_its_descriptors(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    with way() as (sender, middle, receiver, seen):
        sent: list[tuple[bytes, list[int]]] = []
        for said in conversation(chance):
            fds = [memfd() for _ in range(said.files)]
            sent.append((said.data, [inode(fd) for fd in fds]))
            sender.say(said, *fds)
            if chance.random() < 0.5:
                middle.read()
        while len(seen) < len(sent):
            middle.read()

        assert [heard(receiver) for _ in sent] == sent
        assert [(each.data, each.count, each.whole) for each in seen] == [(data, len(fds), True) for data, fds in sent]


@pytest.mark.parametrize("said", [ram_table(), ring(KICK, 0, files=1), update(0x1000)])
def test_a_message_torn_anywhere_arrives_whole(said: Said) -> None:
    """Nobody could do anything with a part of it, and some programs take a part for an error."""
    with way() as (sender, middle, receiver, seen):
        for at in range(1, len(said.data)):
            fds = [memfd() for _ in range(said.files)]
            inodes = [inode(fd) for fd in fds]
            sender.say(said.data[:at], *fds)
            middle.read()
            receiver.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                receiver.sock.recv(1)
            receiver.sock.setblocking(True)
            sender.say(said.data[at:])
            middle.read()

            assert heard(receiver) == (said.data, inodes)
            assert seen[-1].data == said.data


def test_a_message_that_is_never_whole_arrives_as_it_came_when_its_sender_leaves() -> None:
    with way() as (sender, middle, receiver, seen):
        sender.say(ram_table().data[:30], memfd())
        middle.read()
        sender.sock.close()
        middle.read()

        assert receiver.sock.recv(100) == ram_table().data[:30]
        assert middle.ended == "it closed the connection"
        assert [(each.data, each.whole, each.count) for each in seen] == [(ram_table().data[:30], False, 1)]


def test_descriptors_are_kept_where_they_are_needed_and_closed_elsewhere() -> None:
    with way() as (sender, middle, _, seen):
        sender.say(ram_table(), memfd())
        middle.read()
        sender.say(ring(KICK, 0), memfd())
        middle.read()

        assert [len(each.fds) for each in seen] == [1, 0]
    with way(to_back=False) as (sender, middle, _, seen):
        sender.say(ram_table(), memfd())
        middle.read()

        assert [len(each.fds) for each in seen] == [0]


def test_what_a_receiver_does_not_take_waits_and_arrives_in_order() -> None:
    with way() as (sender, middle, receiver, seen):
        sent: list[tuple[bytes, list[int]]] = []
        while not middle.waits:
            said = update(0x1000 * len(sent))
            sender.say(said)
            sent.append((said.data, []))
            middle.read()
        fd = memfd()
        sent.append((ring(KICK, 0).data, [inode(fd)]))
        sender.say(ring(KICK, 0), fd)
        assert len(seen) == len(sent) - 2
        middle.flush()
        assert middle.waits

        arrived: list[tuple[bytes, list[int]]] = []
        for _ in sent:
            arrived.append(heard(receiver))
            middle.flush()
            middle.read()

        assert arrived == sent
        assert len(seen) == len(sent)


class Shy(socket.socket):
    """A socket that takes nothing the first time."""

    asked = 0

    def sendmsg(self, *arguments: Any) -> int:
        self.asked += 1
        if self.asked == 1:
            raise BlockingIOError
        return super().sendmsg(*arguments)


def test_what_comes_behind_what_waits_does_not_overtake_it() -> None:
    with way() as (sender, middle, receiver, _), Shy(fileno=middle.sink.detach()) as middle.sink:
        sender.say(update(0).data + update(0x1000).data)
        middle.read()
        middle.flush()

        assert [heard(receiver) for _ in range(2)] == [(update(0).data, []), (update(0x1000).data, [])]


def test_a_receiver_that_has_left_ends_it_and_everything_is_closed() -> None:
    with way() as (sender, middle, receiver, seen):
        receiver.sock.close()
        sender.say(ram_table(), memfd())
        sender.say(ram_table(), memfd())
        middle.read()

        assert middle.broken == "Broken pipe"
        assert not seen


def test_nothing_to_read_is_no_end() -> None:
    with way() as (_, middle, _, _):
        middle.read()

        assert not middle.ended


def test_descriptors_that_cannot_be_taken_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is passed on would not be what was said."""
    with way() as (sender, middle, _, seen):
        sender.say(ram_table(), memfd())
        monkeypatch.setattr("iommubus.bridges.vhost_user_tap.ways.DESCRIPTORS", 0)
        middle.read()

        assert middle.ended == "descriptors were lost: too many are open here"
        assert not seen


def test_an_error_of_the_connection_ends_it() -> None:
    with way() as (sender, middle, _, _):
        middle.source.send(b"unread")  # so that closing resets
        sender.sock.close()
        middle.read()

        assert middle.ended == "Connection reset by peer"
