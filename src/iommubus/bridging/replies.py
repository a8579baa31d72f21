"""Answers that leave in the order of the questions, whenever they are ready.

vhost-user's replies carry no number: the first reply belongs to the first question
that needs one.  An INVALIDATE is answered only once nobody uses what it took
away, and an UPDATE behind it is answered at once; here the second waits for the first.
"""

from collections import deque
from collections.abc import Callable


class Reply:
    """The place of one answer.

    Args:
        ready: Called once the answer is there.
    """

    __slots__ = ("_ready", "data")

    def __init__(self, ready: Callable[[], object]) -> None:
        self._ready = ready
        self.data: bytes | None = None

    def give(self, data: bytes) -> None:
        """Give the answer, once; it leaves as soon as all before it have."""
        if self.data is not None:
            raise ValueError("this reply was given already")
        self.data = data
        self._ready()


class Replies:
    """Those of one connection.

    Args:
        put: Sends one.
    """

    def __init__(self, put: Callable[[bytes], object]) -> None:
        self._put = put
        self._waiting: deque[Reply] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def reserve(self) -> Reply:
        """Return the next place; whoever has it gives the answer."""
        reply = Reply(self._flush)
        self._waiting.append(reply)
        return reply

    def _flush(self) -> None:
        while self._waiting and (data := self._waiting[0].data) is not None:
            self._waiting.popleft()
            self._put(data)
