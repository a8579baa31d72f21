"""``iommubus serve``: the daemon at its sockets, from its start to its end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from logging import getLogger
from types import TracebackType
from typing import Final, Self

import anyio

from ..errors import ConfigError
from ..transport.activation import inherited
from ..transport.address import Address, parse_address
from ..transport.credentials import boot_id
from ..transport.listeners import Listener, listen
from ..transport.tasks import Tasks
from ..transport.tls import server_context
from .accepting import Acceptor
from .daemon import Daemon
from .proof.record import Record
from .seen import logs
from .seen.http import serve_pages
from .seen.systemd import Supervisor
from .settings.config import Config
from .settings.rules import Rules

LOOK: Final = 0.05
"""Seconds between two looks whether a daemon that is to stop has anything left to do."""

STATUS: Final = 10.0
"""Seconds after which the service manager is told again what the daemon does."""

STOPS: Final = (signal.SIGTERM, signal.SIGINT)
"""What tells the daemon to stop."""

STOPPED: Final = "the daemon was told to stop"

LOGGER: Final = getLogger("iommubus.service")

Reload = Callable[[], Config]
Ready = Callable[[Sequence[Address]], object]


async def serve(config: Config, *, reload: Reload | None = None, ready: Ready | None = None) -> None:
    """Serve until SIGTERM or SIGINT, and then end in order; a second one ends it at once.

    SIGHUP puts the rules of ``reload`` in the place of those there are.

    Args:
        config: The settings.
        reload: Reads them again.
        ready: Called with the addresses once connections are taken.

    Raises:
        ListenError, AddressError: There is no place to listen at.
        BadSetting, BadCertificate: What the settings name cannot be used.
        LeasesUnreadable, LeasesUnwritable: It is not known who may still use what an earlier daemon handed out.
    """
    with ExitStack() as stack:
        stack.enter_context(logging_to_stderr(config))
        signals = stack.enter_context(Signals())
        listeners = [stack.enter_context(each) for each in inherited() or listening(config)]
        record = Record(config.state_path(tuple(each.address for each in listeners)), boot_id())
        stack.callback(record.close)
        async with Daemon(config, record=record) as daemon, Tasks() as tasks:
            await Server(daemon, signals, Supervisor(), reload).run(listeners, tasks, ready)


def listening(config: Config) -> list[Listener]:
    """Listen where the settings say; raises as `serve`."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen(address, config.mode)) for address in config.addresses]
        stack.pop_all()
        return listeners


@contextmanager
def logging_to_stderr(config: Config) -> Generator[None]:
    """Have log lines written as the settings say."""
    handler = logs.configure(config.log, sys.stderr)
    try:
        yield
    finally:
        getLogger("iommubus").removeHandler(handler)


class Signals:
    """What the daemon is told by signals, from its start to its very end.

    Attributes:
        stop: Set by the first SIGTERM or SIGINT.
        stop_at_once: Set by the second.
        on_hangup: Called at SIGHUP.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.stop_at_once = asyncio.Event()
        self.on_hangup: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (*STOPS, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        LOGGER.info("%s: stopping", number.name)
        if self.stop.is_set():
            self.stop_at_once.set()
        self.stop.set()

    def _hang_up(self) -> None:
        if self.on_hangup is not None:
            self.on_hangup()


class Server:
    """A daemon that runs.

    Args:
        daemon: The daemon.
        signals: What it is told.
        supervisor: The service manager.
        reload: Reads the settings again.
    """

    def __init__(self, daemon: Daemon, signals: Signals, supervisor: Supervisor, reload: Reload | None) -> None:
        self._daemon = daemon
        self._signals = signals
        self._supervisor = supervisor
        self._reload = reload

    async def run(self, listeners: Sequence[Listener], tasks: Tasks, ready: Ready | None) -> None:
        """Serve at these listeners until told to stop."""
        config = self._daemon.config
        context = None if config.tls is None else server_context(config.tls)
        async with self._pages(tasks):
            async with Tasks() as accepting:
                for listener in listeners:
                    accepting.start_soon(Acceptor(self._daemon, listener, context).run)
                tasks.start_soon(self._tell_supervisor)
                self._signals.on_hangup = self._replace_rules
                self._say_ready([listener.address for listener in listeners], ready)
                await self._signals.stop.wait()
                self._supervisor.stopping()
            await self._drain()

    def _say_ready(self, addresses: Sequence[Address], ready: Ready | None) -> None:
        LOGGER.info("serving at %s", ", ".join(map(str, addresses)))
        self._supervisor.ready()
        if ready is not None:
            ready(addresses)

    def _replace_rules(self) -> None:
        if self._reload is None:
            LOGGER.warning("SIGHUP: there is no file to read the rules from")
            return
        try:
            config = self._reload()
        except ConfigError as failure:
            LOGGER.error("SIGHUP: the rules stay as they are: %s", failure)  # noqa: TRY400 - the sentence says it all
            return
        self._daemon.rules = Rules(config.rules, os.getuid())
        LOGGER.info("SIGHUP: there are %d rules now", len(config.rules))

    # -- the end -----------------------------------------------------------------

    async def _drain(self) -> None:
        """Begin nothing new, and wait until what is under way has come to its end, within the deadline."""
        seconds = self._daemon.config.deadlines.shutdown
        self._daemon.drain(STOPPED, seconds)
        with anyio.move_on_after(seconds):
            while not self._daemon.quiet and not self._signals.stop_at_once.is_set():  # noqa: ASYNC110 - it looks at counters
                await asyncio.sleep(LOOK)

    # -- beside it -----------------------------------------------------------------

    async def _tell_supervisor(self) -> None:
        """Say that it is alive, and what it does."""
        interval = self._supervisor.interval or STATUS
        while True:
            self._supervisor.watchdog()
            self._supervisor.status(self._daemon.status)
            await asyncio.sleep(min(interval, STATUS))

    @asynccontextmanager
    async def _pages(self, tasks: Tasks) -> AsyncGenerator[None]:
        """Serve ``/metrics`` and ``/healthz``, if that is wanted."""
        daemon, place = self._daemon, self._daemon.config.metrics.listen
        if place is None:
            yield
            return
        from .seen import metrics  # noqa: PLC0415 - prometheus-client need not be there where nobody asks

        pages = metrics.pages(daemon.bus.statistics, daemon.counts, lambda: daemon.proof.health(daemon.clock()))
        with listen(parse_address(place), daemon.config.mode) as listener:
            tasks.start_soon(serve_pages, listener.sock, pages)
            yield
