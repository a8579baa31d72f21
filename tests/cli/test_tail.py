"""``iommubus tail``: everything that happens, and how much was lost where that was too much."""

import io
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from iommubus import Cap, Perm
from iommubus.cli.tail import Lines, filter_text, json_lines, write
from iommubus.events import DevIotlbUnmap, Lost, Map, Memory, Observed, Unmap
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Bye, Hello
from iommubus.wire.messages.watching import Observe, Observed as ObservedWords, Observing
from iommubus.wire.runs import to_watched
from tests.cli.commands import iommubus
from tests.daemons import PATIENCE, WELCOME, bus_at, command, environment, scripted

EVENTS: list[Observed] = [
    Map("vtd0", 1, 0x1000, 0x1FFF, 0x8000, Perm.RW),
    Map("vtd0", 2, 0x2000, 0x2FFF, 0x10, Perm.R, Memory("ram", 3, 0x10000)),
    Unmap("vtd0/00:03.0", 1, 0, 2**64 - 1),
    DevIotlbUnmap("vtd0", 3, 0x1000, 0x1FFF),
    Lost("vtd0", 1003, 1000),
]


def test_each_event_has_a_line_and_the_columns_grow_once() -> None:
    assert Lines(coloured=False)(EVENTS).splitlines() == [
        "vtd0         1  map     0x1000..0x1fff -> 0x8000 rw",
        "vtd0         2  map     0x2000..0x2fff -> ram@3+0x10 r",
        "vtd0/00:03.0         1  unmap   0x0..0xffffffffffffffff",
        "vtd0                 3  device  0x1000..0x1fff",
        "vtd0              1003  lost    1,000 events that this command, or its connection, was too slow for",
    ]


def test_a_terminal_sees_colours_and_is_told_nothing_by_names() -> None:
    (line,) = Lines(coloured=True)([Unmap("a\033[2Jb", 1, 0, 0)]).splitlines()

    assert line == "a\\x1b[2Jb         1  \033[31munmap   0x0..0x0\033[0m"


def test_each_event_is_a_json_object() -> None:
    ends = {"first": "0x1000", "last": "0x1fff"}

    assert list(map(json.loads, json_lines(EVENTS).splitlines())) == [
        {"kind": "map", "space": "vtd0", "seq": 1, **ends, "target": "0x8000", "perm": "rw", "memory": None},
        {
            "kind": "map", "space": "vtd0", "seq": 2, "first": "0x2000", "last": "0x2fff", "target": "0x10",
            "perm": "r", "memory": {"name": "ram", "generation": 3},
        },
        {"kind": "unmap", "space": "vtd0/00:03.0", "seq": 1, "first": "0x0", "last": "0xffffffffffffffff"},
        {"kind": "device", "space": "vtd0", "seq": 3, **ends},
        {"kind": "lost", "space": "vtd0", "seq": 1003, "count": 1000},
    ]  # fmt: skip


def test_what_the_daemon_leaves_out_is_said() -> None:
    assert filter_text(["vtd*"], Cap.ALL) == "unmap, map, device events of vtd*"
    assert filter_text(["a", "b"], Cap.MAP) == "map events of a, b; the daemon leaves out unmap, device"


# -- from a daemon -----------------------------------------------------------------


class Script:
    """A daemon that tells of some events and hangs up.

    Args:
        events: The events.
        end: How the stream ends.
    """

    def __init__(self, events: list[Observed], *end: DaemonMessage) -> None:
        self.asked: list[Observe] = []
        self._events = events
        self._end = list(end)

    def __call__(self, message: ClientMessage) -> list[DaemonMessage]:
        match message:
            case Hello():
                return [WELCOME]
            case Observe(request=request):
                self.asked.append(message)
                return [Observing(request, 5), ObservedWords(5, to_watched(self._events)), *self._end]
            case _:
                return []


def tail(script: Script, directory: Path, *words: str) -> Any:
    with scripted(directory, script) as address:
        return iommubus("tail", *words, "-a", address)


def test_the_filter_is_the_daemons(tmp_path: Path) -> None:
    script = Script(EVENTS[:1], ObservedWords(5, [], end=True))

    done = tail(script, tmp_path, "vtd*", "nvme", "--kinds", "map,unmap")

    assert [(each.patterns, each.kinds) for each in script.asked] == [(["vtd*", "nvme"], 3)]
    assert (done.exit_code, done.stdout) == (0, "vtd0         1  map     0x1000..0x1fff -> 0x8000 rw\n")
    assert done.stderr == "iommubus tail: unmap, map events of vtd*, nvme; the daemon leaves out device\n"


def test_what_came_before_the_end_of_the_connection_is_shown_before_that_is_said(tmp_path: Path) -> None:
    done = tail(Script(EVENTS, Bye("it stops")), tmp_path, "--json")

    assert done.exit_code == 1
    assert done.stdout == json_lines(EVENTS)
    head, end = done.stderr.splitlines()
    assert head == "iommubus tail: unmap, map, device events of *"
    assert end.startswith("iommubus tail: there is no connection to the daemon at unix:")
    assert end.endswith(": it stops")


def test_what_is_too_much_is_counted_and_so_is_what_the_daemon_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iommubus.cli.tail.KEPT", 2)
    events: list[Observed] = [Unmap("vtd0", seq, 0, 0) for seq in range(1, 5)]

    done = tail(Script([*events, Lost("vtd0", 14, 10)], ObservedWords(5, [], end=True)), tmp_path, "--json")

    assert list(map(json.loads, done.stdout.splitlines()))[2:] == [
        {"kind": "lost", "space": "vtd0", "seq": 14, "count": 12}
    ]


@pytest.mark.parametrize("kinds", ["", "maps"])
def test_what_is_no_kind_is_wrong_usage(kinds: str) -> None:
    assert iommubus("tail", "--kinds", kinds).exit_code == 2


def start(address: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("tail", *words, "-a", address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
    )


def test_events_of_a_producer_are_shown_as_they_happen_until_control_c(address: str) -> None:
    with start(address, "tail/*", "--kinds", "map") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("iommubus tail: map events of tail/*")
        with bus_at(address) as (portal, bus):
            for name in ("tail/a", "elsewhere", "tail/b"):
                space = portal.call(bus.create_space, name)
                portal.call(space.map, 0x1000, 0x1000, 0x8000, Perm.RW)
                portal.call(space.unmap, 0x1000, 0x1000)
                portal.call(space.sync)
            shown = [process.stdout.readline().split() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)

    assert [line[:3] for line in shown] == [["tail/a", "1", "map"], ["tail/b", "1", "map"]]
    assert (process.returncode, out, err) == (130, "", "iommubus tail: interrupted\n")


def test_who_does_not_read_any_more_ends_it_without_a_word(address: str) -> None:
    with start(address, "quiet/*") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()
        process.stdout.close()
        with bus_at(address) as (portal, bus):
            space = portal.call(bus.create_space, "quiet/a")
            portal.call(space.map, 0x1000, 0x1000, 0x8000, Perm.RW)
            portal.call(space.sync)
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == ""


def test_all_is_written_where_a_pipe_takes_less_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written = bytearray()

    def little(descriptor: int, data: memoryview) -> int:
        assert descriptor == 17
        written.extend(data[:3])
        return len(data[:3])

    class Out(io.StringIO):
        def fileno(self) -> int:
            return 17

    monkeypatch.setattr("sys.stdout", Out())
    monkeypatch.setattr(os, "write", little)

    write("zwölf Zeichen\udcff\n")

    assert written.decode() == "zwölf Zeichen?\n"
