"""Misses of a pull space: asked once, in time, checked, and never answered from before a removal."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import anyio
import pytest

from iommubus import Cap, Iotlb, Mapping, Perm, Subscription
from iommubus.bus.space import LocalSpace
from iommubus.errors import (
    AccessDenied,
    IommubusError,
    NoAnswer,
    NotMapped,
    NoTranslator,
    TranslationFault,
    TranslatorFailed,
)
from tests.actors import PAGE, TARGET, BackendError, open_space, settle, take
from tests.loops import every_loop

HUGE: Final = Mapping(0, 16 * PAGE - 1, TARGET, Perm.RW)


class Producer:
    """Answers misses when it is let, and notes them."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Perm]] = []
        self.answer: Mapping | None = HUGE
        self.gate = anyio.Event()

    async def translate(self, iova: int, perm: Perm) -> Mapping | None:
        """Note a question, and answer it once the gate is open."""
        self.asked.append((iova, perm))
        answer = self.answer
        await self.gate.wait()
        return answer


def pulling(translate: Callable[[int, Perm], Awaitable[Any]] | None, **options: Any) -> Any:
    return open_space(offers=Cap.UNMAP | Cap.DEVIOTLB_UNMAP, translate=translate, **options)


def always(answer: object) -> Callable[[int, Perm], Awaitable[Any]]:
    """Return a handler that knows one answer, or raises it."""

    async def translate(_: int, __: Perm) -> object:
        await anyio.lowlevel.checkpoint()
        if isinstance(answer, Exception):
            raise answer
        return answer

    return translate


@every_loop
async def test_a_miss_is_answered_by_the_producer_and_cropped() -> None:
    """Each subscriber is told what lies in its ranges, with the target moved to match."""
    producer = Producer()
    producer.gate.set()
    async with (
        pulling(producer.translate) as (bus, space),
        bus.subscribe("space", Cap.UNMAP, ranges=[(PAGE, 3 * PAGE - 1), (8 * PAGE, 9 * PAGE - 1)]) as events,
    ):
        answer = await events.translate(2 * PAGE + 5, Perm.W)
        assert answer.mapping == Mapping(PAGE, 3 * PAGE - 1, TARGET + PAGE, Perm.RW)
        assert producer.asked == [(2 * PAGE + 5, Perm.W)]
        with pytest.raises(NotMapped):
            await events.translate(5 * PAGE)
        assert len(producer.asked) == 1
        assert space.statistics().questions == {"asked": 1, "answered": 1}


@every_loop
async def test_equal_questions_are_asked_once() -> None:
    """T31: whoever asks, as long as it is the same granule and the same access."""
    producer = Producer()
    async with (
        pulling(producer.translate) as (bus, space),
        bus.subscribe("space", Cap.UNMAP) as one,
        bus.subscribe("space", Cap.UNMAP) as two,
        anyio.create_task_group() as tasks,
    ):
        for events, iova, perm in (one, 0, Perm.R), (two, 8, Perm.R), (one, PAGE - 1, Perm.R), (one, 0, Perm.W), (
            two, PAGE, Perm.R
        ):  # fmt: skip
            tasks.start_soon(events.translate, iova, perm)
        await settle()
        assert sorted((iova // PAGE, perm) for iova, perm in producer.asked) == [(0, Perm.R), (0, Perm.W), (1, Perm.R)]
        producer.gate.set()
        await settle()
        assert space.statistics().questions == {"asked": 3, "joined": 2, "answered": 3}


@pytest.mark.parametrize("verb", ["unmap", "invalidate_device"])
@every_loop
async def test_nobody_joins_a_question_from_before_a_removal(verb: str) -> None:
    """T29: its answer may be of the old page table, and who asks now would believe it."""
    producer = Producer()
    async with pulling(producer.translate) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        found: list[int] = []

        async def ask() -> None:
            found.append((await events.translate(0)).mapping.target)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await settle()
            producer.answer = Mapping(0, PAGE - 1, 0x5000, Perm.R)
            getattr(space, verb)(3 * PAGE, PAGE)
            tasks.start_soon(ask)
            await settle()
            assert len(producer.asked) == 2
            producer.gate.set()
        assert sorted(found) == [0x5000, TARGET]


@every_loop
async def test_an_answer_that_a_removal_overtook_is_not_valid() -> None:
    producer = Producer()
    async with pulling(producer.translate) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        valid: list[bool] = []

        async def ask(iova: int) -> None:
            valid.append((await events.translate(iova)).valid)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, 0)
            await settle()
            space.unmap(15 * PAGE, PAGE)
            await take(aiter(events), 1)
            producer.gate.set()
        assert valid == [False]


@pytest.mark.parametrize("ask_first", [True, False])
@every_loop
async def test_nobody_depends_on_another_who_is_cancelled(*, ask_first: bool) -> None:
    """The next one who waits puts the question again; one who does not wait any more is not missed."""
    producer = Producer()
    async with pulling(producer.translate) as (bus, _), bus.subscribe("space", Cap.UNMAP) as events:
        found: list[Mapping] = []

        async def ask(scope: anyio.CancelScope) -> None:
            with scope:
                found.append((await events.translate(0)).mapping)

        scopes = [anyio.CancelScope() for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for scope in scopes:
                tasks.start_soon(ask, scope)
                await settle()
            assert len(producer.asked) == 1
            scopes[0 if ask_first else 1].cancel()
            await settle()
            producer.gate.set()
        assert found == [HUGE, HUGE]
        assert len(producer.asked) == 1 + ask_first


@every_loop
async def test_who_waits_longest_is_told_that_there_is_no_answer() -> None:
    """T30: a deadline, for all who joined."""
    producer = Producer()
    async with pulling(producer.translate, answer_timeout=0.01) as (bus, space), bus.subscribe(
        "space", Cap.UNMAP
    ) as events:  # fmt: skip
        faults: list[str] = []

        async def ask() -> None:
            with pytest.raises(NoAnswer) as caught:
                await events.translate(0x123)
            faults.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        assert faults == ["the producer of space did not say within 0.01 s where 0x123 leads"] * 2
        assert space.statistics().questions == {"asked": 1, "joined": 1, "late": 1}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (None, NotMapped),
        (NotMapped(0), NotMapped),
        (AccessDenied(0, 1, 2), AccessDenied),
        (Mapping(0, PAGE - 1, 0, Perm.W), AccessDenied),
        (BackendError("no"), TranslatorFailed),
        (TimeoutError(), TranslatorFailed),
        ((0, PAGE - 1, 0, 1), TranslatorFailed),
        (Mapping(PAGE, 2 * PAGE - 1, 0, Perm.R), TranslatorFailed),
        (Mapping(0, 5, 0, Perm.R), TranslatorFailed),
        (Mapping(0, PAGE - 1, 7, Perm.R), TranslatorFailed),
        (Mapping(0, 2**64, 0, Perm.R), TranslatorFailed),
        (Mapping(0, PAGE - 1, 0, Perm(0)), TranslatorFailed),
        (Mapping(0, PAGE - 1, cast("int", "0"), Perm.R), TranslatorFailed),
    ],
)
@every_loop
async def test_a_negative_answer_is_one_and_a_wrong_one_is_the_producers_fault(
    answer: object, kind: type[IommubusError], caplog: pytest.LogCaptureFixture
) -> None:
    async with pulling(always(answer)) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        with caplog.at_level(logging.WARNING, "iommubus"), pytest.raises(kind) as caught:
            await events.translate(0)
        assert isinstance(caught.value, TranslationFault)
        assert ("no answer for 0x0" in caplog.text) == (kind is TranslatorFailed)
        space.unmap(0, PAGE)


@every_loop
async def test_the_last_byte_of_an_answer_is_in_it() -> None:
    page = Mapping(0, PAGE - 1, TARGET, Perm.R)
    async with pulling(always(page)) as (bus, _), bus.subscribe("space", Cap.UNMAP) as events:
        assert (await events.translate(PAGE - 1)).mapping == page
        with pytest.raises(TranslatorFailed, match="is about other addresses"):
            await events.translate(PAGE)


@every_loop
async def test_what_is_no_mapping_is_named() -> None:
    async with pulling(always((0, 1))) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        with pytest.raises(TranslatorFailed, match=r"a translation is a Mapping, got \(0, 1\)"):
            await events.translate(0)
        assert space.statistics().questions == {"asked": 1, "answered": 1}


@every_loop
async def test_that_there_is_nothing_is_counted() -> None:
    async with pulling(always(None)) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        with pytest.raises(NotMapped):
            await events.translate(0)
        assert space.statistics().questions == {"asked": 1, "none": 1}


@every_loop
async def test_a_space_without_a_handler_says_so() -> None:
    async with pulling(None) as (bus, _), bus.subscribe("space", Cap.UNMAP) as events:
        with pytest.raises(NoTranslator):
            await events.translate(0)


@every_loop
async def test_a_cache_of_a_pull_space_is_filled_and_emptied() -> None:
    producer = Producer()
    producer.gate.set()
    async with pulling(producer.translate) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events)
        for iova in (0, PAGE, 2 * PAGE):
            assert await cache.translate(iova) == HUGE
        assert len(producer.asked) == 1
        await unmap_and_follow(space, events, cache)
        producer.answer = None
        with pytest.raises(NotMapped):
            await cache.translate(0)


async def unmap_and_follow(space: LocalSpace, events: Subscription, cache: Iotlb) -> None:
    """Unmap a page in the middle, and have the cache hear of it."""
    space.unmap(5 * PAGE, PAGE)
    for event in await take(aiter(events), 1):
        cache.apply(event)
    assert len(cache) == 0
