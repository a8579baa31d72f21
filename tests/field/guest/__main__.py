"""What a guest does: one trial, or all, and say what was seen; whoever started the guest judges it."""

import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio

from tests.field.guest.saying import say
from tests.field.guest.vfio import find_edu, try_vfio
from tests.field.guest.vhost import try_vhost

EXAMPLES: Final = Path("/app/examples")


async def try_examples() -> None:
    """Run the examples that need a kernel's devices, as a user runs them."""
    for name, device in (("vfio_consumer.py", find_edu()), ("vhost_consumer.py", "/dev/vhost-net")):
        done = subprocess.run(
            [sys.executable, EXAMPLES / name, device],
            capture_output=True,
            text=True,
            check=False,
        )
        say("example", name=name, status=done.returncode, lines=done.stdout.splitlines(), errors=done.stderr)


TRIALS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "vfio": try_vfio,
    "vhost": try_vhost,
    "examples": try_examples,
}

for name in sys.argv[1:]:
    say("begin", trial=name)
    try:
        anyio.run(TRIALS[name])
    except BaseException:  # noqa: BLE001 - whatever it was, it is told
        say("broke", trial=name, trace=traceback.format_exc())
    say("end", trial=name)
