"""Questions to the producer of a pull space: the other end of an IOTLB miss.

Equal questions that wait at the same time are asked once; all who ask get the
one answer.  Nobody joins a question that was asked before the last removal: its
answer may have been found in the old page table, and whoever asks after the
removal was handed over would take it for a new one.

The first who asks runs the producer's handler in its own task.  If it is
cancelled, the next one asks again: nobody depends on another's fate.
"""

from collections import Counter
from typing import Final

import anyio

from ..caps import Perm
from ..errors import MappingError, NoAnswer, NoTranslator, TranslationFault, TranslatorFailed
from ..mapping import Mapping
from ..shape import Shape
from .abc import Translate
from .logs import Lines

ANSWER_TIMEOUT: Final = 1.0
"""Seconds that a producer has to answer by default: a device that misses stands
still meanwhile, and PCIe gives up on a translation request after tens of them."""

Key = tuple[int, int]
"""What makes questions equal: the granule that is asked for, and the access."""


class Question:
    """One question that waits for its answer.

    Attributes:
        over: Set when there is an answer, or nobody asks any more.
        answer: The mapping, `None` if there is none, or why it is not known.
        answered: Whether ``answer`` is one.
    """

    __slots__ = ("answer", "answered", "over")

    answer: Mapping | TranslationFault | None

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.answered = False


class Questions:
    """The questions of one pull space.

    Args:
        space: Name of the space.
        shape: Its addresses, which answers have to fit.
        translate: The producer's handler, if it has one.
        timeout: Seconds that it has to answer.
        lines: Where wrong answers are logged, for the producer to read.

    Attributes:
        counts: Questions by what became of them.
    """

    def __init__(self, space: str, shape: Shape, translate: Translate | None, timeout: float, lines: Lines) -> None:
        self.counts: Counter[str] = Counter()
        self._space = space
        self._shape = shape
        self._translate = translate
        self._timeout = timeout
        self._lines = lines
        self._open: dict[Key, Question] = {}  # those that may be joined

    async def ask(self, iova: int, perm: int) -> Mapping | None:
        """Return where an address leads, or `None` if nowhere.

        Raises:
            NoTranslator: The producer answers no questions.
            NoAnswer: It did not answer in time.
            TranslatorFailed: Its answer cannot be, or it raised.
            TranslationFault: It said so.
        """
        if self._translate is None:
            raise NoTranslator(self._space, iova)
        key = iova & -self._shape.granule, int(perm)
        while (question := self._open.get(key)) is not None:
            self.counts["joined"] += 1
            await question.over.wait()
            if question.answered:
                break
        else:
            question = await self._put(self._translate, key, iova)
        if isinstance(question.answer, TranslationFault):
            raise question.answer
        return question.answer

    def outdate(self) -> None:
        """Have nobody join the questions that were asked so far: something was removed."""
        self._open.clear()

    # -- inside ----------------------------------------------------------------

    async def _put(self, translate: Translate, key: Key, iova: int) -> Question:
        """Ask the producer, for all who join meanwhile."""
        question = self._open[key] = Question()
        self.counts["asked"] += 1
        try:
            question.answer = await self._answer(translate, iova, Perm(key[1]))
            question.answered = True
        finally:
            if self._open.get(key) is question:
                del self._open[key]
            question.over.set()
        return question

    async def _answer(self, translate: Translate, iova: int, perm: Perm) -> Mapping | TranslationFault | None:
        answer: Mapping | TranslationFault | None = NoAnswer(self._space, iova, self._timeout)
        with anyio.move_on_after(self._timeout) as limit:
            try:
                answer = self._checked(await translate(iova, perm), iova)
            except TranslationFault as fault:
                answer = fault
            except Exception as failure:  # noqa: BLE001 - the device is told, and the producer by the log
                answer = self._failed(iova, repr(failure))
        self.counts["late" if limit.cancelled_caught else "none" if answer is None else "answered"] += 1
        return answer

    def _checked(self, answer: object, iova: int) -> Mapping | TranslationFault | None:
        if answer is None:
            return None
        if not isinstance(answer, Mapping):
            return self._failed(iova, f"a translation is a Mapping, got {answer!r}")
        try:
            self._shape.check_map(answer.first, answer.size, answer.target, answer.perm)
        except (MappingError, TypeError) as wrong:
            return self._failed(iova, str(wrong))
        if not answer.first <= iova <= answer.last:
            return self._failed(iova, f"{answer} is about other addresses")
        return answer

    def _failed(self, iova: int, reason: str) -> TranslatorFailed:
        self._lines.warn("translate", self._space, f"no answer for {iova:#x}: {reason}")
        return TranslatorFailed(self._space, iova, reason)
