"""What every test shares: event loops, and random tests that no clock decides."""

import asyncio
from collections.abc import Callable, Mapping

import hypothesis
import uvloop

hypothesis.settings.register_profile("iommubus", deadline=None)
hypothesis.settings.load_profile("iommubus")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test marked ``asyncio`` on both loops that speak asyncio."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
