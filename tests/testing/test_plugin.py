"""The pytest plugin, in runs of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from iommubus import Cap
from iommubus.testing import Case, bus_cases, consumer_cases, producer_cases
from iommubus.testing.plugin import ROLES
from iommubus_pytest import MASKS, ROLES as CHOICES

SUBJECTS: Final = """
from iommubus import Bus, Cap, Iotlb, Map, Mapping, Mirror, Perm
from iommubus.testing import Usage


async def shadow(bus, endpoint, *, task_status):
    async with bus.subscribe(endpoint, Cap.IOTLB) as events:
        mirror = Mirror(events)
        task_status.started(lambda: mirror)
        await mirror.run()


async def hoard(bus, endpoint, *, task_status):
    async with bus.subscribe(endpoint, Cap.IOTLB) as events:
        held = []
        task_status.started(lambda: held)
        async for event in events:
            if isinstance(event, Map):
                held.append(Mapping(event.first, event.last, event.target, event.perm))


class Back:
    @staticmethod
    async def cache(bus, endpoint, *, task_status):
        async with bus.subscribe(endpoint, Cap.UNMAP) as events:
            iotlb = Iotlb(events)
            task_status.started(Usage(lambda: iotlb, iotlb.translate))
            async for event in events:
                iotlb.apply(event)


async def reuse(bus):
    space = await bus.create_space("vtd0")
    space.map(0, 0x1000, 0, Perm.R)
    space.unmap(0, 0x1000)
    space.map(0x1000, 0x1000, 0, Perm.R)
    await space.sync()
"""

OTHER: Final = """
def test_something_else():
    assert True
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "subjects.py").write_text(SUBJECTS, encoding="utf-8")
    (tmp_path / "test_other.py").write_text(OTHER, encoding="utf-8")
    return tmp_path


def run(project: Path, *options: str) -> tuple[int, str]:
    """Run pytest, where every warning is an error; return how it ended and what it said."""
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:asyncio", "-p", "no:cacheprovider", "-rA"]
    result = subprocess.run([*command, *options], cwd=project, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def outcomes(text: str, how: str) -> set[str]:
    """Return the cases that passed, or failed."""
    marks = (line.partition(" ") for line in text.splitlines())
    return {rest.split()[0].rpartition("::")[2] for mark, _, rest in marks if mark == how and "iommubus::" in rest}


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        (["--iommubus-conformance=subjects:shadow"], consumer_cases),
        (["--iommubus-conformance=subjects:Back.cache", "--iommubus-caps=UNMAP"], consumer_cases),
        (["--iommubus-conformance=iommubus:Bus", "--iommubus-role=bus"], bus_cases),
    ],
)
def test_every_case_is_a_test(project: Path, options: list[str], cases: Callable[[Any], tuple[Case, ...]]) -> None:
    status, text = run(project, *options)

    assert outcomes(text, "PASSED") == {case.name for case in cases(None)}
    assert "test_something_else" in text
    assert status == 0


def test_what_is_wrong_is_named_with_its_law(project: Path) -> None:
    status, text = run(project, "--iommubus-conformance=subjects:hoard", "-k", "iommubus and unmap_all")

    assert status == 1
    assert outcomes(text, "FAILED") == {"it_follows_unmap_all"}
    assert "Law 1: when everything is unmapped, nothing is held, and it goes on." in text
    assert "PromiseBroken: a shadower holds exactly what is mapped in its ranges: expected nothing, found" in text
    assert "test_something_else" not in text


@pytest.mark.parametrize("free", [False, True])
def test_a_producer_may_be_let_reuse(project: Path, free: bool) -> None:
    role = ["--iommubus-conformance=subjects:reuse", "--iommubus-role=producer"]
    status, text = run(project, *role, *["--iommubus-free-reuse"] * free)

    early = {"it_reuses_nothing_before_a_sync", "it_reuses_nothing_after_a_sync_that_failed"}
    assert outcomes(text, "FAILED") == (set() if free else early)
    assert outcomes(text, "PASSED") == {case.name for case in producer_cases(None)} - early  # type: ignore[arg-type]
    assert status == (0 if free else 1)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("subjects", "takes MODULE:NAME, got 'subjects'"),
        ("subjects:", "takes MODULE:NAME, got 'subjects:'"),
        ("nowhere:shadow", "No module named 'nowhere'"),
        ("subjects:nobody", "module 'subjects' has no attribute 'nobody'"),
    ],
)
def test_what_cannot_be_found_is_a_usage_error(project: Path, path: str, complaint: str) -> None:
    status, text = run(project, f"--iommubus-conformance={path}")

    assert status == pytest.ExitCode.USAGE_ERROR
    assert complaint in text


def test_without_the_option_nothing_of_it_is_loaded(project: Path) -> None:
    probe = """
import sys


def test_nothing_is_loaded():
    assert "iommubus_pytest" in sys.modules
    assert not [name for name in sys.modules if name.partition(".")[0] in ("iommubus", "msgspec")]
"""
    (project / "test_other.py").write_text(probe, encoding="utf-8")

    status, text = run(project)

    assert status == 0
    assert "1 passed" in text


def test_the_choices_are_what_there_is() -> None:
    assert set(CHOICES) == ROLES.keys()
    assert all(Cap[mask] for mask in MASKS)
