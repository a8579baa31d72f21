"""What proves that a back end has stopped.

A back end keeps what it was given whatever becomes of the connection.  It has
stopped when it has answered GET_VRING_BASE for each of its rings, which ends their
processing; or, without rings, when it has acknowledged that nothing is mapped any
more; or when its process has ended.

Source: QEMU ``docs/interop/vhost-user.rst``, "Ring states" and "IOMMU support".
"""

from functools import partial

import anyio

from ...abi.vhost import invalidations
from ...abi.vhost_user import Body, Message, Request, VringState
from ...errors import PeerLeft
from ...ranges import LAST, IovaRange
from ...transport.credentials import Process
from .asking import Asking, Ending, status_of

UNSEEN = "its process cannot be seen from here, so nothing proves that it has stopped"


class Stopping:
    """The proof for one connection.

    Args:
        asking: The main channel.
        ending: How that ends.
        peer: What errors call the back end.

    Attributes:
        process: The back end's process, as soon as it has answered; `None` if it cannot be seen.
        begun: Whether it is being stopped: nothing more may be given to it.
        proven: Whether it has stopped.
        bases: Where it left each ring that it was told of; `None` as long as it has not said so.
    """

    def __init__(self, asking: Asking, ending: Ending, peer: str) -> None:
        self.process: Process | None = None
        self.begun = False
        self.proven = False
        self._asking = asking
        self._ending = ending
        self._peer = peer
        self.bases: dict[int, int | None] = {}
        self._left = 0
        self._answered = anyio.Event()
        self._unseen = False

    def give(self, ring: int) -> bool:
        """Note a ring before the back end is told of it, and say whether it may be."""
        if not self.begun:
            self.bases[ring] = None
        return not self.begun

    async def prove(self) -> None:
        """Stop the back end, and wait until it has.

        Raises:
            PeerLeft: It is gone from the connection, and nobody will know.
        """
        self._begin()
        if not self.proven:
            async with anyio.create_task_group() as either:
                either.start_soon(self._by_answer, either.cancel_scope)
                either.start_soon(self._by_end, either.cancel_scope)
        if self._unseen and not self.proven:
            raise PeerLeft(self._peer, UNSEEN)

    # -- inside ----------------------------------------------------------------

    def _begin(self) -> None:
        """Ask it to stop, once."""
        if self.begun:
            return
        self.begun = True
        questions: list[tuple[Request, Body]] = [
            (Request.GET_VRING_BASE, VringState(ring, 0)) for ring in self.bases
        ] or [(Request.IOTLB_MSG, message) for message in invalidations(IovaRange(0, LAST))]
        self._left = len(questions)
        try:
            for request, body in questions:
                self._asking.ask(request, body, partial(self._take, request))
        except PeerLeft:  # the end of its process is left
            return

    def _take(self, request: Request, reply: Message | None) -> None:
        if reply is None or (request == Request.IOTLB_MSG and status_of(reply)):
            return
        if isinstance(reply.body, VringState):
            self.bases[reply.body.index] = reply.body.num
        self._left -= 1
        if not self._left:
            self.proven = True
            self._answered.set()

    async def _by_answer(self, scope: anyio.CancelScope) -> None:
        await self._answered.wait()
        scope.cancel()

    async def _by_end(self, scope: anyio.CancelScope) -> None:
        if self.process is None:
            await self._ending.wait()
            self._unseen = True
        else:
            with self.process.another() as process:  # others may wait for it at the same time
                await process.wait_exit()
            self.proven = True
        scope.cancel()
