"""How a command ends: one line, and a status."""

import asyncio
import sys
from collections.abc import Callable

import pytest
import typer

from iommubus.cli.running import WrongUsage, plain_errors, run
from iommubus.errors import (
    AddressError,
    BadSetting,
    CannotListen,
    Disconnected,
    IommubusError,
    SyncFailed,
    UnknownSetting,
)


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("several", list(errors))


def status_of(error: BaseException) -> int:
    with pytest.raises(typer.Exit) as done, plain_errors("ping"):
        raise error
    return done.value.exit_code


AWAY = Disconnected("unix:/run/x", "Connection refused")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (AWAY, 1, "there is no connection to the daemon at unix:/run/x: Connection refused"),
        (group(AWAY), 1, "there is no connection to the daemon at unix:/run/x: Connection refused"),
        (group(group(AWAY)), 1, "there is no connection to the daemon at unix:/run/x: Connection refused"),
        (
            group(group(AWAY), OSError("later")),
            1,
            "there is no connection to the daemon at unix:/run/x: Connection refused",
        ),
        (CannotListen("unix:/x", "Permission denied"), 1, "cannot listen on unix:/x: Permission denied"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (OSError("no number"), 1, "no number"),
        (TimeoutError(), 1, "TimeoutError"),
        (IommubusError("two\nlines \033[2J"), 1, r"two lines \x1b[2J"),
        (AddressError("x", "an address is something else"), 2, "'x' cannot be used: an address is something else"),
        (WrongUsage("not both"), 2, "not both"),
        (BadSetting("the command line", "state", "''", "a text"), 2, "the command line: state is '', accepted: a text"),
        (BadSetting("/etc/x", "state", "''", "a text"), 1, "/etc/x: state is '', accepted: a text"),
        (UnknownSetting("the command line", "x", ""), 2, "the command line: there is no setting x"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (group(KeyboardInterrupt(), AWAY), 130, "interrupted"),
        (group(KeyboardInterrupt(), group(KeyboardInterrupt())), 130, "interrupted"),
    ],
)
def test_what_a_person_can_cause_is_one_line_and_a_status(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(error) == status
    assert capsys.readouterr().err == f"iommubus ping: {text}\n"


FAULT = ValueError("a fault")


@pytest.mark.parametrize("error", [FAULT, group(FAULT), group(AWAY, FAULT), group(KeyboardInterrupt(), group(FAULT))])
def test_what_is_a_fault_of_the_program_is_not_hidden(error: BaseException) -> None:
    with pytest.raises(type(error)), plain_errors("ping"):
        raise error


@pytest.mark.parametrize("error", [BrokenPipeError(), group(BrokenPipeError())])
def test_a_reader_that_has_seen_enough_is_told_nothing(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BrokenPipeError), plain_errors("ping"):
        raise error
    assert capsys.readouterr().err == ""


def test_a_failed_sync_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(SyncFailed(["a on vtd0 did not answer"], ["b could not map"])) == 1
    assert capsys.readouterr().err == "iommubus ping: sync failed: a on vtd0 did not answer; b could not map\n"


def test_work_runs_on_uvloop_and_gives_what_it_returns() -> None:
    async def work() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run("ping", work).partition(".")[0] == ("asyncio" if sys.platform == "win32" else "uvloop")


@pytest.mark.parametrize("error", [lambda: AWAY, KeyboardInterrupt])
def test_what_work_raises_ends_the_command(error: Callable[[], BaseException]) -> None:
    async def work() -> None:
        raise error()

    with pytest.raises(typer.Exit):
        run("ping", work)
