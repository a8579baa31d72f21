"""``iommubus hold``: a producer by hand."""

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iommubus import Bus, Cap
from iommubus.cli.hold import follow
from iommubus.cli.orders import Outcome
from iommubus.errors import Overlap, SyncFailed
from tests.cli.commands import iommubus, read_json
from tests.daemons import PATIENCE, command, environment
from tests.loops import every_loop


async def lines(*texts: str) -> AsyncIterator[str]:
    for text in texts:
        yield text


class Told:
    """Keeps what came of each order."""

    def __init__(self) -> None:
        self.all: list[tuple[int, str, str]] = []

    def __call__(self, number: int, name: str, came: Outcome | Exception) -> None:
        self.all.append((number, name, type(came).__name__ if isinstance(came, Exception) else "done"))


@every_loop
async def test_each_line_is_told_of_and_the_end_closes_the_space() -> None:
    told = Told()
    async with Bus() as bus:
        space = await bus.create_space("vtd0")

        well = await follow(space, lines("# begin", "map 0 0x1000 0 r", "", "unmap 0 0x1000", "sync"), told)

        assert well
        assert told.all == [(2, "map", "done"), (4, "unmap", "done"), (5, "sync", "done"), (6, "close", "done")]
        assert bus.spaces() == ()


@every_loop
async def test_it_goes_on_after_a_failure_and_ends_as_failed() -> None:
    told = Told()
    async with Bus() as bus:
        space = await bus.create_space("vtd0")

        well = await follow(space, lines("map 0 0x1000 0 r", "map 0 0x1000 0 w", "frob 1", "sync"), told)

        assert not well
        assert told.all[1:] == [
            (2, "map", Overlap.__name__),
            (3, "frob 1", "BadOrder"),
            (4, "sync", "done"),
            (5, "close", "done"),
        ]


@every_loop
async def test_somebody_who_does_not_let_go_in_the_end_is_a_failure() -> None:
    told = Told()
    async with Bus() as bus:
        space = await bus.create_space("vtd0")
        async with bus.subscribe("vtd0", Cap.IOTLB, name="device", stops="exit") as events:
            space.map(0, 0x1000, 0, 1)  # type: ignore[arg-type]
            await anext(aiter(events))
            await space.fence("device")

            well = await follow(space, lines(), told)

        assert not well
        assert told.all == [(1, "close", SyncFailed.__name__)]


def given(monkeypatch: pytest.MonkeyPatch, *chunks: bytes) -> None:
    """Have this read from standard input, and then its end."""
    left = [*chunks, b""]
    monkeypatch.setattr("iommubus.cli.hold.read_input", lambda: left.pop(0))


def test_lines_may_come_in_pieces_and_the_last_one_without_end(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, b"map 0x1000 40", b"96 0 r\nunmap 0x10", b"00 4096\nsyn", b"c 1")

    done = iommubus("hold", "hold/pieces", "-a", address)

    assert [line.split()[0] for line in done.stdout.splitlines()] == ["mapped", "unmapped", "nobody", "closed;"]
    assert done.exit_code == 0
    assert done.stderr == f"iommubus hold: hold/pieces is open at {address}; the end of the input closes it\n"


def test_programs_hold_a_pull_space(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, b"unmap 0x1000 4096\nmap 0 4096 0 r\nsync 1\n")

    done = iommubus("hold", "hold/pull", "--pull", "--json", "-a", address)

    told: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["line"], each["order"], each["ok"]) for each in told] == [
        (1, "unmap", True),
        (2, "map", False),
        (3, "sync", True),
        (4, "close", True),
    ]
    assert told[1]["error"] == "NotOffered"
    assert done.exit_code == 1


# -- as a process ----------------------------------------------------------------


def start(*words: str, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words, "-a", address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
    )


def test_a_pipe_holds_a_space_until_it_ends(address: str) -> None:
    with start("hold", "hold/a", "--granule", "0x10", "--last", "65535", address=address) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("map 0x10 16 0 rw\nmap 0x10 16 0 r\nsync\nunm")
        process.stdin.flush()
        assert process.stdout.readline() == "mapped 0x10..0x1f -> 0x0 rw\n"
        assert process.stdout.readline().startswith("nobody uses what was unmapped, after ")

        (told,) = read_json("spaces", "hold/a", "-a", address, "--json")
        out, err = process.communicate("ap 0x10 16", PATIENCE)

    assert (told["mappings"], told["granule"], told["last"]) == (1, "0x10", "0xffff")
    assert told["producer"] == "iommubus hold"
    first, second = out.splitlines()
    assert first == "unmapped 0x10..0x1f: 0x10..0x1f -> 0x0 rw"
    assert second.startswith("closed; nobody uses what was unmapped")
    assert err.splitlines() == [
        f"iommubus hold: hold/a is open at {address}; the end of the input closes it",
        "iommubus hold: line 2: map: 0x10..0x1f overlaps the live mapping 0x10..0x1f",
    ]
    assert process.returncode == 1
    assert read_json("spaces", "hold/a", "-a", address, "--json") == []


def test_control_c_leaves_the_space_to_be_lost(address: str) -> None:
    with start("hold", "hold/c", address=address) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("iommubus hold: hold/c is open")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, err) == (130, "iommubus hold: interrupted\n")


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["x", "--pull", "--offers", "map,unmap"], 2, "--pull says what --offers says"),
        (["x", "--offers", "iotlb"], 2, "'iotlb' is no kind of event"),
        (["x", "--granule", "page"], 2, "'page' is no number"),
        (["x", "--granule", "3"], 1, "granule"),
        (["x*"], 1, "x*"),
    ],
)
def test_what_cannot_be_held_is_said(words: list[str], status: int, reason: str, address: str) -> None:
    done = iommubus("hold", *words, "-a", address)

    assert done.exit_code == status
    assert reason in " ".join(done.stderr.replace("│", "").split())


def test_no_daemon_no_space(tmp_path: Path) -> None:
    done = iommubus("hold", "x", "-a", f"unix:{tmp_path}/none")

    assert done.exit_code == 1
    assert "there is no connection to the daemon" in done.stderr
