"""``iommubus spaces``: what a producer made is what is listed."""

from pathlib import Path

from iommubus.caps import Cap, Perm
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Hello
from iommubus.wire.messages.queries import ListSpaces, SpaceInfo, Spaces
from tests.cli.commands import iommubus, read_json, rows
from tests.daemons import WELCOME, bus_at, scripted


def test_a_space_is_listed_with_what_is_in_it(address: str) -> None:
    with bus_at(address, "vmm") as (portal, bus):
        space = portal.call(lambda: bus.create_space("spaces/a", last=2**32 - 1, offers=Cap.ALL))
        portal.call(space.map, 0x1000, 0x1000, 0x8000, Perm.RW)
        portal.call(space.sync)

        done = iommubus("spaces", "spaces/*", "-a", address)
        (told,) = read_json("spaces", "spaces/a", "-a", address, "--json")

    (row,) = rows(done.stdout)
    assert done.exit_code == 0
    assert row[:-1] == ["spaces/a", "vmm", "1", "1", "nothing", "unmap,map,device", "0x1000", "0xffffffff"]
    assert told.pop("epoch") == row[-1]
    assert told == {
        "space": "spaces/a",
        "producer": "vmm",
        "mappings": 1,
        "seq": 1,
        "demand": [],
        "offers": ["unmap", "map", "device"],
        "granule": "0x1000",
        "last": "0xffffffff",
    }


def test_patterns_choose(address: str) -> None:
    with bus_at(address) as (portal, bus):
        for name in ("choose/a", "choose/b", "other/a"):
            portal.call(bus.create_space, name)

        both = read_json("spaces", "choose/[ab]", "-a", address, "--json")
        some = read_json("spaces", "other/*", "choose/b", "-a", address, "--json")

    assert [each["space"] for each in both] == ["choose/a", "choose/b"]
    assert {each["space"] for each in some} == {"other/a", "choose/b"}


def test_where_nothing_is_open_there_is_the_head_alone(address: str) -> None:
    done = iommubus("spaces", "no-such/*", "-a", address)

    assert done.exit_code == 0
    assert rows(done.stdout) == []
    assert read_json("spaces", "no-such/*", "-a", address, "--json") == []


def test_a_long_list_comes_in_parts_and_one_without_producer_is_nobodys(tmp_path: Path) -> None:
    def answers(message: ClientMessage) -> list[DaemonMessage]:
        match message:
            case Hello():
                return [WELCOME]
            case ListSpaces(request=request, patterns=["vtd*"], follow=False):
                a, b = (SpaceInfo(name, 1, 0x1000, 0xFFFF, 3) for name in ("vtd0", "vtd1"))
                return [Spaces(request, [a], more=True), Spaces(request, [b])]
            case _:
                return []

    with scripted(tmp_path, answers) as address:
        done = iommubus("spaces", "vtd*", "-a", address)

    assert [row[:2] for row in rows(done.stdout)] == [["vtd0", "nobody"], ["vtd1", "nobody"]]
