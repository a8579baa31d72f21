"""``iommubus demo`` as a user runs it."""

import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner, Result

from iommubus.cli.app import app
from iommubus.compiled import summary

MAP = "1@10.0:virtio_iommu_map domain=0 virt_start=0x1000 virt_end=0x1fff phys_start=0x8000 flags=3\n"
UNMAP = "1@11.0:virtio_iommu_unmap_done domain=0 virt_start=0x1000 virt_end=0x1fff\n"
LOG = MAP + "1@10.5:vhost_iotlb_miss x\n" + UNMAP
DAMAGED = MAP + "1@10.5:virtio_iommu_map domain=zero\n" + UNMAP
COMPRESSIONS: Final[dict[str, Callable[[bytes], bytes]]] = {"plain": bytes, "gz": gzip.compress, "xz": lzma.compress}


def iommubus(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given)


def write(path: Path, log: str) -> str:
    path.write_text(log)
    return str(path)


@pytest.fixture
def log(tmp_path: Path) -> str:
    return write(tmp_path / "log", LOG)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_trace_is_played_on_each_loop(log: str, loop: str) -> None:
    done = iommubus("demo", "--trace", log, "--loop", loop)

    assert done.exit_code == 0
    assert f"on {loop}," in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "demo ok: 1 trace, 2 events, 1 syncs, every copy and cache was right"


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_a_trace_can_come_from_standard_input(compress: Callable[[bytes], bytes]) -> None:
    done = iommubus("demo", "--trace", "-", given=compress(LOG.encode()))

    assert done.exit_code == 0
    assert done.stdout.startswith("<stdin>")


def test_the_results_can_be_had_as_json(log: str) -> None:
    done = iommubus("demo", "--trace", log, "--json", "--loop", "asyncio")

    report = json.loads(done.stdout)
    assert (report["ok"], report["loop"]) == (True, "asyncio")
    (trace,) = report["traces"]
    assert (trace["maps"], trace["unmaps"], trace["pages"]) == (1, 1, 0)
    assert trace["skipped"] == {"vhost_iotlb_miss": 1}
    assert trace["moves"] == {"endpoints": 0, "of_trace": 0, "left": None, "returned": None}


def test_a_damaged_line_is_named_with_file_number_and_text(tmp_path: Path) -> None:
    path = write(tmp_path / "log", DAMAGED)

    done = iommubus("demo", "--trace", path)

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"iommubus demo: {path}:2: ")
    assert "'1@10.5:virtio_iommu_map domain=zero'" in done.stderr


def test_damage_can_be_counted_instead(tmp_path: Path) -> None:
    done = iommubus("demo", "--trace", write(tmp_path / "log", DAMAGED), "--keep-going")

    assert done.exit_code == 0
    assert "damaged" in done.stdout
    assert "1 lines" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trace", "/nowhere/at-all"], "/nowhere/at-all: No such file or directory"),
        (["--family", "vtd_inval"], "no shipped trace is played as vtd_inval"),
        (["--trace", "-"], "<stdin> has no event of a known family"),
    ],
)
def test_what_cannot_be_played_is_said_on_standard_error(arguments: list[str], message: str) -> None:
    done = iommubus("demo", *arguments)

    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("arguments", [["--family", "nonsense"], ["--loop", "nonsense"], ["--nonsense"]])
def test_wrong_usage_has_its_own_status(arguments: list[str]) -> None:
    assert iommubus("demo", *arguments).exit_code == 2


def test_a_failed_verdict_is_an_exit_status(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_reason(*_: object) -> list[str]:
        return ["because"]

    monkeypatch.setattr("iommubus.demo.player.judge_result", one_reason)

    done = iommubus("demo", "--trace", log)

    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == f"demo failed: {log}: because"


def test_a_loop_that_is_not_installed_is_named(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'trio'", name="trio")

    monkeypatch.setattr("anyio.run", missing)

    done = iommubus("demo", "--trace", log, "--loop", "trio")

    assert done.exit_code == 2
    assert "the loop trio is not installed" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("", [KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt()])]), 130),
    ],
)
def test_an_interrupt_is_no_traceback(
    log: str, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("anyio.run", interrupted)

    done = iommubus("demo", "--trace", log)

    assert done.exit_code == status
    assert done.stderr == "iommubus demo: interrupted\n"


def test_what_is_no_interrupt_is_not_hidden(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError("a fault")])

    monkeypatch.setattr("anyio.run", broken)

    with pytest.raises(BaseExceptionGroup):
        CliRunner().invoke(app, ["demo", "--trace", log], catch_exceptions=False)


def test_the_version_is_printed() -> None:
    done = iommubus("--version")

    assert done.exit_code == 0
    assert done.stdout.startswith("iommubus ")
    assert done.stdout.endswith(f"{summary()})\n")


# -- across processes -------------------------------------------------------------

PULL = "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x1 addr 0x1000 mask 0x0\n"
"""Of a space without a table: a cache and an observer are all who follow it."""


@pytest.mark.timeout(60)
def test_a_trace_is_played_in_each_place_that_is_named(tmp_path: Path) -> None:
    done = iommubus("demo", "--trace", write(tmp_path / "log", PULL), "--connect", "none", "--connect", "own")

    assert (done.exit_code, done.stderr) == (0, "")
    told = " ".join(done.stdout.split())
    assert "through the bus in one process on uvloop, and" in told
    assert "through the bus across processes, with a daemon of their own, on uvloop, and" in told
    assert done.stdout.splitlines()[-1] == (
        "demo ok: 1 trace in one process and across 4 processes, 2 events, 2 syncs, every copy and cache was right"
    )


@pytest.mark.timeout(60)
def test_a_daemon_that_is_there_is_played_on(tmp_path: Path, address: str) -> None:
    done = iommubus("demo", "--trace", write(tmp_path / "log", PULL), "--connect", address, "--json")

    report = json.loads(done.stdout)
    assert [(trace["ok"], trace["processes"]) for trace in report["traces"]] == [(True, 4)]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--connect", "own", "--loop", "trio"], 2, "across processes it runs on asyncio or uvloop"),
        (["--connect", "nowhere"], 2, "'nowhere' cannot be used: an address is "),
        (["--connect", "unix:/nowhere/at-all"], 1, "there is no connection to the daemon at unix:/nowhere/at-all: "),
    ],
)
def test_a_daemon_that_cannot_be_had_is_said_in_one_line(
    log: str, arguments: list[str], status: int, message: str
) -> None:
    done = iommubus("demo", "--trace", log, *arguments)

    assert done.exit_code == status
    assert done.stderr.startswith(f"iommubus demo: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.timeout(60)
def test_a_daemon_of_its_own_that_cannot_be_started_is_said(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.demo.processes.PROGRAM", "iommubus.nowhere")

    done = iommubus("demo", "--trace", log, "--connect", "own")

    assert (done.exit_code, done.stderr) == (1, "iommubus demo: the process of the daemon ended with exit status 1\n")


# -- as a process ----------------------------------------------------------------


def environment() -> dict[str, str]:
    source = str(Path(__file__).parents[2] / "src")
    return {**os.environ, "PYTHONPATH": source, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}


def test_the_shipped_traces_end_well_in_a_process_of_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iommubus.cli", "demo"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(),
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "demo ok: 2 traces, 32,559 events, 130 syncs, every copy and cache was right"
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    assert ["published", "in", "virtio-iommu/domain-0", "9,015", "8,756"] in rows
    assert ["published", "in", "vtd/domain-3", "7,394", "7,394"] in rows
    assert ["endpoint-16", "follows", "its", "endpoint", "9,274", "8,757", "0", "0x"] in rows
    moved = "moves 1 move, 1 endpoint: 0 pages held once detached, 351 once attached again"
    assert moved in " ".join(done.stdout.split())


def test_the_package_itself_is_the_same_command(log: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iommubus", "demo", "--json", "--trace", log],
        capture_output=True,
        env=environment(),
        check=True,
    )

    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_control_c_ends_it_cleanly(loop: str) -> None:
    # A shell that runs the tests in the background ignores SIGINT, and whatever it starts does too.
    process = subprocess.Popen(
        ["/usr/bin/env", "--default-signal=INT", sys.executable, "-u", "-m", "iommubus", "demo", "--loop", loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith(" 25%"):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert (process.returncode, errors) == (130, "iommubus demo: interrupted\n")
