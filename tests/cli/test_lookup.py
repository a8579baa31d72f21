"""``iommubus lookup``: where an address leads."""

import json
from pathlib import Path

import pytest

from iommubus.caps import Perm
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Hello
from iommubus.wire.messages.queries import Found, Lookup
from iommubus.wire.messages.values import MemoryName, Piece
from tests.cli.commands import iommubus, read_json
from tests.daemons import WELCOME, bus_at, scripted


def test_an_address_is_looked_up(address: str) -> None:
    with bus_at(address) as (portal, bus):
        space = portal.call(bus.create_space, "lookup")
        portal.call(space.map, 0x1000, 0x2000, 0x8000, Perm.R)
        portal.call(space.sync)

        plain = iommubus("lookup", "lookup", "0x2010", "-a", address)
        told = read_json("lookup", "lookup", "4096", "-a", address, "--json")
        nothing = iommubus("lookup", "lookup", "0x3000", "-a", address)
        null = iommubus("lookup", "lookup", "0x3000", "-a", address, "--json")

    assert (plain.exit_code, plain.stdout) == (0, "0x2010 -> 0x9010, in 0x1000..0x2fff -> 0x8000 r\n")
    assert told == {
        "space": "lookup",
        "iova": "0x1000",
        "seq": 1,
        "mapping": {"first": "0x1000", "last": "0x2fff", "target": "0x8000", "perm": "r", "memory": None},
    }
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert nothing.stderr == "iommubus lookup: nothing is mapped at 0x3000 of 'lookup', as of event 1\n"
    assert (null.exit_code, json.loads(null.stdout)["mapping"]) == (1, None)


def found(message: ClientMessage) -> list[DaemonMessage]:
    """Answer each question with a mapping that leads into a memory."""
    match message:
        case Hello():
            return [WELCOME]
        case Lookup(request=request, space="vtd0"):
            memory = MemoryName("ram\033[2J", 2, 0x10000)
            return [Found(request, Piece(0x1000, 0x1FFF, 0x4000, 3, memory), 7)]
        case _:
            return []


def test_the_place_in_a_memory_is_told(tmp_path: Path) -> None:
    with scripted(tmp_path, found) as address:
        done = iommubus("lookup", "vtd0", "0x1008", "-a", address)

    assert done.stdout == "0x1008 -> ram\\x1b[2J@2+0x4008, in 0x1000..0x1fff -> ram\\x1b[2J@2+0x4000 rw\n"


def test_the_memory_is_told_to_programs(tmp_path: Path) -> None:
    with scripted(tmp_path, found) as address:
        told = read_json("lookup", "vtd0", "0x1008", "-a", address, "--json")

    assert told["mapping"]["memory"] == {"name": "ram\033[2J", "generation": 2}


def test_a_space_that_is_not_there_is_named(address: str) -> None:
    done = iommubus("lookup", "nowhere", "0", "-a", address)

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("iommubus lookup: no space is named 'nowhere'")


@pytest.mark.parametrize("iova", ["-1", "0x1g", "0x10000000000000000"])
def test_what_is_no_address_is_wrong_usage(iova: str) -> None:
    assert iommubus("lookup", "vtd0", "--", iova).exit_code == 2
