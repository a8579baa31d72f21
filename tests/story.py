"""A story: who plays in it, what befalls them, and how it has to end.

Everything is decided by dice, so one number is one story.  At its end all is quiet
and connected again: then everybody has exactly what is mapped, leaves, and nothing
is left behind.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, Protocol

import anyio

from iommubus import EventBus
from tests.network import Quality
from tests.players import Cacher, Consumer, Device, Player, Producer, Shadower
from tests.virtual import VirtualProcess
from tests.world import Machine

SECONDS: Final = 6.0
"""Most virtual seconds in which something may befall somebody."""

PEACE: Final = 120.0
"""Virtual seconds within which all has to be well again, once nothing befalls anybody any more."""

REMEDY: Final = 30.0
"""Virtual seconds after which somebody helps."""

LONG: Final = 4.0
"""Most seconds that somebody is stopped, or a link stalled: longer than a lease."""


QUIET: Final = 2.5
"""Seconds after which everybody has learnt of what befell them: more than a lease."""


class Host(Protocol):
    """Whoever has the bus."""

    fates: Sequence[str]
    """What can befall those who use it."""

    def begin(self) -> None:
        """Start it."""
        ...

    def connect(self, name: str) -> AbstractAsyncContextManager[EventBus]:
        """Connect the process that calls this."""
        ...

    def is_connected(self, name: str) -> bool:
        """Say whether the last one that connected under a name still is."""
        ...

    async def end(self) -> None:
        """Stop it in an orderly way, and look whether anything is left."""
        ...

    @property
    def process(self) -> VirtualProcess:
        """Its process."""
        ...


class Story:
    """One story.

    Args:
        machine: Where it plays.
        host: Who has the bus.
    """

    def __init__(self, machine: Machine, host: Host) -> None:
        self.machine = machine
        self.host = host
        self.dice = machine.dice
        self.makers: dict[str, Callable[[], Player]] = {}
        self.cast: dict[str, Player] = {}
        self._fates: dict[str, Callable[[], object]] = {
            "cut": self._cut,
            "stall": self._stall,
            "stop": self._stop,
            "kill": self._kill,
            "kill host": self._kill_host,
            "stop host": self._stop_host,
            "suspend": self._suspend,
        }
        self._due: list[tuple[float, Callable[[], object]]] = []

    async def play(self) -> None:
        """Play it to its end."""
        self._choose_cast()
        self.host.begin()
        for name in self.makers:
            self._enter(name)
        await self._befall()
        await self._calm_down()
        await self._settle()
        await self._part()
        await self.host.end()
        for process in self.machine.processes:
            if process.killed:
                await process.bury()

    # -- who plays ---------------------------------------------------------------

    def _choose_cast(self) -> None:
        dice, machine, connect = self.dice, self.machine, self.host.connect
        for number in range(dice.randint(1, 3)):
            names = [f"s{number}{letter}" for letter in "ab"[: dice.randint(1, 2)]]
            pull = dice.random() < 0.25
            called = f"producer {number}"
            self.makers[called] = partial(Producer, machine, called, connect, names, pull=pull)
            copying = [Shadower, Shadower, Device if machine.seen else Shadower]
            kinds: list[type[Consumer]] = [Cacher] if pull else [*copying, Cacher]
            for place in range(dice.randint(1, 2)):
                kind, name = dice.choice(kinds), f"consumer {number}{place}"
                seen = [names[0], f"{names[0]}-device"]
                wanted = seen if dice.random() < 0.1 else [dice.choice([*names, *seen])]
                self.makers[name] = partial(kind, machine, name, connect, wanted)

    def _enter(self, name: str) -> None:
        """Have somebody come in, for the first time or again."""
        player = self.makers[name]()
        before = self.cast.get(name)
        if before is not None:
            self.machine.players.remove(before)
            player.succeed(before)
        self.cast[name] = player
        self.machine.players.append(player)
        player.begin()

    # -- what befalls them ---------------------------------------------------------

    async def _befall(self) -> None:
        """Let one thing after the other happen."""
        loop = self.machine.loop
        end = loop.time() + self.dice.uniform(1, SECONDS)
        worst = self.dice.choice([Quality(), Quality(delay=0.05), Quality(delay=0.2, learn=4), Quality(piece=40)])
        self.machine.network.quality = worst
        while loop.time() < end:
            await anyio.sleep(self.dice.uniform(0, 1))
            self._check()
            self._do_due()
            if self.host.fates and self.dice.random() < 0.7:
                self._fates[self.dice.choice(self.host.fates)]()

    def _later(self, most: float, act: Callable[[], object]) -> None:
        self._due.append((self.machine.loop.time() + self.dice.uniform(0, most), act))

    def _do_due(self, *, all_of_it: bool = False) -> None:
        now = self.machine.loop.time()
        ready = [act for when, act in self._due if when <= now or all_of_it]
        self._due = [(when, act) for when, act in self._due if when > now and not all_of_it]
        for act in ready:
            act()

    def _check(self) -> None:
        for player in self.cast.values():
            if player.broken is not None:
                raise player.broken

    def _somebody(self) -> Player:
        return self.dice.choice(list(self.cast.values()))

    def _cut(self) -> None:
        links = list(self.machine.network.links)
        if links:
            self.machine.note("a link is cut")
            self.dice.choice(links).cut_off()

    def _stall(self) -> None:
        links = list(self.machine.network.links)
        if links:
            seconds = self.dice.uniform(0, LONG)
            self.machine.note("a link stalls for {:.3} s", seconds)
            self.dice.choice(links).stall(seconds)

    def _stop(self) -> None:
        player = self._somebody()
        if not player.process.stopped:
            self.machine.note("{} is stopped", player.name)
            player.process.stop()
            self._later(LONG, lambda: self._go_on(player))

    def _go_on(self, player: Player) -> None:
        self.machine.note("{} goes on", player.name)
        player.process.go_on()

    def _kill(self) -> None:
        player = self._somebody()
        if not player.process.killed:
            self.machine.note("{} is killed", player.name)
            player.process.kill()
            self._later(2, lambda: self._enter(player.name))

    def _kill_host(self) -> None:
        if not self.host.process.killed:
            self.machine.note("the daemon is killed")
            self.host.process.kill()
            self._later(2, self.host.begin)

    def _stop_host(self) -> None:
        process = self.host.process
        if not process.stopped:
            self.machine.note("the daemon is stopped")
            process.stop()
            self._later(LONG, process.go_on)

    def _suspend(self) -> None:
        seconds = self.dice.uniform(0, LONG)
        self.machine.note("the machine sleeps for {:.3} s", seconds)
        self.machine.suspended += seconds

    # -- how it ends -----------------------------------------------------------------

    async def _calm_down(self) -> None:
        """Let nothing befall anybody any more."""
        self.machine.note("all is calm")
        self._do_due(all_of_it=True)
        self.machine.network.quality = Quality()
        self._revive()
        for player in self.cast.values():
            player.calm = True
        await anyio.sleep(QUIET)

    def _revive(self) -> None:
        """Have everybody enter again who was killed, by the daemon perhaps."""
        for name, player in list(self.cast.items()):
            if player.process.killed:
                self._enter(name)
                self.cast[name].calm = True

    async def _settle(self) -> None:
        """Wait until everybody has everything."""
        begun, remedied = self.machine.loop.time(), False
        deadline = begun + PEACE
        while problems := self._problems():
            self._check()
            self._revive()
            if not remedied and self.machine.loop.time() > begun + REMEDY:
                remedied = True
                self._remedy()
            assert self.machine.loop.time() < deadline, f"it does not become well again: {'; '.join(problems)}"
            await anyio.sleep(0.2)
        self.machine.note("all is well")

    def _remedy(self) -> None:
        """Restart some, as an administrator would.

        A registration whose answer was lost is one that no client can name; where only
        the end of its process proves it stopped, nothing else helps.  Who could not
        remove something of a space that was closed, and whose producer was killed, is
        not asked again: that takes a `sync` of that space.
        """
        for player in list(self.cast.values()):
            if isinstance(player, Device) or (isinstance(player, Shadower) and player.setback):
                self.machine.note("{} is restarted", player.name)
                player.process.kill()
        self._revive()

    def _problems(self) -> list[str]:
        """Say what is not as it should be."""
        players = self.cast.values()
        waiting = [
            f"{player.name} has not synced" for player in players if isinstance(player, Producer) and not player.settled
        ]
        consumers = [player for player in players if isinstance(player, Consumer)]
        waiting += [f"{name} is not connected" for name in self.cast if not self.host.is_connected(name)]
        lost = [f"{player.name} is not current" for player in consumers if not (player.current or player.refused)]
        return waiting + lost + [problem for player in consumers if (problem := player.differs())]

    async def _part(self) -> None:
        """Have everybody leave: who was told first."""
        for player in sorted(self.cast.values(), key=lambda player: isinstance(player, Producer)):
            await player.end()
