"""Several logs one after the other, on one event loop, in front of a view.

The whole demo without its command line: nothing here prints or parses.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Protocol

import anyio
from msgspec import Struct

from ..abi.qemu_trace import Family
from .house import IN_ONE_PROCESS, Place
from .player import Watch, play
from .result import Result
from .script import Script, Unplayable
from .source import SHIPPED, Expected, load

LOOPS: Final[dict[str, dict[str, Any]]] = {
    "asyncio": {"backend": "asyncio", "backend_options": {"use_uvloop": False}},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
"""How `anyio.run` is told about each loop."""


class Exhibit(Struct, frozen=True):
    """A script, and what is known of it beforehand."""

    script: Script
    about: str = ""
    expected: Expected | None = None


class View(Protocol):
    """What the demo shows itself through."""

    def playing(self, exhibit: Exhibit, place: Place) -> AbstractContextManager[Watch]:
        """Show that a trace is played, for as long as the block lasts."""
        ...

    def show(self, exhibit: Exhibit, result: Result) -> None:
        """Show what came out of one trace."""
        ...

    def conclude(self, results: Sequence[Result]) -> None:
        """Say how it all ended."""
        ...


def exhibits(path: str | None, family: Family | None, *, keep_going: bool = False) -> Iterator[Exhibit]:
    """Yield what is to be played, each read when its turn comes.

    Args:
        path: A log; by default the shipped ones, with what is known of them.
        family: What to read; of the shipped logs, only those that have it.
        keep_going: Count damaged lines instead of raising.

    Raises:
        Unplayable: There is nothing to play.
        TraceError: A line is damaged, and not ``keep_going``.
    """
    if path is not None:
        yield Exhibit(load(path, family, keep_going=keep_going))
        return

    chosen = [shipped for shipped in SHIPPED if family in {None, shipped.family}]
    if not chosen:
        known = ", ".join(shipped.family for shipped in SHIPPED)
        raise Unplayable(f"no shipped trace is played as {family}; they have {known}; name a file with --trace")

    for shipped in chosen:
        yield Exhibit(shipped.load(), shipped.about, shipped.expected)


def perform(
    programme: Iterable[Exhibit], view: View, loop: str, places: Sequence[Place] = (IN_ONE_PROCESS,)
) -> list[Result]:
    """Play everything in each place, and show it.

    Args:
        programme: What to play.
        view: What shows it.
        loop: One of `LOOPS`.
        places: Where.
    """
    results: list[Result] = []
    for exhibit in programme:
        for place in places:
            with view.playing(exhibit, place) as watch:
                job = partial(play, exhibit.script, expected=exhibit.expected, watch=watch, venue=place.venue)
                result: Result = anyio.run(job, **LOOPS[loop])

            view.show(exhibit, result)
            results.append(result)

    view.conclude(results)
    return results


def conclusion(results: Sequence[Result]) -> str:
    """Return the last line: it starts with ``demo ok`` or ``demo failed``."""
    failed = [result for result in results if not result.ok]
    if failed:
        more = f" (and {len(failed) - 1} more of {len(results)} plays)" if len(failed) > 1 else ""
        return f"demo failed: {failed[0].title}: {failed[0].reasons[0]}{more}"

    titles = {result.title for result in results}
    traces = f"{len(titles)} traces" if len(titles) != 1 else "1 trace"
    events = sum(result.events for result in results)
    syncs = sum(len(result.sync_seconds) for result in results)
    where = _where({result.processes for result in results})
    return f"demo ok: {traces}{where}, {events:,} events, {syncs} syncs, every copy and cache was right"


def _where(processes: Set[int]) -> str:
    """Return how many processes took part, if it was ever more than one."""
    most = max(processes, default=1)
    if most == 1:
        return ""

    return f"{' in one process and' if 1 in processes else ''} across {most} processes"
