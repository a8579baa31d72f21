"""Watch every space of a daemon: what happens, how much of it, and what was lost: start `iommubus serve` first.

Observers delay nobody, and are told what they were too slow for.  Each event is printed as
it comes; once a second, and in the end, how many there were of each kind in each space.
"""

import signal
import sys
from collections import Counter

import anyio

from iommubus import Lost, Observer, connect


class Rates:
    """How many events there were in each space, by kind: all in all, and since somebody asked last."""

    def __init__(self) -> None:
        self.all: Counter[tuple[str, str]] = Counter()
        self.fresh: Counter[tuple[str, str]] = Counter()

    def add(self, space: str, kind: str, count: int) -> None:
        """Count some."""
        self.all[space, kind] += count
        self.fresh[space, kind] += count

    def take(self) -> list[str]:
        """Return what was counted since this was last asked, a line a space."""
        fresh, self.fresh = self.fresh, Counter()
        return lines(fresh, "/s")


def lines(counts: Counter[tuple[str, str]], unit: str) -> list[str]:
    """Return counts as people read them."""
    spaces = sorted({space for space, _ in counts})
    return [
        f"{name}: " + ", ".join(f"{n}{unit} {kind}" for (space, kind), n in sorted(counts.items()) if space == name)
        for name in spaces
    ]


async def watch(observer: Observer, rates: Rates) -> None:
    """Print events as they come, and count them."""
    async for event in observer:
        print(event)
        kind, count = ("lost", event.count) if isinstance(event, Lost) else (type(event).__name__.lower(), 1)
        rates.add(event.space, kind, count)


async def tell_rates(rates: Rates) -> None:
    """Print once a second how many there were."""
    while True:
        await anyio.sleep(1)
        for line in rates.take():
            print(line)


async def end_at_ctrl_c(scope: anyio.CancelScope) -> None:
    """End what runs in a scope at Ctrl-C."""
    with anyio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def main(*patterns: str) -> None:
    """Watch the spaces whose names match, or all, until Ctrl-C."""
    rates = Rates()
    async with connect(name="monitor") as bus, bus.observe(*patterns) as observer:
        print(f"watching {', '.join(patterns) or 'every space'}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_at_ctrl_c, tasks.cancel_scope)
            tasks.start_soon(tell_rates, rates)
            await watch(observer, rates)
    print("all in all:", *lines(rates.all, ""), sep="\n")


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
