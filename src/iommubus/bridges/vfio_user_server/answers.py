"""Answers to a client's commands: out of order where that is allowed, and never too early.

An answer names its command by number and may overtake others: what is asked
behind an UNMAP that has to wait is answered meanwhile.  Only behind a
command that wants no answer the next answers wait until it was done, because to
the client they say so.

Source: QEMU ``docs/interop/vfio-user.rst``, "Command Concurrency" and "Header".
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final

from ...abi.vfio_user import Body, Empty, Flags, Header, Message, encode
from ...errors import PeerBroke
from ...transport.descriptors import close_all

WAITING_LIMIT: Final = 65_536
"""Commands of one client without an answer: every mapping that it can have, unmapped at once.  Who asks
for more, and waits for nothing, is given up."""

Put = Callable[[bytes, Sequence[int]], object]
"""Sends a message with descriptors, which stay the caller's."""


class Answer:
    """The answer to one command; it is given or refused once."""

    __slots__ = ("_answers", "_header", "_number")

    def __init__(self, answers: "Answers", header: Header, number: int) -> None:
        self._answers = answers
        self._header = header
        self._number = number

    @property
    def silent(self) -> bool:
        """Whether the client wants none."""
        return bool(self._header.flags & Flags.NO_REPLY)

    def give(self, body: Body, fds: Sequence[int] = ()) -> None:
        """Say that it was done.

        Args:
            body: What the answer carries.
            fds: Descriptors to send with it, which are closed then.
        """
        self._finish(Message(self._header.msg_id, self._header.command, body, Flags.REPLY), fds)

    def refuse(self, errno: int) -> None:
        """Say why it was not done."""
        flags = Flags.REPLY | Flags.ERROR
        self._finish(Message(self._header.msg_id, self._header.command, Empty(), flags, errno), ())

    def _finish(self, message: Message, fds: Sequence[int]) -> None:
        if self.silent:
            close_all(fds)
            self._answers.done(self._number)
        else:
            self._answers.send(self._number, encode(message), fds)


class Answers:
    """Those to one client.

    Args:
        put: Sends one.
        peer: What errors call the client.
    """

    def __init__(self, put: Put, peer: str) -> None:
        self._put = put
        self._peer = peer
        self._commands = 0
        self._open = 0
        self._silent: dict[int, None] = {}  # commands that want no answer and are not done, the oldest first
        self._held_back: list[tuple[int, bytes, Sequence[int]]] = []  # a heap

    def __len__(self) -> int:
        return self._open

    def expect(self, header: Header) -> Answer:
        """Return the answer to a command that has just come.

        Raises:
            PeerBroke: It is one too many.
        """
        if self._open >= WAITING_LIMIT:
            raise PeerBroke(self._peer, f"it sent one more command while {WAITING_LIMIT} waited for an answer")
        self._open += 1
        self._commands += 1
        answer = Answer(self, header, self._commands)
        if answer.silent:
            self._silent[self._commands] = None
        return answer

    def send(self, number: int, data: bytes, fds: Sequence[int]) -> None:
        """Send an answer, or keep it while a command before it that wants none is not done."""
        heappush(self._held_back, (number, data, fds))
        self._flush()

    def done(self, number: int) -> None:
        """Take it that a command was done that wants no answer."""
        del self._silent[number]
        self._open -= 1
        self._flush()

    def close(self) -> None:
        """Close the descriptors of answers that were never sent."""
        for _, _, fds in self._held_back:
            close_all(fds)
        self._held_back.clear()

    def _flush(self) -> None:
        oldest = next(iter(self._silent), self._commands + 1)
        while self._held_back and self._held_back[0][0] < oldest:
            _, data, fds = heappop(self._held_back)
            self._open -= 1
            try:
                self._put(data, fds)
            finally:
                close_all(fds)
