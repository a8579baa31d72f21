"""A thread carries both directions of all channels, and no direction waits for another."""

import os
import random
import socket
from collections.abc import Generator
from contextlib import contextmanager
from threading import Thread

import pytest

from iommubus.abi.vhost_user import Channel
from iommubus.bridges.vhost_user_tap import carrying
from iommubus.bridges.vhost_user_tap.carrying import CHANNELS, Carrier
from iommubus.bridges.vhost_user_tap.seen import Seen
from iommubus.transport.descriptors import close_all
from tests.peers import open_descriptors
from tests.vhost_user_talk import Talker, conversation, inode, memfd, message, miss, reply, update

CHANNEL = message(21, flags=9, files=1)


class Carried:
    """A carrier at work.

    Attributes:
        front: The front end.
        back: The back end.
        seen: What was seen.
        why: Why it ended, once it has.
    """

    def __init__(self, front: Talker, back: Talker, carrier: Carrier, seen: list[Seen]) -> None:
        self.front = front
        self.back = back
        self.seen = seen
        self.why = ""
        self.carrier = carrier
        self._thread = Thread(target=self._run)
        self._thread.start()

    def join(self) -> str:
        """Wait for its end."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.why

    def stop(self) -> str:
        """Stop it."""
        self.carrier.stop()
        return self.join()

    def fill(self) -> int:
        """Have the front end speak until neither the tap nor the back end takes more; return how often."""
        sent = 0
        self.front.sock.setblocking(False)
        while True:
            try:
                self.front.say(update(sent))
            except BlockingIOError:
                if self.carrier.main.to_back.waits:
                    self.front.sock.settimeout(20)
                    return sent
            else:
                sent += 1

    def channel(self) -> tuple[Talker, Talker]:
        """Open a back-end channel: the front end's side, and what the back end was given."""
        front, theirs = socket.socketpair()
        name = theirs.fileno()
        sent = inode(name)
        self.front.say(CHANNEL, theirs.detach())
        data, fds = self.back.hear()
        assert (data, len(fds)) == (CHANNEL.data, 1)
        assert inode(fds[0]) != sent
        return Talker(front), Talker(socket.socket(fileno=fds[0]))

    def _run(self) -> None:
        self.why = self.carrier.run()


@contextmanager
def carried() -> Generator[Carried]:
    """Give a carrier at work; in the end no descriptor is open that was not before."""
    before = open_descriptors()
    seen: list[Seen] = []
    (one, front), (back, other) = socket.socketpair(), socket.socketpair()
    with (
        Talker(one) as front_end,
        Talker(other) as back_end,
        Carrier(front, back, lambda each, _: seen.append(each)) as carrier,
    ):
        work = Carried(front_end, back_end, carrier, seen)
        try:
            yield work
        finally:
            work.stop()
    for each in seen:
        close_all(each.fds)
    assert open_descriptors() == before


def test_both_directions_are_carried() -> None:
    with carried() as work:
        for number in range(3):
            work.front.say(update(0x1000 * number))
            assert work.back.hear_data() == update(0x1000 * number).data
            work.back.say(reply(22, number))
            assert work.front.hear_data() == reply(22, number)

        assert work.stop() == "it was told to stop"
        assert [(each.channel, each.to_back) for each in work.seen] == [
            (Channel.FRONT_END, True), (Channel.FRONT_END, False),
        ] * 3  # fmt: skip


def test_the_back_end_channel_is_exchanged_and_carried_both_ways() -> None:
    with carried() as work:
        front, back = work.channel()
        with front, back:
            back.say(miss(0x1000))
            assert front.hear_data() == miss(0x1000).data
            front.say(reply(1))
            assert back.hear_data() == reply(1)
        work.stop()

        assert [(each.channel, each.to_back, each.count) for each in work.seen] == [
            (Channel.FRONT_END, True, 1), (Channel.BACK_END, False, 0), (Channel.BACK_END, True, 0),
        ]  # fmt: skip


def test_descriptors_travel_on_the_back_end_channel_too() -> None:
    with carried() as work:
        front, back = work.channel()
        with front, back:
            fd = memfd()
            sent = inode(fd)
            back.say(message(3, bytes(24), files=1), fd)
            _, fds = front.hear()
            assert [inode(fd) for fd in fds] == [sent]
            close_all(fds)


@pytest.mark.parametrize("front_leaves", [True, False])
def test_a_channel_that_ends_ends_for_the_other_side_too_and_the_connection_goes_on(front_leaves: bool) -> None:
    with carried() as work:
        front, back = work.channel()
        with front, back:
            leaving, staying = (front, back) if front_leaves else (back, front)
            leaving.say(miss(0x1000))
            leaving.sock.close()
            assert staying.hear_data() == miss(0x1000).data
            assert staying.gone()
        work.front.say(update(0x1000))
        assert work.back.hear_data() == update(0x1000).data


def test_a_channel_replaces_the_oldest_where_there_are_too_many() -> None:
    with carried() as work:
        channels = [work.channel() for _ in range(CHANNELS + 1)]
        assert channels[0][0].gone()
        assert channels[0][1].gone()
        for front, back in channels[1:]:
            back.say(miss(0x2000))
            assert front.hear_data() == miss(0x2000).data
        for front, back in channels:
            front.sock.close()
            back.sock.close()


def test_what_is_no_stream_is_passed_on_as_it_is() -> None:
    with carried() as work:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.close()
        for fds in ([memfd()], [other.detach()], [memfd(), memfd()], [os.open("/", os.O_PATH)]):
            inodes = [inode(fd) for fd in fds]
            work.front.say(CHANNEL, *fds)
            data, came = work.back.hear()
            assert (data, [inode(fd) for fd in came]) == (CHANNEL.data, inodes)
            close_all(came)


def test_a_channel_that_cannot_be_made_is_the_front_ends_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    with carried() as work:
        front, theirs = socket.socketpair()
        monkeypatch.setattr(socket, "socketpair", refuse)
        sent = inode(theirs.fileno())
        work.front.say(CHANNEL, theirs.detach())
        _, fds = work.back.hear()
        assert [inode(fd) for fd in fds] == [sent]
        close_all(fds)
        front.close()


def test_a_channel_without_a_descriptor_is_passed_on() -> None:
    with carried() as work:
        work.front.say(CHANNEL)
        assert work.back.hear_data() == CHANNEL.data


def test_one_side_is_read_while_the_other_reads_nothing() -> None:
    """T34: a front end that waits for its message to be taken still hears the back end, on both channels."""
    with carried() as work:
        front, back = work.channel()
        sent = work.fill()
        work.back.say(reply(22))
        assert work.front.hear_data() == reply(22)
        back.say(miss(0x3000))
        assert front.hear_data() == miss(0x3000).data
        for number in range(sent):
            assert work.back.hear_data() == update(number).data
        front.sock.close()
        back.sock.close()


@pytest.mark.parametrize("front_leaves", [True, False])
def test_whoever_leaves_the_other_hears_the_last_words_and_then_nothing(front_leaves: bool) -> None:
    with carried() as work:
        leaving, staying = (work.front, work.back) if front_leaves else (work.back, work.front)
        for number in range(5):
            leaving.say(update(number))
        leaving.sock.close()

        assert work.join() == f"the {'front' if front_leaves else 'back'} end is gone: it closed the connection"
        assert [staying.hear_data() for _ in range(5)] == [update(number).data for number in range(5)]


def test_last_words_wait_for_who_reads_them_late() -> None:
    with carried() as work:
        sent = work.fill()
        work.front.sock.close()

        for number in range(sent):
            assert work.back.hear_data() == update(number).data
        assert work.join() == "the front end is gone: it closed the connection"


def test_last_words_that_nobody_reads_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "LINGER", 0.01)
    with carried() as work:
        work.fill()
        work.front.sock.close()

        assert work.join() == "the front end is gone: it closed the connection, and what it had said was not taken"


def test_who_leaves_is_noticed_once_while_last_words_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll would tell of it again and again."""
    monkeypatch.setattr(carrying, "LINGER", 0.05)
    with carried() as work:
        served: list[int] = []
        serve = work.carrier.main.serve

        def count(fd: int, ready: int) -> bool:
            served.append(ready)
            return serve(fd, ready)

        monkeypatch.setattr(work.carrier.main, "serve", count)
        work.fill()
        before = len(served)
        work.front.sock.close()
        work.join()

        assert len(served) - before <= 2


@pytest.mark.parametrize("seed", range(10))
def test_hostile_bytes_are_passed_on_as_they_come(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    with carried() as work:
        sent = b""
        for _ in range(30):
            part = chance.choice(
                [chance.randbytes(chance.randrange(1, 90)), chance.choice(conversation(chance, 1)).data]
            )
            work.front.say(part, *[memfd() for _ in range(chance.randrange(3))])
            sent += part
        work.front.sock.close()
        assert work.join() == "the front end is gone: it closed the connection"
        heard = b""
        while len(heard) < len(sent):
            data, fds, _, _ = socket.recv_fds(work.back.sock, 1 << 16, 100)
            close_all(fds)
            heard += data

        assert heard == sent
