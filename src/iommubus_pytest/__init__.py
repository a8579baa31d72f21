"""What pytest knows of iommubus: options, and where the plugin is.

pytest loads this in every run wherever iommubus is installed.  It stands beside
the package because to import anything of that costs as much as all of it, which
only those shall pay who use it.
"""

from importlib import import_module
from typing import Final

import pytest

ROLES: Final = ("consumer", "producer", "bus")
"""What the suites are for."""

MASKS: Final = ("IOTLB", "UNMAP", "DEVIOTLB_UNMAP", "ALL")
"""What a consumer on trial may subscribe with."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("iommubus", "conformance of what is built on iommubus")
    group.addoption(
        "--iommubus-conformance",
        metavar="MODULE:NAME",
        help="run the conformance suite on this: a consumer, a producer, or what makes a bus",
    )
    group.addoption("--iommubus-role", choices=ROLES, default=ROLES[0], help="what it is (default: %(default)s)")
    group.addoption(
        "--iommubus-caps",
        choices=MASKS,
        default=MASKS[0],
        help="the mask that a consumer subscribes with (default: %(default)s)",
    )
    group.addoption(
        "--iommubus-free-reuse",
        action="store_true",
        help="let a producer map a page again without a sync: it knows by other means that nobody uses it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the plugin if there is something for it to do."""
    if config.getoption("iommubus_conformance") is not None:
        config.pluginmanager.register(import_module("iommubus.testing.plugin"), "iommubus.testing.plugin")
