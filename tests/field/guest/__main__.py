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
HOWTO: Final = Path("/app/howto")


async def try_examples() -> None:
    """Run the examples that need a kernel's devices, as a user runs them."""
    run("vfio_consumer.py", [sys.executable, str(EXAMPLES / "vfio_consumer.py"), find_edu()])
    run("vhost_consumer.py", [sys.executable, str(EXAMPLES / "vhost_consumer.py"), "/dev/vhost-net"])


async def try_howto() -> None:
    """Do what the how-tos say: what is typed into a shell, and then their programs."""
    for page in sorted(HOWTO.iterdir()):
        for part in sorted(page.iterdir(), key=lambda path: path.suffix, reverse=True):
            run(part.name, ["sh" if part.suffix == ".sh" else sys.executable, str(part)])


def run(name: str, command: list[str]) -> None:
    """Run a program, and say how it ended and what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    say("ran", name=name, status=done.returncode, lines=done.stdout.splitlines(), errors=done.stderr)


TRIALS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "vfio": try_vfio,
    "vhost": try_vhost,
    "examples": try_examples,
    "howto": try_howto,
}

for name in sys.argv[1:]:
    say("begin", trial=name)
    try:
        anyio.run(TRIALS[name])
    except BaseException:  # noqa: BLE001 - whatever it was, it is told
        say("broke", trial=name, trace=traceback.format_exc())
    say("end", trial=name)
