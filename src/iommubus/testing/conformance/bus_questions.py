"""Cases for a bus: misses of a pull space, which its producer answers (laws 5 and 10)."""

from collections import Counter
from typing import Any, Final, cast

import anyio

from ...bus.abc import Subscription
from ...caps import Cap, Perm
from ...errors import AccessDenied, NoAnswer, NotMapped, NoTranslator, TranslatorFailed
from ...events import Unmap
from ...mapping import Mapping
from .demands import breathe, demand, demand_raised, until
from .follower import BackEndFailed, Gate
from .scene import FAR, PAGE, TARGET, Scene, Stage

HUGE: Final = Mapping(0, 16 * PAGE - 1, TARGET, Perm.RW)
"""What the producer answers at first: more than was asked for."""

MOMENT: Final = 0.02
"""Seconds that a producer has which will not answer in any."""

OF_OTHERS: Final = Mapping(PAGE, 2 * PAGE - 1, TARGET, Perm.R)
"""No answer to a question about address 0."""

WRONG: Final = (
    BackEndFailed("no page table"),
    TimeoutError(),
    OF_OTHERS,
    Mapping(0, 5, TARGET, Perm.R),
    Mapping(0, PAGE - 1, TARGET + 7, Perm.R),
    Mapping(0, 2**64, TARGET, Perm.R),
    Mapping(0, PAGE - 1, TARGET, Perm(0)),
    cast("Mapping", "nowhere"),
)
"""Answers that cannot be, or reasons why there is none."""


class Answers:
    """A producer that answers while its gate is open, and knows what it was asked.

    Attributes:
        answer: What it says to questions that begin now; an exception is raised.
        asked: How often each question was put.
        most: How many equal questions were open at the same time, at most.
    """

    def __init__(self, answer: Mapping | Exception | None = HUGE) -> None:
        self.answer = answer
        self.asked: Counter[tuple[int, Perm]] = Counter()
        self.most = 0
        self.gate = Gate()
        self._open: Counter[tuple[int, Perm]] = Counter()

    async def wait_asked(self, times: int) -> None:
        """Wait until it was asked so often."""
        await until(lambda: self.asked.total() >= times)

    async def translate(self, iova: int, perm: Perm) -> Mapping | None:
        """Answer one question."""
        answer, key = self.answer, (iova // PAGE, perm)
        self.asked[iova, perm] += 1
        self._open[key] += 1
        self.most = max(self.most, *self._open.values())
        try:
            await self.gate.wait_open()
        finally:
            self._open[key] -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


class Question:
    """A miss, and what was said to it.

    Args:
        events: Who asks.

    Attributes:
        mapping: What was answered.
        valid: Whether that might be used when it came.
    """

    def __init__(self, events: Subscription) -> None:
        self.mapping: Mapping | None = None
        self.valid: bool | None = None
        self._events = events

    async def ask(self, iova: int = 0, perm: Perm = Perm.R) -> None:
        """Ask, and note the answer."""
        answer = await self._events.translate(iova, perm)
        self.mapping, self.valid = answer.mapping, answer.valid


async def pull_space(stage: Stage, answers: Answers, **options: Any) -> Scene:
    """Make a space without a table, whose producer answers."""
    return await stage.scene(offers=Cap.UNMAP | Cap.DEVIOTLB_UNMAP, translate=answers.translate, **options)


async def a_miss_is_answered_by_the_producer(stage: Stage) -> None:
    """Law 5: it is asked where the address leads, and the answer is cropped to what was subscribed."""
    answers = Answers()
    await pull_space(stage, answers)
    ranges = ((PAGE, 3 * PAGE - 1), (8 * PAGE, 9 * PAGE - 1))
    async with stage.bus.subscribe("space", Cap.UNMAP, ranges=ranges) as events:
        answer = await events.translate(2 * PAGE + 5, Perm.W)
        demand("an answer is cropped", answer.mapping, HUGE.clip(*ranges[0]))
        demand("an answer is valid at first", answer.valid, wanted=True)
        with demand_raised(NotMapped, iova=5 * PAGE):
            await events.translate(5 * PAGE)
    demand("the producer is asked for what was subscribed", answers.asked, {(2 * PAGE + 5, Perm.W): 1})


async def equal_questions_are_asked_once(stage: Stage) -> None:
    """Contract: while a question waits nobody else puts it; another page or access is another question."""
    answers = Answers()
    await pull_space(stage, answers)
    keys = ((0, Perm.R), (PAGE - 1, Perm.R), (0, Perm.W), (PAGE, Perm.R))
    async with (
        stage.bus.subscribe("space", Cap.UNMAP) as one,
        stage.bus.subscribe("space", Cap.UNMAP) as two,
    ):
        questions = [Question(events) for events in (one, two) for _ in keys]
        answers.gate.shut()
        async with anyio.create_task_group() as tasks:
            for question, key in zip(questions, keys * 2, strict=True):
                tasks.start_soon(question.ask, *key)
            await answers.wait_asked(3)
            await breathe()  # so that whoever would ask again has
            answers.gate.open()
    demand("everybody gets an answer", [question.mapping for question in questions], [HUGE] * len(questions))
    demand("equal questions wait for one answer", answers.most, 1)


async def a_question_has_a_deadline(stage: Stage) -> None:
    """Law 10: who asks a producer that does not answer is told so, and the space goes on."""
    answers = Answers()
    scene = await pull_space(stage, answers, answer_timeout=MOMENT)
    async with stage.bus.subscribe("space", Cap.UNMAP) as events:
        answers.gate.shut()
        with demand_raised(NoAnswer, space="space", iova=0x123, seconds=MOMENT):
            await events.translate(0x123)
        answers.gate.open()
        demand("the next question is answered", (await events.translate(0x123)).mapping, HUGE)
        scene.space.unmap(0, PAGE)
        demand("the space goes on", type(await anext(aiter(events))), Unmap)


async def a_negative_answer_is_an_answer(stage: Stage) -> None:
    """Contract: that nothing is there, or not for this access, is said to who asked."""
    answers = Answers()
    await pull_space(stage, answers)
    async with stage.bus.subscribe("space", Cap.UNMAP) as events:
        for answer in (None, NotMapped(0)):
            answers.answer = answer
            with demand_raised(NotMapped, iova=0):
                await events.translate(0)
        for refusal in (AccessDenied(0, 1, 2), Mapping(0, PAGE - 1, TARGET, Perm.W)):
            answers.answer = refusal
            with demand_raised(AccessDenied, iova=0, wanted=1, granted=2):
                await events.translate(0)
    await stage.scene("silent", offers=Cap.UNMAP)
    async with stage.bus.subscribe("silent", Cap.UNMAP) as events:
        with demand_raised(NoTranslator, space="silent", iova=0):
            await events.translate(0)


async def a_wrong_answer_is_the_producers_fault(stage: Stage) -> None:
    """Law 10: an answer that cannot be is not given on, and neither is what the producer raises."""
    answers = Answers()
    scene = await pull_space(stage, answers)
    async with stage.bus.subscribe("space", Cap.UNMAP) as events:
        for wrong in WRONG:
            answers.answer = wrong
            with demand_raised(TranslatorFailed, space="space", iova=0):
                await events.translate(0)
        answers.answer = HUGE
        demand("the next question is answered", (await events.translate(0)).mapping, HUGE)
        scene.space.unmap(0, PAGE)
        demand("the space goes on", type(await anext(aiter(events))), Unmap)


async def an_answer_that_an_unmap_overtook_is_not_valid(stage: Stage) -> None:
    """Law 5: an answer to what was asked before an UNMAP of it was handed over is never installed."""
    answers = Answers()
    scene = await pull_space(stage, answers)
    async with stage.bus.subscribe("space", Cap.UNMAP) as events:
        stream = aiter(events)
        for page, valid in ((15, False), (16, True)):
            answers.gate.shut()
            question = Question(events)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(question.ask)
                await answers.wait_asked(answers.asked.total() + 1)
                scene.space.unmap(page * PAGE, PAGE)
                await anext(stream)
                answers.gate.open()
            demand(f"an UNMAP of page {page} ends an answer about 0 to 15", question.valid, valid)


async def nobody_joins_a_question_of_before_a_removal(stage: Stage) -> None:
    """Law 5: who asks after a removal, whatever went, is not given what the old page table said."""
    answers = Answers()
    scene = await pull_space(stage, answers)
    new = Mapping(0, PAGE - 1, TARGET + FAR, Perm.R)
    async with stage.bus.subscribe("space", Cap.UNMAP | Cap.DEVIOTLB_UNMAP) as events:
        stream = aiter(events)
        for remove, page in ((scene.space.unmap, 3), (scene.space.invalidate_device, 20)):
            answers.gate.shut()
            answers.answer = HUGE
            early, late = Question(events), Question(events)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(early.ask)
                await answers.wait_asked(answers.asked.total() + 1)
                answers.answer = new
                remove(page * PAGE, PAGE)
                await anext(stream)
                tasks.start_soon(late.ask)
                await answers.wait_asked(answers.asked.total() + 1)
                answers.gate.open()
            demand("who asked before gets that answer", early.mapping, HUGE)
            demand("who asks after a removal gets a new one", late.mapping, new)


CASES: Final = (
    a_miss_is_answered_by_the_producer,
    equal_questions_are_asked_once,
    a_question_has_a_deadline,
    a_negative_answer_is_an_answer,
    a_wrong_answer_is_the_producers_fault,
    an_answer_that_an_unmap_overtook_is_not_valid,
    nobody_joins_a_question_of_before_a_removal,
)
