"""A pytest plugin: each case of a conformance suite is a test.

``pytest --iommubus-conformance=package.module:name`` adds the cases for the
consumer of that name (or, with ``--iommubus-role``, the bus or the producer);
``-k iommubus`` leaves out every other test.  They run on asyncio.

pytest is told of it by ``iommubus_pytest``, which has the options and loads it
when they are used.
"""

import traceback
from collections.abc import Callable, Iterator
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from ..caps import Cap
from ..errors import CaseFailed
from .conformance import Case, bus_cases, consumer_cases, producer_cases

NODE: Final = "iommubus"
"""The node that the cases are under."""

ROLES: Final[dict[str, Callable[[Any, pytest.Config], tuple[Case, ...]]]] = {
    "consumer": lambda subject, config: consumer_cases(subject, Cap[str(config.getoption("iommubus_caps"))]),
    "producer": lambda subject, config: producer_cases(subject, reuse=not config.getoption("iommubus_free_reuse")),
    "bus": lambda subject, _: bus_cases(subject),
}
"""What makes the cases, for each role."""


@pytest.hookimpl(tryfirst=True)  # so that `-k` sees what is added
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the cases to the tests that were found."""
    path: str | None = config.getoption("iommubus_conformance")
    if path is not None:
        role = str(config.getoption("iommubus_role"))
        cases = ROLES[role](find(path), config)
        suite: Suite = Suite.from_parent(session, name=NODE, nodeid=f"{NODE}::{role}", cases=cases)  # pyright: ignore[reportUnknownMemberType]
        items += suite.collect()


class Suite(pytest.Collector):
    """All cases of one role."""

    def __init__(self, *, cases: tuple[Case, ...], **options: Any) -> None:
        super().__init__(**options)
        self._cases = cases

    def collect(self) -> Iterator[pytest.Item]:
        """Return a test for each case."""
        for case in self._cases:
            item: CaseItem = CaseItem.from_parent(self, name=case.name, case=case)  # pyright: ignore[reportUnknownMemberType]
            yield item


class CaseItem(pytest.Item):
    """One case, as a test."""

    def __init__(self, *, case: Case, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self._case = case

    def runtest(self) -> None:
        """Run the case."""
        anyio.run(self._case.run)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say what was found, and where."""
        failed = excinfo.value
        if not isinstance(failed, CaseFailed):
            return super().repr_failure(excinfo, style)
        where = "".join(traceback.format_exception(failed.__cause__))
        return f"{failed.law}\n{failed.reason}\n\n{where}"

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return what the case is called in reports."""
        return self.path, None, f"{NODE} {self.name}"


def find(path: str) -> Any:
    """Return what ``module:name`` means; the name may have dots in it.

    Raises:
        pytest.UsageError: There is nothing of this name.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise pytest.UsageError(f"--iommubus-conformance takes MODULE:NAME, got {path!r}")
    try:
        return reduce(getattr, name.split("."), import_module(module))
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--iommubus-conformance={path}: {error}") from error
