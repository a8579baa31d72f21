"""The misses that were sent to a front end and wait for an answer.

A miss is answered by an UPDATE on the main channel that contains the address and
allows the access.  The reply to a miss says that the front end is through with it:
if no such UPDATE came before, there is none to come, and nothing is mapped there.

The two travel on two sockets.  The UPDATE was sent first, so it is among the bytes
that had arrived on the main channel when the reply was read; the reply is judged once
those were handled.

Source: QEMU ``docs/interop/vhost-user.rst`` under VHOST_USER_BACKEND_IOTLB_MSG.
"""

from collections import deque
from collections.abc import Callable

from ...caps import Perm
from ...mapping import Mapping

Give = Callable[[Mapping | None], object]
"""Takes an answer; `None` is a negative one."""


class Question:
    """A miss that was sent.

    Args:
        iova: The address.
        perm: What the access needs.
        give: Takes the answer, once.
    """

    __slots__ = ("_give", "horizon", "iova", "perm")

    def __init__(self, iova: int, perm: Perm, give: Give) -> None:
        self.iova = iova
        self.perm = perm
        self.horizon: int | None = None  # bytes of the main channel after which no UPDATE comes
        self._give: Give | None = give

    @property
    def open(self) -> bool:
        """Whether it has no answer yet."""
        return self._give is not None

    def answer(self, mapping: Mapping | None) -> None:
        """Give the answer, if it had none."""
        give, self._give = self._give, None
        if give is not None:
            give(mapping)

    def abandon(self) -> None:
        """Take it that nobody waits for the answer any more."""
        self._give = None


class Misses:
    """Those of one connection.

    Args:
        replied: Whether the front end replies to each.
    """

    def __init__(self, *, replied: bool) -> None:
        self._replied = replied
        self._sent: deque[Question] = deque()  # whose reply has not come
        self._waiting: list[Question] = []

    def __len__(self) -> int:
        """Return how many the front end may still be busy with."""
        return len(self._sent) if self._replied else len(self._waiting)

    def ask(self, iova: int, perm: Perm, give: Give) -> Question:
        """Note one that is sent now."""
        question = Question(iova, perm, give)
        self._waiting.append(question)
        if self._replied:
            self._sent.append(question)
        return question

    def abandon(self, question: Question) -> None:
        """Forget the asker of one; its reply still comes."""
        question.abandon()
        self._forget()

    def update(self, mapping: Mapping) -> int:
        """Answer what an UPDATE answers, and return how many that were."""
        answered = 0
        for question in self._waiting:
            if mapping.first <= question.iova <= mapping.last and not int(question.perm) & ~int(mapping.perm):
                question.answer(mapping)
                answered += 1
        if answered:
            self._forget()
        return answered

    def replied(self, horizon: int) -> bool:
        """Note the reply to the one that was sent first.

        Args:
            horizon: How many bytes had arrived on the main channel by now.

        Returns:
            Whether there was one.
        """
        if not self._sent:
            return False
        self._sent.popleft().horizon = horizon
        return True

    def handled(self, position: int) -> int:
        """Answer those for which no UPDATE can come any more with nothing.

        Args:
            position: How many bytes of the main channel were handled.

        Returns:
            How many those were.
        """
        over = [each for each in self._waiting if each.horizon is not None and each.horizon <= position]
        for question in over:
            question.answer(None)
        if over:
            self._forget()
        return len(over)

    def close(self) -> None:
        """Answer all with nothing: the front end is gone."""
        self._sent.clear()
        waiting, self._waiting = self._waiting, []
        for question in waiting:
            question.answer(None)

    def _forget(self) -> None:
        self._waiting = [question for question in self._waiting if question.open]
