"""How a command runs, and how it ends: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

What a person can cause is one line on standard error and never a traceback.
"""

import logging
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, NoReturn, TypeVar

import typer

from ..errors import AddressError, BadSetting, IommubusError, UnknownSetting, leaves
from ..service.seen.logs import one_line

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells say it."""

T = TypeVar("T")


class WrongUsage(Exception):
    """Options or arguments that do not go together."""


TOLD: Final = (IommubusError, WrongUsage, OSError, KeyboardInterrupt)
"""What a person can cause, and act on."""


def run(command: str, work: Callable[[], Awaitable[T]]) -> T:
    """Run a command to its end, on uvloop where there is one."""
    import anyio  # noqa: PLC0415 - what does not run on a loop need not wait for it

    with plain_errors(command):
        return anyio.run(work, backend="asyncio", backend_options={"use_uvloop": sys.platform != "win32"})


@contextmanager
def plain_errors(command: str) -> Generator[None]:
    """Say what a person can act on in one line, with the status that fits it."""
    logging.getLogger("iommubus").addHandler(logging.NullHandler())
    try:
        yield
    except BaseExceptionGroup as group:
        error = to_tell(group)
        if error is None:
            raise
        end(command, error)
    except TOLD as error:
        end(command, error)


def to_tell(error: BaseException) -> BaseException | None:
    """Return what is told of a task group that was left by errors; `None` if one of them is a fault of the program."""
    found = leaves(error)
    if not all(isinstance(each, TOLD) for each in found):
        return None
    return next((each for each in found if isinstance(each, KeyboardInterrupt)), found[0])


def end(command: str, error: BaseException) -> NoReturn:
    """Say why a command ends, and end it."""
    if isinstance(error, BrokenPipeError):  # whoever read has seen enough; typer ends that without a word
        raise error
    text = "interrupted" if isinstance(error, KeyboardInterrupt) else in_one_line(error)
    quit_with(command, text, status_of(error))


def status_of(error: BaseException) -> int:
    """Return the exit status that stands for an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    of_flag = isinstance(error, BadSetting | UnknownSetting) and error.source == "the command line"
    return USAGE if of_flag or isinstance(error, WrongUsage | AddressError) else FAILED


def in_one_line(error: BaseException) -> str:
    """Return what an error says, without line breaks."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return one_line(" ".join(str(error).split())) or type(error).__name__


def quit_with(command: str, text: str, status: int = FAILED) -> NoReturn:
    """Say one line on standard error, and end with a status."""
    typer.echo(f"iommubus {command}: {text}", err=True)
    raise typer.Exit(status) from None
