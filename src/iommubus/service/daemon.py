"""The daemon: the bus that it serves, and the connections of its clients."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from random import Random, SystemRandom
from types import TracebackType
from typing import Final, Self

import anyio

from ..transport.clock import Clock, boot_clock
from ..transport.credentials import Peer, Process
from ..transport.tasks import Tasks
from ..wire.messages.greeting import Draining
from ..wire.messages.values import clip_text
from .handlers.answering import Answering
from .handlers.following import Following
from .handlers.memories import Lending
from .handlers.publishing import Publishing
from .handlers.syncing import Syncing
from .handlers.watching import Watching
from .proof.record import Record
from .session import US, Part, Session, Who
from .settings.config import Config
from .shared import Shared

PARTS: Final[Sequence[Callable[[Session], Part]]] = (Following, Publishing, Lending, Syncing, Watching, Answering)
"""What handles the messages of a connection, in the order in which each hears that it is lost."""

LAST_WORDS: Final = 1.0
"""Seconds that the last words to a client may take when the daemon ends: it either reads them soon, or not at all."""


class Daemon(Shared):
    """A daemon, without the sockets at which it listens.

    Enter it with ``async with``; it serves whatever connections `session` makes.

    Args:
        config: Its settings.
        clock: Tells seconds for leases.
        random: Where numbers come from that nobody else may have.
        own_uid: The user that it runs as; that of this process by default.
        record: What outlives it, so that the next one knows who may still use what; `None` where none follows.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock = boot_clock,
        random: Random | None = None,
        own_uid: int | None = None,
        record: Record | None = None,
    ) -> None:
        super().__init__(
            config,
            clock=clock,
            random=random or SystemRandom(),
            own_uid=os.getuid() if own_uid is None else own_uid,
            record=record,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.bus)
            stack.callback(self.spaces.stop)
            stack.callback(self.deadlines.stop)
            stack.push_async_callback(self.proof.close)
            self.tasks = self.spaces.tasks = await stack.enter_async_context(Tasks())
            self.proof.begin(self.tasks)
            stack.push_async_callback(self._dismiss)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def session(self, peer: Peer, process: Process | None = None) -> Session:
        """Return what serves a connection that was accepted: the protocol of its transport.

        Args:
            peer: Who is at the other end.
            process: Its process, which is closed with the connection; `None` if it cannot be seen.
        """

        def known(transport: asyncio.Transport) -> tuple[Peer, Process | None]:
            del transport
            return peer, process

        return self.session_of(known)

    def session_of(self, who: Who) -> Session:
        """Return the same, where it can be said only of the transport who is at the other end."""
        return Session(self, who, PARTS)

    # -- the end -----------------------------------------------------------------

    def drain(self, reason: str, seconds: float) -> None:
        """Begin nothing new, and tell the clients.

        Args:
            reason: Why.
            seconds: How long it is until the end.
        """
        self.draining = reason
        self.spaces.drain(reason)
        for client in self.clients.values():
            client.send(Draining(clip_text(reason), int(seconds * US)))

    @property
    def quiet(self) -> bool:
        """Whether nobody waits for anything, and everything was handed over and acknowledged."""
        return not any(client.waits for client in self.clients.values()) and all(
            watch.member.idle for watch in self.proof.watches if watch.member.live
        )

    @property
    def status(self) -> str:
        """What it does, in one line."""
        spaces, subscriptions = len(self.spaces.open), len(self.proof.watches)
        return f"{len(self.connections)} connections, {spaces} spaces, {subscriptions} subscriptions"

    async def _dismiss(self) -> None:
        """Say goodbye to everybody, before the bus ends their streams: they will look for the next daemon."""
        self.over = True
        for connection in list(self.connections):
            connection.close(self.draining or "the daemon stops")
        with anyio.move_on_after(LAST_WORDS):
            await self._left()
        for connection in list(self.connections):
            connection.abort()
        await self._left()

    async def _left(self) -> None:
        while self.connections:
            self.on_empty = asyncio.Event()
            await self.on_empty.wait()
