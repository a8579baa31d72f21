"""One process of a measurement: the publisher, or some subscribers.

``python -m bench.daemon.worker publisher|subscriber SUBJECT DIRECTORY PIPE``, as the
runner starts it; it ends with its pipe.
"""

import asyncio
import gc
import logging
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import singledispatchmethod
from pathlib import Path

import uvloop

from .bus import BusFollower, BusPublisher
from .check import Check
from .events import Change, Pages
from .subject import Follower, Publisher, Subject
from .subjects import load
from .words import (
    Answer,
    Create,
    Done,
    Expect,
    Failed,
    Join,
    Meet,
    Order,
    Pace,
    Pipe,
    Publish,
    Published,
    Rounds,
    Seen,
    Times,
)


class Publishing:
    """The publisher's process.

    Args:
        publisher: Its client.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._pages = Pages()

    @singledispatchmethod
    async def obey(self, order: Order) -> Answer:
        """Do what is said, and return the answer."""
        raise NotImplementedError(order)

    @obey.register
    async def _(self, order: Meet) -> Answer:
        await self._publisher.meet(order.subscribers)
        return Done()

    @obey.register
    async def _(self, order: Create) -> Answer:
        await several(self._publisher).create(order.spaces)
        return Done()

    @obey.register
    async def _(self, order: Publish) -> Answer:
        changes = self._pages.changes(order.script, order.count)
        gc.collect()
        began = time.monotonic()
        if order.spread:
            await several(self._publisher).spread(changes)
        else:
            await self._publisher.publish(changes, order.batch)
        return Published(began, len(changes))

    @obey.register
    async def _(self, order: Rounds) -> Answer:
        changes = self._pages.changes("unmap", order.count * order.each)
        gc.collect()
        return Times([await self._round(changes[at : at + order.each]) for at in range(0, len(changes), order.each)])

    @obey.register
    async def _(self, order: Pace) -> Answer:
        changes = self._pages.changes("mixed", order.count)
        gc.collect()
        times, start = [], time.monotonic()
        for number, change in enumerate(changes):
            await asyncio.sleep(start + number * order.interval - time.monotonic())
            times.append(time.monotonic())
            await self._publisher.publish((change,), 1)
        return Times(times)

    async def _round(self, changes: Sequence[Change]) -> float:
        start = time.perf_counter()
        await self._publisher.publish(changes, 1)
        await self._publisher.settle()
        return time.perf_counter() - start


class Subscribing:
    """The process of some subscribers.

    Args:
        subject: What they are of.
        place: Where its server is.
        stack: Ends them.
    """

    def __init__(self, subject: Subject, place: Path, stack: AsyncExitStack) -> None:
        self._subject = subject
        self._place = place
        self._stack = stack
        self._followers: list[Follower] = []

    @singledispatchmethod
    async def obey(self, order: Order) -> Answer:
        """Do what is said, and return the answer."""
        raise NotImplementedError(order)

    @obey.register
    async def _(self, order: Join) -> Answer:
        for number in range(order.number, order.number + order.count):
            subscriber = self._subject.subscriber(self._place, number, matching=order.matching)
            self._followers.append(await self._stack.enter_async_context(subscriber))
        return Done()

    @obey.register
    async def _(self, order: Create) -> Answer:
        for follower in self._followers:
            assert isinstance(follower, BusFollower)  # noqa: S101 - nobody else has spaces
            await follower.follow(order.spaces)
        return Done()

    @obey.register
    async def _(self, order: Expect) -> Answer:
        gc.collect()
        for check in self._checks:
            check.expect(order.run)
        return Done()

    async def see(self) -> Answer:
        """Wait for the end of the run."""
        for follower in self._followers:
            await follower.wait()
        for check in self._checks:
            if check.fault is not None:
                return Failed(str(check.fault))
        first = self._checks[0]
        return Seen(max(check.seen_at for check in self._checks), first.stamps)

    @property
    def _checks(self) -> list[Check]:
        return [check for follower in self._followers for check in follower.checks]


def several(publisher: Publisher) -> BusPublisher:
    """Return a publisher that can have several spaces."""
    assert isinstance(publisher, BusPublisher)  # noqa: S101 - nobody else has spaces
    return publisher


async def publishing(pipe: Pipe, subject: Subject, place: Path) -> None:
    """Publish what the runner says."""
    async with subject.publisher(place) as publisher:
        process = Publishing(publisher)
        await pipe.send(Done())
        while True:
            await pipe.send(await process.obey(await pipe.receive(Order)))


async def subscribing(pipe: Pipe, subject: Subject, place: Path) -> None:
    """Follow what the runner says."""
    async with AsyncExitStack() as stack:
        process = Subscribing(subject, place, stack)
        await pipe.send(Done())
        while True:
            order = await pipe.receive(Order)
            await pipe.send(await process.obey(order))
            if isinstance(order, Expect):
                await pipe.send(await process.see())


async def work(role: str, subject: Subject, place: Path, end: socket.socket) -> None:
    """Be what the runner says, until it says no more."""
    pipe = await Pipe.over(end)
    with suppress(EOFError, ConnectionError):
        try:
            if role == "publisher":
                await publishing(pipe, subject, place)
            else:
                await subscribing(pipe, subject, place)
        except EOFError:
            raise
        except Exception as error:  # noqa: BLE001 - the runner says it
            await pipe.send(Failed(f"{type(error).__name__}: {error}"))
    pipe.close()


def main(role: str, subject: str, place: str, pipe: str) -> None:
    """Start the event loop."""
    logging.disable(logging.CRITICAL)
    uvloop.run(work(role, load(subject), Path(place), socket.socket(fileno=int(pipe))))


if __name__ == "__main__":
    main(*sys.argv[1:])
