"""An exchange between a producer, a consumer and a daemon, and what befalls one of them in the middle of it."""

import signal
from pathlib import Path
from time import sleep
from typing import Any, Final, Literal

from iommubus.transport.clock import boot_clock
from tests.service.judged.board import Board
from tests.service.judged.nursery import PATIENCE, Nursery, Someone

LEASE: Final = 0.5
"""Seconds of a lease."""

TIMEOUT: Final = 1.0
"""Seconds of a `sync`: longer than a lease, so that one that is out can be waited for."""

LOOK: Final = 0.02
"""Seconds between two looks at what somebody has."""

HELP: Final = 6.0
"""Seconds after which hardware is restarted whose registration nobody can name."""

Stops = Literal["lease", "exit"]
Role = Literal["daemon", "producer", "consumer"]

ROLES: Final[tuple[Role, ...]] = ("daemon", "producer", "consumer")


class Stale(AssertionError):
    """A `sync` returned, and something that was unmapped before it could be used."""


class Exchange:
    """One exchange.

    Args:
        nursery: Where processes come from.
        directory: For its socket, the daemon's record and the board.
        stops: How the consumer is proven stopped.
    """

    def __init__(self, nursery: Nursery, directory: Path, stops: Stops) -> None:
        self.stops = stops
        self.live: dict[int, int] = {}  # targets by page, as the producer has them
        self.removed: list[int] = []
        self.syncs = 0
        self._nursery = nursery
        self._directory = directory
        self._address = f"unix:{directory / 'daemon.sock'}"
        self._boards: list[str] = []
        self._next = 0x1000
        self._settings = {
            "listen": [self._address],
            "leases": {"seconds": LEASE, "longest": LEASE},
            "deadlines": {"shutdown": 2.0},
            "log": {"level": "info"},
        }
        self._done: dict[Role, list[str]] = {"producer": [], "consumer": [], "daemon": []}
        self.cast: dict[Role, Someone] = {}

    # -- who takes part ------------------------------------------------------------

    def begin(self) -> None:
        """Start everybody."""
        for role in ROLES:
            self._bear(role)

    def _bear(self, role: Role) -> None:
        self.cast[role] = self._nursery.bear(role, self._settings)
        if role == "daemon":
            self.cast[role].answer()  # that it takes connections

    def end(self) -> None:
        """Kill whoever is left."""
        for someone in self.cast.values():
            someone.close()

    # -- steps ---------------------------------------------------------------------

    def command(self, role: Role, do: str) -> dict[str, Any]:
        """Return what somebody is told for a step, and take it as done."""
        arguments: dict[str, Any] = {}
        match do:
            case "connect":
                arguments = {"address": self._address, "name": role}
            case "subscribe":
                self._boards.append(str(self._directory / f"board-{len(self._boards)}"))
                arguments = {"stops": self.stops, "board": self._boards[-1]}
            case "map":
                pages = list(range(4))
                targets = [self._new_target() for _ in pages]
                self.live.update(zip(pages, targets, strict=True))
                arguments = {"pages": pages, "targets": targets}
            case "unmap":
                pages = [1, 2]
                self.removed += [self.live.pop(page) for page in pages if page in self.live]
                arguments = {"pages": pages}
            case "sync":
                arguments = {"timeout": TIMEOUT, "removed": list(self.removed), "boards": self._boards}
            case _:
                pass
        return arguments

    def _new_target(self) -> int:
        self._next += 0x1000
        return self._next

    def tell(self, role: Role, do: str) -> None:
        """Have somebody take a step, and do not wait."""
        arguments = self.command(role, do)
        self._done[role].append(do)
        self.cast[role].tell(do, **arguments)

    def hear(self, role: Role, do: str) -> dict[str, Any]:
        """Return the answer, judged."""
        answer = self.cast[role].answer()
        if do == "sync" and "stale" in answer:
            self.syncs += 1
            if answer["stale"]:
                raise Stale("; ".join(answer["stale"]))
        return answer

    def do(self, role: Role, do: str) -> dict[str, Any]:
        """Have somebody take a step."""
        self.tell(role, do)
        return self.hear(role, do)

    # -- what befalls them -----------------------------------------------------------

    def kill(self, role: Role) -> None:
        """Kill somebody, start another in its place, and have that one do what was done already."""
        self.cast[role].close()
        self._bear(role)
        done, self._done[role] = self._done[role], []
        for step in done:
            if step in {"connect", "create", "subscribe"}:
                self._succeed(role, step)
            if step == "create":
                self.removed += self.live.values()
                self.live.clear()
            if step == "map":
                self.do(role, "map")
            if step in {"leave", "close"}:
                self.do(role, step)

    def _succeed(self, role: Role, step: str) -> None:
        """Take a step that the daemon refuses until it has learnt of the end of the one before."""
        deadline = boot_clock() + PATIENCE
        while error := self.do(role, step).get("error"):
            assert boot_clock() < deadline, f"{role} cannot {step}: {error}"
            self._done[role].pop()
            sleep(LOOK)

    def finish(self, role: Role, do: str) -> None:
        """Hear the answer of a step that was told, and take it again if it could not be done."""
        error = self.hear(role, do).get("error")
        if error:
            assert do in {"connect", "create", "subscribe"}, f"{role} cannot {do}: {error}"
            self._done[role].remove(do)
            self._succeed(role, do)

    def go_on(self, role: Role, since: float) -> None:
        """Have somebody go on who was stopped at a moment, once a lease is over."""
        while boot_clock() < since + 1.5 * LEASE:
            sleep(LOOK)
        self.cast[role].signal(signal.SIGCONT)

    def sync_after(self, *steps: str) -> None:
        """Have the producer take steps, and `sync`, if it has a space."""
        if self.publishes:
            for step in (*steps, "sync"):
                self.do("producer", step)

    @property
    def publishes(self) -> bool:
        """Whether the producer has a space."""
        return "create" in self._done["producer"] and "close" not in self._done["producer"]

    @property
    def follows(self) -> bool:
        """Whether the consumer has subscribed."""
        return "subscribe" in self._done["consumer"] and "leave" not in self._done["consumer"]

    # -- how it ends -----------------------------------------------------------------

    def settle(self) -> None:
        """Wait until the consumer has what there is, and nobody uses anything else."""
        begun, helped = boot_clock(), False
        while problem := self._problem():
            late = boot_clock() - begun
            assert late < PATIENCE, f"it does not become well again: {problem}\n{self.said}"
            if late > HELP and not helped and self.stops == "exit":
                helped = True
                self.kill("consumer")
            sleep(LOOK)

    def _problem(self) -> str:
        if self.publishes:
            failed = self.do("producer", "sync").get("failed")
            if failed:
                return str(failed)
        if self.follows:
            has = dict(self.do("consumer", "state")["mapped"])
            if has != self.live:
                return f"the consumer has {has}, mapped is {self.live}"
            with Board(self._boards[-1]) as board:
                if board.standing != self.live:
                    return f"on the board is {board.standing}, mapped is {self.live}"
        return ""

    def part(self) -> None:
        """Have everybody leave, and the daemon stop: nothing may be left."""
        if self.follows:
            self.do("consumer", "leave")
        for role in ROLES[1:]:
            if "close" not in self._done[role]:
                self.do(role, "close")
            left = self.cast[role].ask("left")
            assert left["tasks"] == 1, f"{role} has left {left}"
        daemon = self.cast["daemon"]
        daemon.signal(signal.SIGTERM)
        daemon.wait_end()
        assert not (self._directory / "daemon.sock").exists(), daemon.said
        assert "Traceback" not in daemon.said, daemon.said

    @property
    def said(self) -> str:
        """What everybody has written."""
        return "\n".join(f"{someone.name}: {someone.said[-2000:]}" for someone in self.cast.values())


STEPS: Final[tuple[tuple[Role, str], ...]] = (
    ("consumer", "connect"),
    ("producer", "connect"),
    ("producer", "create"),
    ("consumer", "subscribe"),
    ("producer", "map"),
    ("producer", "sync"),
    ("producer", "unmap"),
    ("producer", "sync"),
    ("consumer", "leave"),
    ("producer", "close"),
)
"""What is done."""


def play(exchange: Exchange, victim: Role, number: signal.Signals, at: int) -> int:
    """Play it; somebody gets a signal while a step is taken.  Return how many `sync` were judged."""
    exchange.begin()
    try:
        for place, (role, do) in enumerate(STEPS):
            if place == at:
                befall(exchange, victim, number, role, do)
                exchange.settle()
            else:
                exchange.tell(role, do)
                exchange.finish(role, do)
        exchange.part()
    finally:
        exchange.end()
    return exchange.syncs


def befall(exchange: Exchange, victim: Role, number: signal.Signals, role: Role, do: str) -> None:
    """Take a step, in the middle of which somebody gets a signal."""
    exchange.tell(role, do)
    since = boot_clock()
    exchange.cast[victim].signal(number)
    if number == signal.SIGKILL:
        exchange.kill(victim)  # and have the next one do it again
        if victim != role:
            exchange.finish(role, do)
        return
    if victim == "consumer" and role == "producer":
        exchange.finish(role, do)
    if victim == "consumer":
        exchange.sync_after("unmap")
    exchange.go_on(victim, since)
    if victim != "consumer" or role != "producer":
        exchange.finish(role, do)
    for _ in range(3):
        exchange.sync_after()
