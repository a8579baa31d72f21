"""The daemon: the bus that it serves, and the connections of its clients."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from random import Random, SystemRandom
from types import TracebackType
from typing import Final, Self

from ..transport.clock import Clock, boot_clock
from ..transport.credentials import Peer, Process
from .answering import Answering
from .config import Config
from .following import Following
from .publishing import Publishing
from .record import Record
from .session import Part, Session
from .shared import Shared
from .syncing import Syncing
from .tasks import Tasks
from .watching import Watching

PARTS: Final[Sequence[Callable[[Session], Part]]] = (Publishing, Following, Syncing, Watching, Answering)
"""What handles the messages of a connection."""


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
            stack.push_async_callback(self.proof.close)
            self.tasks = self.spaces.tasks = await stack.enter_async_context(Tasks())
            self.proof.begin(self.tasks)
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

        return Session(self, known, PARTS)
