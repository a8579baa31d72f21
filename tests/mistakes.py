"""More buses with one mistake each: in endpoints, memories, questions to a producer, contracts and uses."""

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from mmap import mmap
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from iommubus import (
    Cap,
    DevIotlbUnmap,
    Endpoint,
    Event,
    EventBus,
    Map,
    Mapping,
    MappingError,
    Memory,
    MemoryInUse,
    Perm,
    Subscription,
    TranslationFault,
    Use,
)
from iommubus.bus.abc import AddressSpace, Translate
from iommubus.errors import BadMemory, NameTaken, NotOffered, UnknownName
from iommubus.testing import MakeBus, PassingEndpoint
from tests.faulty import (
    Edited,
    FaultyBus,
    FaultySpace,
    PassingSubscription,
    maker,
    with_space,
    with_space_option,
    with_subscription,
    without_option,
)

# -- endpoints -------------------------------------------------------------------


class NeverAttaches(PassingEndpoint):
    def attach(self, space: AddressSpace) -> None:
        """Stay."""


class NeverDetaches(PassingEndpoint):
    def detach(self) -> None:
        """Stay."""


class DetachesFirst(PassingEndpoint):
    def attach(self, space: AddressSpace) -> None:
        self.inner.detach()
        super().attach(space)


class UnmapsAtDetach(PassingEndpoint):
    """Takes everything away from its subscribers by taking it away from everybody."""

    def detach(self) -> None:
        if self.space is not None:
            self.space.unmap_all()
        super().detach()


class RefusesPullSpaces(PassingEndpoint):
    def attach(self, space: AddressSpace) -> None:
        if not space.offers & Cap.MAP:
            raise NotOffered("MAP")
        super().attach(space)


class StaysInClosedSpaces(PassingEndpoint):
    last: AddressSpace | None = None

    @property
    def space(self) -> AddressSpace | None:
        return self.last

    def attach(self, space: AddressSpace) -> None:
        super().attach(space)
        self.last = space

    def detach(self) -> None:
        super().detach()
        self.last = None


class EndpointNeverCloses(PassingEndpoint):
    async def close(self) -> None:
        await checkpoint()


class KnowsOnlySpaces(FaultyBus):
    def subscribe(self, endpoint: str | Iterable[str], caps: Cap, **options: Any) -> Subscription:
        known = tuple(space.name for space in self.spaces())
        if isinstance(endpoint, str) and endpoint not in known:
            raise UnknownName(endpoint, known)
        return super().subscribe(endpoint, caps, **options)


class NeedsOneEndpoint(FaultyBus):
    """Takes the first endpoint of a container for the container."""

    def subscribe(self, endpoint: str | Iterable[str], caps: Cap, **options: Any) -> Subscription:
        return super().subscribe(endpoint if isinstance(endpoint, str) else next(iter(endpoint)), caps, **options)


class MakesUpNames(FaultyBus):
    async def create_endpoint(self, name: str) -> Endpoint:
        try:
            return await super().create_endpoint(name)
        except NameTaken:
            return await self.create_endpoint(f"{name}'")


# -- memories --------------------------------------------------------------------


class ForgetsMemories(FaultySpace):
    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:  # noqa: ARG002
        super().map(iova, size, target, perm)

    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:  # noqa: ARG002
        super().remap(iova, size, target, perm)


class RefusesSilently(FaultySpace):
    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        with suppress(MappingError):
            super().map(iova, size, target, perm, memory=memory)


class RemovesSilently(FaultyBus):
    def remove_memory(self, memory: Memory) -> None:
        with suppress(MemoryInUse):
            super().remove_memory(memory)


class ViewsByName(FaultyBus):
    """Takes a memory of an older generation for the present one."""

    def __init__(self, inner: EventBus) -> None:
        super().__init__(inner)
        self.present: dict[str, Memory] = {}

    async def add_memory(self, name: str, size: int, fd: int | None = None) -> Memory:
        self.present[name] = await super().add_memory(name, size, fd)
        return self.present[name]

    def memory_view(self, memory: Memory) -> memoryview:
        return super().memory_view(self.present.get(memory.name, memory))


class TakesEveryMemory(FaultyBus):
    async def add_memory(self, name: str, size: int, fd: int | None = None) -> Memory:
        try:
            return await super().add_memory(name, size, fd)
        except (BadMemory, NameTaken):
            return Memory(name, 1, size)


class BacksWithACopy(PassingSubscription):
    def backing(self, memory: Memory) -> memoryview:
        copy = memoryview(mmap(-1, memory.size))
        copy[:] = super().backing(memory)
        return copy


class HandsOnACopy(PassingSubscription):
    def descriptor(self, memory: Memory) -> int:
        os.close(super().descriptor(memory))
        fd = os.memfd_create("copy")
        os.ftruncate(fd, memory.size)
        return fd


class AllowsEverything(PassingSubscription):
    def __aiter__(self) -> AsyncIterator[Event]:
        return Edited(super().__aiter__(), lambda event: [allowing(event)])


def allowing(event: Event) -> Event:
    """Return the same with every permission."""
    if not isinstance(event, Map):
        return event
    return Map(event.space, event.seq, event.first, event.last, event.target, Perm.RW, event.memory)


# -- questions to a producer -----------------------------------------------------


def with_producer(change: Callable[[Translate], Translate]) -> MakeBus:
    """Return what makes a bus that asks producers in another way."""

    class Asking(FaultyBus):
        async def create_space(self, name: str, **options: Any) -> AddressSpace:
            translate: Translate | None = options.pop("translate", None)
            return await super().create_space(name, translate=translate and change(translate), **options)

    return maker(Asking)


def asked_twice(translate: Translate) -> Translate:
    async def ask(iova: int, perm: Perm) -> Mapping | None:
        found: list[Mapping | None] = []

        async def once() -> None:
            found.append(await translate(iova, perm))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(once)
            await once()
        return found[0]

    return ask


def joined_for_ever(translate: Translate) -> Translate:
    """Have whoever asks wait for an answer to the same question, however old that is."""
    answers: dict[tuple[int, Perm], Mapping | None] = {}
    waiting: dict[tuple[int, Perm], anyio.Event] = {}

    async def ask(iova: int, perm: Perm) -> Mapping | None:
        key = iova, perm
        if key in waiting:
            await waiting[key].wait()
            return answers[key]
        waiting[key] = anyio.Event()
        try:
            answers[key] = await translate(iova, perm)
        finally:
            waiting.pop(key).set()
        return answers[key]

    return ask


def excused(translate: Translate) -> Translate:
    """Say that nothing is mapped where the answer is none."""

    async def ask(iova: int, perm: Perm) -> Mapping | None:
        try:
            answer: object = await translate(iova, perm)
        except TranslationFault:
            raise
        except Exception:  # noqa: BLE001 - this is the mistake
            return None
        return answer if isinstance(answer, Mapping) else None

    return ask


# -- uses ------------------------------------------------------------------------


class Unused(Use):
    """A use that holds back nothing."""

    def revoke(self) -> None:
        """Forget it."""

    def end(self) -> None:
        """Forget it."""


class PinsNothing(PassingSubscription):
    def use(self, thing: object = None) -> Use:  # noqa: ARG002 - the mistake
        return Unused()


class PinsEverything(PassingSubscription):
    """Holds back every acknowledgement while anything is in use."""

    def use(self, thing: object = None) -> Use:
        use = super().use(thing)
        use.revoke()
        return use


class DevicesAreDeaf(PassingSubscription):
    def __aiter__(self) -> AsyncIterator[Event]:
        return Edited(super().__aiter__(), lambda event: [event] * (not isinstance(event, DevIotlbUnmap)))


def with_endpoint(kind: type[PassingEndpoint]) -> MakeBus:
    return maker(type(kind.__name__, (FaultyBus,), {"endpoint_kind": kind}))


MISTAKES: Final[dict[str, MakeBus]] = {
    **{
        kind.__name__: with_endpoint(kind)
        for kind in (
            NeverAttaches,
            NeverDetaches,
            DetachesFirst,
            UnmapsAtDetach,
            RefusesPullSpaces,
            StaysInClosedSpaces,
            EndpointNeverCloses,
        )
    },
    **{kind.__name__: with_space(kind) for kind in (ForgetsMemories, RefusesSilently)},
    **{
        kind.__name__: with_subscription(kind)
        for kind in (BacksWithACopy, HandsOnACopy, AllowsEverything, PinsNothing, PinsEverything, DevicesAreDeaf)
    },
    **{
        kind.__name__: maker(kind)
        for kind in (KnowsOnlySpaces, NeedsOneEndpoint, MakesUpNames, RemovesSilently, ViewsByName, TakesEveryMemory)
    },
    "has 48 bits": with_space_option(last=2**48 - 1),
    "asks twice": with_producer(asked_twice),
    "joins old questions": with_producer(joined_for_ever),
    "excuses its producer": with_producer(excused),
    "waits for any answer": with_space_option(answer_timeout=3600.0),
    "ignores granules": without_option("granule"),
    "ignores that powers of two are wanted": without_option("pow2"),
    "ignores that exact ranges are wanted": without_option("exact"),
    "ignores limits": without_option("limit"),
}
"""Buses with one mistake each, beside those of `tests.faulty`."""
