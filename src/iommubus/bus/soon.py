"""The way into the event loop from outside: from another thread, or from the garbage collector."""

from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token

Soon = Callable[[Callable[[], object]], object]
"""Has a callback run by the event loop; may be called from any thread, at any moment.

Raises `RuntimeError` when the loop has ended.
"""


def soon_in_this_loop() -> Soon:
    """Return what has a callback run by the event loop that runs now."""
    loop: Any = current_token().native_token
    soon: Soon = loop.run_sync_soon if hasattr(loop, "run_sync_soon") else loop.call_soon_threadsafe
    return soon
