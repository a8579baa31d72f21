"""What messages cost of a turn."""

import pytest

from iommubus.events import Unmap
from iommubus.service.turns import ASKED, LOOKED_THROUGH, ROW, TURN, cost
from iommubus.wire.messages import Message
from iommubus.wire.messages.greeting import Ping
from iommubus.wire.messages.heard import PublishHeard
from iommubus.wire.messages.queries import ListSpaces, Lookup
from iommubus.wire.messages.subscribing import Ack
from iommubus.wire.messages.syncing import Drain, Sync


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Ping(1), ROW),
        (Ack(1, 1), ROW),
        (Lookup(1, "vtd0", 0), ASKED),
        (Drain(1, "vtd0", 1), ASKED),
        (Sync(1, 1, []), LOOKED_THROUGH),
        (ListSpaces(1), LOOKED_THROUGH),
        (PublishHeard("vtd0", 1, 1, []), ROW),
        (PublishHeard("vtd0", 1, 1, [Unmap("vtd0", 1, 0, 1)] * 100), 101 * ROW),
    ],
    ids=repr,
)
def test_a_message_costs_what_its_work_takes(message: Message, expected: int) -> None:
    assert cost(message) == expected


def test_what_looks_at_everything_takes_a_turn_for_itself() -> None:
    assert LOOKED_THROUGH >= TURN
