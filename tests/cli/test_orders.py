"""Orders to a producer by hand: how they are read, and what comes of them."""

from typing import Any

import pytest

from iommubus import Bus, Cap, Perm
from iommubus.bus.abc import AddressSpace
from iommubus.cli.orders import ORDERS, BadOrder, carry_out, parse, usage
from iommubus.errors import NotOffered, Overlap, SyncFailed, UnknownName
from tests.loops import every_loop


def read(line: str) -> tuple[str, list[Any]] | None:
    parsed = parse(line)
    return None if parsed is None else (parsed[0], parsed[2])


READ: list[tuple[str, tuple[str, list[Any]] | None]] = [
    ("map 0x1000 4096 0x8000 rw", ("map", [0x1000, 4096, 0x8000, Perm.RW])),
    ("  remap\t0 1 2 R  # again", ("remap", [0, 1, 2, Perm.R])),
    ("unmap 4096 0x1000\r\n", ("unmap", [4096, 0x1000])),
    ("unmap-all", ("unmap-all", [])),
    ("invalidate 0 1", ("invalidate", [0, 1])),
    ("sync", ("sync", [])),
    ("sync 0.5", ("sync", [0.5])),
    ("drain", ("drain", [])),
    ("fence shadow", ("fence", ["shadow"])),
    ("", None),
    ("   # nothing", None),
]


@pytest.mark.parametrize(("line", "order"), READ)
def test_lines_are_read(line: str, order: tuple[str, list[Any]] | None) -> None:
    assert read(line) == order


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("frob", "there is no order 'frob'; there are map, remap"),
        ("map 1 2 3", "an order is 'map IOVA SIZE TARGET PERM'"),
        ("sync 1 2", r"an order is 'sync \[SECONDS\]'"),
        ("map 1 2 3 x", "'x' is no access; there are r, w, rw, in 'map IOVA SIZE TARGET PERM'"),
        ("unmap -1 2", "'-1' is no number from 0 to"),
        ("sync soon", "'soon' is no number of seconds"),
    ],
)
def test_what_is_no_order_is_named_with_what_would_be(line: str, reason: str) -> None:
    with pytest.raises(BadOrder, match=reason):
        parse(line)


def test_usage_names_every_order() -> None:
    assert [line.split()[0] for line in usage()] == list(ORDERS)


async def done(space: AddressSpace, line: str) -> tuple[str, Any]:
    parsed = parse(line)
    assert parsed is not None
    outcome = await carry_out(parsed[1], space, parsed[2])
    return outcome.text, outcome.told


@every_loop
async def test_what_was_done_is_told() -> None:
    async with Bus() as bus:
        space = await bus.create_space("vtd0", offers=Cap.ALL)

        mapped = await done(space, "map 0x1000 0x1000 0x8000 rw")
        assert mapped == (
            "mapped 0x1000..0x1fff -> 0x8000 rw",
            {"first": "0x1000", "last": "0x1fff", "target": "0x8000", "perm": "rw"},
        )
        assert (await done(space, "remap 0x1000 0x1000 0x9000 r"))[0] == "mapped anew 0x1000..0x1fff -> 0x9000 r"
        assert await done(space, "invalidate 0x1000 0x1000") == (
            "invalidated 0x1000..0x1fff in devices", {"first": "0x1000", "last": "0x1fff"}
        )  # fmt: skip
        assert await done(space, "unmap 0x1000 0x1000") == (
            "unmapped 0x1000..0x1fff: 0x1000..0x1fff -> 0x9000 r",
            {"removed": [{"first": "0x1000", "last": "0x1fff", "target": "0x9000"}]},
        )
        assert await done(space, "unmap-all") == ("unmapped everything: nothing was there", {"removed": []})
        assert await done(space, "drain") == ("every mailbox is at most half full", {})


@every_loop
async def test_a_sync_tells_who_counted_and_a_fence_what_is_proven() -> None:
    async with Bus() as bus:
        space = await bus.create_space("vtd0")
        text, told = await done(space, "sync")
        assert text.endswith(": nobody counted")
        assert told["outcomes"] == []

        async with bus.subscribe("vtd0", Cap.UNMAP, name="cache"):
            text, told = await done(space, "sync 1")
            assert text.startswith("nobody uses what was unmapped, after ")
            assert "cache acknowledged after " in text
            (outcome,) = told["outcomes"]
            assert (outcome["subscriber"], outcome["space"], outcome["how"]) == ("cache", "vtd0", "acknowledged")

            assert await done(space, "fence cache") == (
                "cache is fenced, and proven stopped", {"subscriber": "cache", "proven": True}
            )  # fmt: skip


@every_loop
async def test_what_cannot_be_done_is_raised() -> None:
    async with Bus() as bus:
        space = await bus.create_space("vtd0")
        await done(space, "map 0 0x1000 0 r")

        for line, error in (
            ("map 0 0x1000 0 w", Overlap),
            ("invalidate 0 0x1000", NotOffered),
            ("fence nobody", UnknownName),
        ):
            with pytest.raises(error):
                await done(space, line)

        async with bus.subscribe("vtd0", Cap.IOTLB, name="slow") as events:
            await anext(aiter(events))
            await done(space, "unmap 0 0x1000")
            with pytest.raises(SyncFailed, match="slow on vtd0"):
                await done(space, "sync 0.01")


@every_loop
async def test_who_is_not_proven_stopped_is_told_of() -> None:
    async with Bus() as bus:
        space = await bus.create_space("vtd0")
        await done(space, "map 0 0x1000 0 r")
        subscription = bus.subscribe("vtd0", Cap.IOTLB, name="device", stops="exit")
        async with subscription as events:
            await anext(aiter(events))
            text, told = await done(space, "fence device")

        assert (text, told["proven"]) == (
            "device is fenced, and not proven stopped: every sync fails until it is", False
        )  # fmt: skip
