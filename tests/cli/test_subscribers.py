"""``iommubus subscribers``: who subscribes, and how far behind each one is."""

from pathlib import Path

import pytest

from iommubus.caps import Cap, Perm
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Hello
from iommubus.wire.messages.queries import ListSubscribers, SubscriberCounters, SubscriberInfo, Subscribers
from iommubus.wire.messages.values import Range
from tests.cli.commands import iommubus, read_json, rows
from tests.daemons import WELCOME, bus_at, scripted

LAST = 2**64 - 1
COUNTERS = SubscriberCounters(3, 1, 2, 0, 5, 4, 0, True, 1)


def test_a_subscriber_is_listed_with_its_lease(address: str) -> None:
    with bus_at(address, "back end") as (portal, bus):
        space = portal.call(bus.create_space, "subscribers/a")
        portal.call(space.map, 0x1000, 0x1000, 0x8000, Perm.RW)
        subscription = portal.call(lambda: bus.subscribe("subscribers/a", Cap.IOTLB, last=0xFFFF_FFFF, name="shadow"))
        with portal.wrap_async_context_manager(subscription) as events:
            portal.call(portal.call(events.batches).__anext__)

            (told,) = read_json("subscribers", "subscribers/*", "-a", address, "--json")
            done = iommubus("subscribers", "subscribers/a", "-a", address)

    assert 0 < told.pop("lease_left_seconds") <= 10
    assert int(told.pop("subscription"), 16) > 0
    assert told == {
        "subscriber": "shadow",
        "client": "back end",
        "space": "subscribers/a",
        "endpoints": ["subscribers/a"],
        "kinds": ["unmap", "map"],
        "ranges": [{"first": "0x0", "last": "0xffffffff"}],
        "stops": "lease",
        "fenced": None,
        "current": False,
        "lag": 0,
        "acked": 0,
        "handed": 1,
        "delivered": {"unmap": 0, "map": 1, "device": 0},
        "conflations": 0,
        "pinned": 0,
    }
    ((name, *words),) = rows(done.stdout)
    assert name == "shadow"
    assert " ".join(words).startswith("back end subscribers/a subscribers/a unmap,map 0x0..0xffffffff 0 0 1 lease ")
    assert done.stdout.endswith("reads its first replay\n")


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            SubscriberInfo(9, "gpu", "vmm", "", ["a", "b"], 1, [Range(0, LAST)], "exit", None, "", COUNTERS),
            "gpu vmm none a b unmap all 3 4 5 exit - current",
        ),
        (
            SubscriberInfo(
                9, "nic", "", "vtd0", ["n"], 4, [Range(0, 9), Range(11, 12)], "lease", 2_500_000, "too slow", COUNTERS
            ),
            "nic (no name) vtd0 n device 0x0..0x9 0xb..0xc 3 4 5 lease 2.5 s fenced: too slow",
        ),
    ],
)
def test_each_kind_of_subscriber_has_its_line(one: SubscriberInfo, line: str, tmp_path: Path) -> None:
    def answers(message: ClientMessage) -> list[DaemonMessage]:
        match message:
            case Hello():
                return [WELCOME]
            case ListSubscribers(request=request):
                return [Subscribers(request, [one])]
            case _:
                return []

    with scripted(tmp_path, answers) as address:
        done = iommubus("subscribers", "-a", address)

    assert [" ".join(row) for row in rows(done.stdout)] == [line]


def test_a_space_that_is_not_there_is_named(address: str) -> None:
    done = iommubus("subscribers", "nowhere", "-a", address)

    assert done.exit_code == 1
    assert done.stderr.startswith("iommubus subscribers: no space is named 'nowhere'")
