"""What a subscription says, and when."""

from collections.abc import Callable
from math import inf

import pytest

from iommubus.client.speaking import Registration
from iommubus.wire.messages import ClientMessage, Message
from iommubus.wire.messages.subscribing import Ack, Fail, Leave, Subscribed, Using


class Line:
    def __init__(self) -> None:
        self.lease_end = 7.0
        self.said: list[ClientMessage] = []

    def send(self, message: ClientMessage) -> None:
        self.said.append(message)

    def ask(self, make: Callable[[int], ClientMessage], answered: Callable[[Message | Exception], None]) -> int:
        del answered
        self.said.append(make(5))
        return 5

    async def request(self, make: Callable[[int], ClientMessage]) -> Message:
        raise NotImplementedError


def registered(window: int = 100, lease_us: int | None = None) -> tuple[Line, Registration]:
    line = Line()
    return line, Registration(line, Subscribed(1, 22, "vfio", lease_us, window))


def test_acknowledgements_wait_until_half_the_window_is_used() -> None:
    line, registration = registered(100)
    registration.acknowledge(1, 30)
    assert line.said == []
    registration.acknowledge(2, 20)
    assert line.said == [Ack(22, 2)]
    registration.acknowledge(3, 30)
    assert line.said == [Ack(22, 2)]


def test_they_are_said_at_once_where_somebody_waits_or_the_window_is_not_known() -> None:
    for window, wanted in ((100, 2), (0, 0)):
        line, registration = registered(window)
        registration.want(wanted)
        registration.acknowledge(1, 1)
        registration.acknowledge(2, 1)
        assert line.said == [Ack(22, 1), Ack(22, 2)]
    line, registration = registered(100)
    registration.acknowledge(1, 1)
    registration.want(3)
    assert line.said == [Ack(22, 1)]
    registration.speak()
    assert line.said == [Ack(22, 1)]


def test_uses_are_told_when_there_is_the_first_and_when_there_is_none_left() -> None:
    line, registration = registered()
    for count in (0, 1, 2, 1, 0, 0):
        registration.use(count)
    assert line.said == [Using(22, 1), Using(22, 0)]


def test_failures_and_the_end_are_said() -> None:
    line, registration = registered()
    registration.fail(3, 1, OSError(12, "no room"))
    registration.leave(lambda _: None, clean=False, reason="it crashed")
    fail, leave = line.said
    assert isinstance(fail, Fail)
    assert (fail.subscription, fail.number, fail.index, fail.failure.kind) == (22, 3, 1, "OSError")
    assert leave == Leave(5, 22, False, "it crashed")


@pytest.mark.parametrize(("lease_us", "end"), [(1_000_000, 7.0), (None, inf)])
def test_only_what_has_a_lease_has_its_end(lease_us: int | None, end: float) -> None:
    assert registered(100, lease_us)[1].lease_end == end


def test_the_first_replay_is_through_once_its_end_is_acknowledged() -> None:
    _, registration = registered()
    assert not registration.turned
    registration.turn = 2
    registration.acknowledge(1, 1)
    assert not registration.turned
    registration.acknowledge(2, 1)
    assert registration.turned
