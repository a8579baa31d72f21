"""What the service manager is told: started, alive, about to stop.

Each message is a datagram to the socket that ``NOTIFY_SOCKET`` names.  Without
the variable nobody wants to know, and nothing is sent.

Source: ``sd_notify(3)``, ``sd_watchdog_enabled(3)``.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

WATCHDOG_SHARE: Final = 0.5
"""Part of the watchdog's time after which it is told again, as `sd_watchdog_enabled` recommends."""


class Supervisor:
    """The service manager, if there is one.

    Args:
        environ: The environment, in which it says where it listens.
    """

    __slots__ = ("_place", "interval")

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        self._place = place(variables.get("NOTIFY_SOCKET", ""))
        self.interval = watchdog_interval(variables, os.getpid())
        """Seconds after which `watchdog` should be called again; `None` if nobody waits for it."""

    def ready(self) -> bool:
        """Say that the daemon serves; clients that wait for the unit go on."""
        return self._send("READY=1")

    def stopping(self) -> bool:
        """Say that it has begun to stop."""
        return self._send("STOPPING=1")

    def watchdog(self) -> bool:
        """Say that it is alive."""
        return self._send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """Say in one line what it does, for people to read."""
        return self._send(f"STATUS={' '.join(text.splitlines())}")

    def _send(self, message: str) -> bool:
        """Send a message; return whether it was taken.

        Nothing waits, and nothing is raised: the daemon serves as well without being heard.
        """
        if self._place is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._place)
        except OSError:
            return False
        return True


def place(name: str) -> str | None:
    """Return the address of a notification socket; `None` if it is none of the file system or abstract."""
    if name.startswith("@"):
        return f"\0{name[1:]}"
    return name if name.startswith("/") else None


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Return after how many seconds process ``pid`` should say that it is alive; `None` if nobody waits for it."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not (usec.isascii() and usec.isdigit() and int(usec)):
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 1e6 * WATCHDOG_SHARE
