"""What the tests of commands share: one daemon, which all of them ask."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.daemons import daemon


@pytest.fixture(scope="session")
def address() -> Generator[str]:
    """Where a daemon is, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory, daemon(Path(directory)) as running:
        yield running.address


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing of this package set in the environment."""
    for name in ("IOMMUBUS_ADDRESS", "IOMMUBUS_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
