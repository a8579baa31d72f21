"""``iommubus serve``: the daemon at its sockets, from its start to its end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from logging import getLogger
from typing import Final

import anyio

from ..errors import ConfigError
from ..transport.activation import inherited
from ..transport.address import Address, parse_address
from ..transport.credentials import boot_id
from ..transport.listeners import Listener, listen
from ..transport.tasks import Tasks
from ..transport.tls import server_context
from . import logs
from .accepting import Acceptor
from .config import Config
from .daemon import Daemon
from .http import serve_pages
from .record import Record
from .rules import Rules
from .systemd import Supervisor

LOOK: Final = 0.05
"""Seconds between two looks whether a daemon that is to stop has anything left to do."""

STATUS: Final = 10.0
"""Seconds after which the service manager is told again what the daemon does."""

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
        listeners = [stack.enter_context(each) for each in inherited() or listening(config)]
        addresses = [listener.address for listener in listeners]
        record = Record(config.state_path(tuple(addresses)), boot_id())
        stack.callback(record.close)
        async with Daemon(config, record=record) as daemon, Tasks() as tasks:
            server = Server(daemon, Supervisor(), reload)
            await server.run(listeners, tasks, ready)


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


class Server:
    """A daemon that runs.

    Args:
        daemon: The daemon.
        supervisor: The service manager.
        reload: Reads the settings again.
    """

    def __init__(self, daemon: Daemon, supervisor: Supervisor, reload: Reload | None) -> None:
        self._daemon = daemon
        self._supervisor = supervisor
        self._reload = reload
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self, listeners: Sequence[Listener], tasks: Tasks, ready: Ready | None) -> None:
        """Serve at these listeners until told to stop."""
        config = self._daemon.config
        context = None if config.tls is None else server_context(config.tls)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._signals())
            accepting = await stack.enter_async_context(Tasks())
            for listener in listeners:
                accepting.start_soon(Acceptor(self._daemon, listener, context).run)
            await stack.enter_async_context(self._pages(tasks))
            tasks.start_soon(self._tell_supervisor)
            addresses = [listener.address for listener in listeners]
            LOGGER.info("serving at %s", ", ".join(map(str, addresses)))
            self._supervisor.ready()
            if ready is not None:
                ready(addresses)
            await self._stopping.wait()
            self._supervisor.stopping()
            await accepting.__aexit__(None, None, None)
            await self._drain()

    # -- signals -----------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._replace_rules)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        LOGGER.info("%s: stopping", number.name)
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

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
            while not self._daemon.quiet and not self._at_once.is_set():  # noqa: ASYNC110 - it looks at counters
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
        from . import metrics  # noqa: PLC0415 - prometheus-client need not be there where nobody asks

        pages = metrics.pages(daemon.bus.statistics, daemon.counts, lambda: daemon.proof.health(daemon.clock()))
        with listen(parse_address(place), daemon.config.mode) as listener:
            tasks.start_soon(serve_pages, listener.sock, pages)
            yield
