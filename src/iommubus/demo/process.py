"""A process of the demo: the daemon, or one consumer.

``python -m iommubus.demo.process LOOP PIPE [BOARD]`` is how the player starts it: the
name of the event loop, and the numbers of two descriptors.  It ends when its pipe does.
"""

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus

from ..client.remote import connect
from ..errors import IommubusError
from ..service.settings.config import Config, Limits, Log
from ..transport.address import UnixAddress, parse_address
from .board import Board
from .job import LOOPS
from .pipe import QUESTIONS, Consume, Ended, Failed, Order, Pipe, Question, Serve, Started
from .subscribers import Keeper, Shadower

SLOW_LIMITS: Final = Limits(unacknowledged=1024)
"""So little may be on its way to a subscriber that the slow one's mailbox overflows: some 40
events, less than a setting may be.  A hand-over is never cut, so everybody gets on all the same."""

FAILED: Final = 1
"""Exit status of a process that could not be what it was to be."""


def main(loop: str, pipe: str, board: str | None = None) -> None:
    """Be what the other end of the pipe says, until it needs nobody any more."""
    logging.getLogger("iommubus").addHandler(logging.NullHandler())
    work = partial(be, int(pipe), None if board is None else int(board))
    sys.exit(anyio.run(work, **LOOPS[loop]))


async def be(pipe_number: int, board: int | None) -> int:
    """Return the exit status."""
    pipe = await Pipe.over(socket.socket(fileno=pipe_number))
    try:
        order: Order = await pipe.receive(Order)
        match order:
            case Serve():
                await be_daemon(order, pipe)
            case Consume():
                await be_consumer(order, pipe, board)
    except Ended:
        pass
    except Exception as error:
        reason = sole(error)
        if not isinstance(reason, IommubusError):
            raise

        await pipe.send(Failed(str(reason)))
        return FAILED

    return 0


async def be_daemon(order: Serve, pipe: Pipe) -> None:
    """Serve until the pipe ends."""
    from ..service.serve import serve  # noqa: PLC0415 - a consumer need not wait for it

    ready = anyio.Event()
    config = Config(listen=(order.address,), limits=SLOW_LIMITS, log=Log(level="error"))

    async def end_with_pipe() -> None:
        await ready.wait()
        await pipe.send(Started())
        with suppress(Ended):
            await pipe.receive(Question)
        os.kill(os.getpid(), signal.SIGTERM)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_with_pipe)
        await serve(config, ready=lambda _: ready.set())
        tasks.cancel_scope.cancel()


async def be_consumer(order: Consume, pipe: Pipe, board: int | None) -> None:
    """Follow to the end of the stream, or of the pipe, and answer questions meanwhile."""
    kind = getattr(import_module(order.module), order.kind)
    consumer = kind(*order.arguments)
    if issubclass(kind, Keeper) and board is not None:
        consumer.pages.keep_in(Board(board))
    if issubclass(kind, Shadower) and not isinstance(parse_address(order.address), UnixAddress):
        consumer.stops = "lease"  # over a network the daemon cannot see a process end

    async with connect(order.address, name=f"demo {consumer.name}") as bus, anyio.create_task_group() as tasks:

        async def follow(*, task_status: TaskStatus[None]) -> None:
            await consumer.run(bus, task_status=task_status)
            tasks.cancel_scope.cancel()

        await tasks.start(follow)
        await pipe.send(Started())
        with suppress(Ended):
            await answer(consumer, pipe)
        tasks.cancel_scope.cancel()


async def answer(consumer: Any, pipe: Pipe) -> None:
    """Answer questions until `Ended` is raised."""
    while True:
        question: Question = await pipe.receive(Question)
        if question.name not in QUESTIONS:
            raise ValueError(f"nobody can be asked for {question.name}")

        await pipe.send(await getattr(consumer, question.name)(*question.arguments))


def sole(error: BaseException) -> BaseException:
    """Return what task groups were left by, where it is one thing."""
    inside: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return sole(inside[0]) if len(inside) == 1 else error


if __name__ == "__main__":
    main(*sys.argv[1:])
