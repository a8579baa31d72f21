"""An event loop in which time costs nothing, and processes that can be stopped and killed in it.

When nothing is ready, the time jumps to the next timer; when there is none either,
nothing can ever happen again, and the run fails.  There is one thread: what anyio
would do in a worker thread is done in between.  So a run is a function of its
arguments, and the same again each time.

A `VirtualProcess` is whatever runs in its context.  Stopped, none of its callbacks
runs until it goes on; killed, none ever does.
"""

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from heapq import heappop, heappush
from threading import get_ident
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack, cast
from unittest.mock import patch

import anyio
from anyio._backends._asyncio import AsyncIOBackend
from anyio.lowlevel import checkpoint

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

STEPS: Final = 200_000
"""Most turns of one run: what goes on for ever without time passing is a failure, too."""

START: Final = 1000.0
"""Virtual seconds at the beginning: not 0, which is false and may hide a mistake."""

NO_TIME: Final = 0.0


class Deadlock(AssertionError):
    """Nothing is ready and no timer runs, but the run is not over."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready first come, first served, and skips the waiting.

    Attributes:
        errors: What was raised where nobody could catch it; `run` raises it.
        thread_time: Says how long the next call in a worker thread takes, in seconds.
    """

    _ready: deque[Any]  # asyncio's own, as the next one
    _thread_id: int | None

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []
        self.thread_time: Callable[[], float] = lambda: NO_TIME
        self._now = START
        self._steps = 0
        self._timers: list[tuple[float, int, Any]] = []
        self._timed = 0
        self._parked: dict[VirtualProcess, list[Any]] = {}
        self._made = 0

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._now

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """What is going to happen at some time and was not called off."""
        return [timer for _, _, timer in sorted(self._timers) if not timer.cancelled()]

    def park(self, process: "VirtualProcess") -> None:
        """Run nothing of a process from now on."""
        self._parked.setdefault(process, [])

    def unpark(self, process: "VirtualProcess") -> None:
        """Let a process go on: what it has missed comes first."""
        self._ready.extendleft(reversed(self._parked.pop(process, [])))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do what a worker thread does, in this one; it takes a while, and cannot be cancelled."""
        await checkpoint()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(self.thread_time())
        return work()

    # -- what asyncio asks of a loop ----------------------------------------------

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call at some time; who comes first of those at the same time goes first."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timed += 1
        heappush(self._timers, (when, self._timed, timer))
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Arguments]], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """Call soon, from the one thread there is."""
        assert self._thread_id in {None, get_ident()}, "another thread in a run that is to be the same each time"
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Arguments]], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        """Call a function here and now."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what was raised where nobody could catch it."""
        self.errors.append(context.get("exception") or RuntimeError(str(context["message"])))

    def create_task(  # type: ignore[override]  # there is no other way to make one here
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> "NumberedTask[T]":
        """Return a task whose process is known."""
        self._made += 1
        task = NumberedTask(self._made, coro, self, context or copy_context())
        task.set_name(name or f"task {self._made}")
        return task

    def wind_down(self) -> None:
        """End every task: one that is collected later would end in a closed loop, in the middle of another test."""
        for parked in self._parked.values():
            self._ready.extend(parked)
        self._parked.clear()
        self._steps = 0
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        errors = self.errors.copy()
        with suppress(Exception):  # the run has failed already, or what is left is told
            if tasks:
                self.run_until_complete(asyncio.wait(tasks))
        self.errors = errors

    def _run_once(self) -> None:
        """Run what is ready, after the time has jumped if nothing was."""
        self._steps += 1
        assert self._steps < STEPS, "the run does not end"
        ready = self._ready
        if not ready and not self._stopping_now():
            self._jump()
        self._collect_timers()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if self._parked:
                process = process_of(handle)
                if process in self._parked:
                    self._parked[process].append(handle)
                    continue
            handle._run()

    def _stopping_now(self) -> bool:
        stopping: bool = getattr(self, "_stopping")  # noqa: B009 - asyncio's own, of which no type is known
        return stopping

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not timers:
            raise Deadlock("nothing is ready, no timer runs, and the run is not over")
        self._now = max(self._now, timers[0][0])

    def _collect_timers(self) -> None:
        timers, now = self._timers, self._now
        while timers and timers[0][0] <= now:
            self._ready.append(heappop(timers)[2])


class NumberedTask(asyncio.Task[T]):
    """A task whose place in a set does not depend on where in memory it is.

    Attributes:
        process: Whose it is.
    """

    def __init__(self, number: int, work: Coroutine[Any, Any, T], loop: VirtualLoop, context: Context) -> None:
        self._number = number
        self.process = context.get(PROCESS)
        super().__init__(work, loop=loop, context=context)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualProcess:
    """A process in a virtual loop: all that runs in its context.

    Attributes:
        name: What traces call it.
        pid: Its number.
        context: In which its callbacks run.
        stopped: Whether it is stopped, as by SIGSTOP.
        killed: Whether it was killed, as by SIGKILL: nothing of it is run, not even what cleans up.
        ended: Set when it has ended, in any way.
        at_end: Called when it has ended, outside of it: what the kernel does then.
    """

    def __init__(self, loop: VirtualLoop, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.stopped = False
        self.killed = False
        self.ended = anyio.Event()
        self.at_end: list[Callable[[], object]] = []
        self.context = copy_context()
        self.context.run(PROCESS.set, self)
        self._loop = loop

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run a task in it."""
        return self.context.copy().run(lambda: self._loop.create_task(work()))

    def start_main(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run the task with which it ends."""
        task = self.start(work)
        task.add_done_callback(lambda _: self._end(), context=Context())
        return task

    def stop(self) -> None:
        """Run nothing of it until `go_on`."""
        if not self.ended.is_set():
            self.stopped = True
            self._loop.park(self)

    def go_on(self) -> None:
        """Run it again; what was due meanwhile comes first."""
        if self.stopped and not self.killed:
            self._loop.unpark(self)
        self.stopped = False

    def kill(self) -> None:
        """End it: nothing of it runs any more."""
        if not self.ended.is_set():
            self.killed = True
            self._loop.park(self)
            self._end()

    def _end(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            for act in self.at_end:
                act()

    async def bury(self) -> None:
        """Clear away what a killed one left: cancel its tasks, and let them end, when all is over and nobody looks."""
        tasks = self.unfinished()
        self._loop.unpark(self)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.park(self)
        for timer in self._loop.timers:
            if process_of(timer) is self:
                timer.cancel()

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """Return its tasks that have not ended."""
        return [task for task in asyncio.all_tasks(self._loop) if getattr(task, "process", None) is self]

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "stopped" if self.stopped else "running"
        return f"<process {self.name}, {state}>"


PROCESS: Final[ContextVar[VirtualProcess | None]] = ContextVar("PROCESS", default=None)
"""Whose callback runs, or whose a context is."""


def process_of(handle: asyncio.Handle) -> VirtualProcess | None:
    """Return whose callback it is."""
    context: Context = getattr(handle, "_context")  # noqa: B009 - asyncio's own, of which no type is known
    return context.get(PROCESS)


def run(case: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a case to its end in a loop of its own, and return what it returned.

    Raises:
        AssertionError: It cannot go on (`Deadlock`), does not end, or has left a task or a timer behind.
        BaseException: What it raised, or what was raised where nobody could catch it.
    """
    loop = VirtualLoop()
    collected = gc.isenabled()
    gc.disable()  # it would come at another moment each time
    try:
        asyncio.set_event_loop(loop)
        with patch.object(AsyncIOBackend, "run_sync_in_worker_thread", INLINE):
            try:
                result = loop.run_until_complete(case(loop))
                left = [*asyncio.all_tasks(loop), *((process_of(timer), timer) for timer in loop.timers)]
            finally:
                loop.wind_down()
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        if collected:
            gc.enable()
    if loop.errors:
        raise loop.errors[0]
    assert not left, f"left behind: {left}"
    return result


async def _in_thread(_: type, function: Callable[..., Any], arguments: tuple[Any, ...], *__: Any, **___: Any) -> Any:
    """Stand in for what anyio does in a worker thread."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return await loop.in_thread(partial(function, *arguments))


INLINE: Final = cast("Any", classmethod(_in_thread))
