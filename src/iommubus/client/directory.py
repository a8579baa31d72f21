"""Which spaces the daemon has: a list that is followed, and outlives connections."""

from collections.abc import Callable, Collection
from typing import Final

import anyio

from ..bus.logs import Lines
from ..wire.messages import Message
from ..wire.messages.queries import ListSpaces, SpaceGone, SpaceInfo, SpaceOpened, Spaces
from .channel import Channel, Handler
from .reconnect import Keeper
from .spaces import ForeignSpace

RETIRED_LIMIT: Final = 4096
"""Most epochs of spaces of this client that are remembered because the daemon may still
list them: more than are closed between two looks at its list."""


class Directory:
    """The spaces of the daemon, by name, in the order in which they were made.

    Args:
        keeper: Keeps the connection.
        check_thread: Raises if the caller is not the thread of the bus.
        lines: Where it is logged that the list cannot be had.
        on_change: Called when there is another space.
    """

    def __init__(
        self, keeper: Keeper, check_thread: Callable[[], None], lines: Lines, on_change: Callable[[], object]
    ) -> None:
        self._keeper = keeper
        self._check_thread = check_thread
        self._lines = lines
        self._on_change = on_change
        self._spaces: dict[str, ForeignSpace] = {}
        self._listed = anyio.Event()
        self._coming: list[SpaceInfo] = []
        self._own: dict[int, None] = {}

    @property
    def handlers(self) -> dict[type[Message], Handler]:
        """What takes what the daemon says of spaces that come and go."""
        return {
            SpaceOpened: lambda _, message: self._open(message.space),
            SpaceGone: lambda _, message: self._close(message),
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all spaces, in the order in which they were made."""
        return tuple(self._spaces)

    def foreign(self, own: Collection[str]) -> dict[str, ForeignSpace]:
        """Return the spaces of others, by name.

        Args:
            own: Names of spaces of this client.
        """
        return {
            name: space for name, space in self._spaces.items() if name not in own and space.info.epoch not in self._own
        }

    def retire(self, epoch: int) -> None:
        """Note the epoch of a space of this client that was closed, and may be listed for a moment yet."""
        self._own[epoch] = None
        if len(self._own) > RETIRED_LIMIT:
            del self._own[next(iter(self._own))]

    async def wait_listed(self) -> None:
        """Wait until the list was had once, or cannot be."""
        await self._listed.wait()

    # -- connections ---------------------------------------------------------------------

    def attached(self, channel: Channel) -> None:
        """Ask for the list, and for every change of it."""
        self._coming = []
        channel.ask(lambda number: ListSpaces(number, [], follow=True), self._take)

    def lost(self, reason: str) -> None:
        """Keep the list that there is: it is probably right."""

    def ended(self, error: Exception) -> None:  # noqa: ARG002 - nobody needs the list any more
        """Let nobody wait for it."""
        self._listed.set()
        self._on_change()

    # -- inside ----------------------------------------------------------------------------

    def _take(self, answer: Message | Exception) -> None:
        if isinstance(answer, Spaces):
            self._coming += answer.spaces
            if answer.more:
                return
            self._replace(self._coming)
        elif self._keeper.channel is not None:  # it was refused, and not lost
            self._lines.warn("spaces", self._keeper.address, f"the daemon's spaces cannot be listed: {answer}")
        self._listed.set()

    def _replace(self, infos: list[SpaceInfo]) -> None:
        """Take a whole list in the place of the one before; what is in both stays the same object."""
        before, self._spaces = self._spaces, {}
        for info in infos:
            known = before.get(info.space)
            if known is not None and known.info.epoch == info.epoch:
                known.info = info
                self._spaces[info.space] = known
            else:
                self._add(info)
        self._on_change()

    def _open(self, info: SpaceInfo) -> None:
        known = self._spaces.get(info.space)
        if known is None or known.info.epoch != info.epoch:
            self._spaces.pop(info.space, None)
            self._add(info)
            self._on_change()

    def _add(self, info: SpaceInfo) -> None:
        self._spaces[info.space] = ForeignSpace(info, self._keeper, self._check_thread)

    def _close(self, message: SpaceGone) -> None:
        known = self._spaces.get(message.space)
        if known is not None and known.info.epoch == message.epoch:
            del self._spaces[message.space]
