"""``iommubus tail``: what happens in address spaces, as it happens.

The daemon delays nobody for it, and neither does this end: events that neither
could keep are counted, and said to be lost.
"""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

import anyio
import anyio.to_thread
import msgspec
import typer

from ..bus.observer import Backlog
from ..caps import Cap
from ..client.channel import Channel
from ..errors import span
from ..events import DevIotlbUnmap, Lost, Map, Observed, Unmap
from ..service.seen.logs import one_line
from ..wire.messages import watching
from ..wire.messages.heard import ObservedHeard
from . import words
from .options import KINDS, AddressOption, IdentityOption, JsonLinesOption
from .running import run
from .talking import Where, asking, where

KEPT: Final = 65_536
"""Most events that wait for whoever reads the output, some 8 MiB: seconds of a busy
guest.  What comes beyond that is lost, and said to be."""

AT_ONCE: Final = 4096
"""Most events that are printed at once: as many as one message has."""

NAMES: Final[dict[type[Observed], str]] = {Map: "map", Unmap: "unmap", DevIotlbUnmap: "device", Lost: "lost"}

COLOURS: Final[dict[type[Observed], str]] = {
    Map: "\033[32m", Unmap: "\033[31m", DevIotlbUnmap: "\033[33m", Lost: "\033[1;35m"
}  # fmt: skip
"""What a terminal takes for a colour; `rich` takes longer for a line than a guest for ten events."""

PLAIN: Final = "\033[0m"

Show = Callable[[Iterable[Observed]], str]
"""Returns events as they are printed."""


def tail(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN...", help="Names of spaces, or patterns with *, ? and []; by default all."),
    ] = None,
    kinds: Annotated[
        Cap, typer.Option(parser=KINDS, metavar="KINDS", help="Which events: map, unmap, device, with commas between.")
    ] = Cap.ALL,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Show what happens in address spaces, as it happens, until the daemon stops or Ctrl-C.

    It delays nobody. Events that it was too slow for are shown as lost, with their number.
    """
    show: Show = json_lines if as_json else Lines(coloured=sys.stdout.isatty())
    run("tail", lambda: _tail(where(address, identity), patterns or ["*"], kinds, show))


class Lines:
    """Makes a line of each event.

    Args:
        coloured: Whether kinds have colours.
    """

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured
        self._width = 0

    def __call__(self, events: Iterable[Observed]) -> str:
        """Return the lines of events; names stand in a column as wide as the widest so far."""
        return "".join(map(self._line, events))

    def _line(self, event: Observed) -> str:
        name = one_line(event.space)
        self._width = max(self._width, len(name))
        kind = type(event)
        text = f"{NAMES[kind]:<6}  {one_line(_what(event))}"
        if self._coloured:
            text = f"{COLOURS[kind]}{text}{PLAIN}"
        return f"{name:<{self._width}}  {event.seq:>8}  {text}\n"


def json_lines(events: Iterable[Observed]) -> str:
    """Return events as JSON objects, each on a line of its own."""
    return "".join(f"{msgspec.json.encode(_described(event)).decode()}\n" for event in events)


def filter_text(patterns: list[str], kinds: Cap) -> str:
    """Return what is shown, and what the daemon leaves out."""
    shown = words.kind_names(kinds)
    hidden = [name for name in words.KINDS if name not in shown]
    rest = f"; the daemon leaves out {', '.join(hidden)}" if hidden else ""
    return f"{', '.join(shown)} events of {', '.join(patterns)}{rest}"


def write(text: str) -> None:
    """Write, in a thread: who reads may be slow, and the connection has to be kept alive meanwhile.

    Buffers are passed by, for their locks would keep the program from ending while
    this waits.
    """
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # no file, where somebody catches it
        sys.stdout.write(text)
        return
    left = memoryview(text.encode(errors="replace"))
    while left:
        left = left[os.write(descriptor, left) :]


# -- inside ------------------------------------------------------------------


def _what(event: Observed) -> str:
    if isinstance(event, Lost):
        return f"{event.count:,} events that this command, or its connection, was too slow for"
    if isinstance(event, Map):
        return words.mapping_text(event.first, event.last, event.target, event.perm, event.memory)
    return span(event.first, event.last)


def _described(event: Observed) -> dict[str, Any]:
    head = {"kind": NAMES[type(event)], "space": event.space, "seq": event.seq}
    if isinstance(event, Lost):
        return {**head, "count": event.count}
    ends = {"first": f"{event.first:#x}", "last": f"{event.last:#x}"}
    if not isinstance(event, Map):
        return {**head, **ends}
    memory = event.memory and {"name": event.memory.name, "generation": event.memory.generation}
    return {**head, **ends, "target": f"{event.target:#x}", "perm": words.perm_name(event.perm), "memory": memory}


class _Arrivals:
    """What the daemon has told, until it is printed."""

    def __init__(self) -> None:
        self._backlog = Backlog(KEPT)
        self._backlog.on_ready = self._wake
        self._changed = anyio.Event()
        self._why: Exception | None = None

    def take(self, channel: Channel, message: ObservedHeard) -> None:
        """Take what the daemon says."""
        del channel
        for event in message.events:
            if isinstance(event, Lost):
                self._backlog.miss(event)
            else:
                self._backlog.put(event)
        if message.end:
            self._backlog.end()

    def lose(self, why: Exception) -> None:
        """Take it that the connection is lost."""
        if not self._backlog.ended:
            self._why = why
            self._backlog.end()

    async def give(self) -> list[Observed]:
        """Return events as soon as there are any, and none at the end.

        Raises:
            Exception: Why the connection was lost, behind all that came before.
        """
        backlog = self._backlog
        while not backlog.settle():
            if backlog.ended and self._why is not None:
                raise self._why
            if backlog.ended:
                return []
            self._changed = anyio.Event()
            await self._changed.wait()
        return [backlog.take() for _ in range(min(len(backlog), AT_ONCE))]

    def _wake(self) -> None:
        self._changed.set()


async def _tail(place: Where, patterns: list[str], kinds: Cap, show: Show) -> None:
    arrivals = _Arrivals()
    async with asking(place, "tail", handlers={ObservedHeard: arrivals.take}, lost=arrivals.lose) as channel:
        await channel.request(lambda request: watching.Observe(request, patterns, int(kinds)))
        typer.echo(f"iommubus tail: {filter_text(patterns, kinds)}", err=True)
        while events := await arrivals.give():
            await anyio.to_thread.run_sync(write, show(events), abandon_on_cancel=True)
