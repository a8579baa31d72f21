"""A lock file: one process at a time may use what it stands beside.

The file stays when the lock is released.  One that was removed while another
process was about to lock it would be two locks, and both would be held.

Source: ``flock(2)``: the lock belongs to the open file, so it is gone when the
process is, however it ended.
"""

import os
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from types import TracebackType
from typing import Final, Self

from ..errors import LockTaken

NUMBER: Final = 20
"""Most digits of a process's number that are read from a lock file."""


class Lock:
    """The lock beside ``path``, held from here to `close`.

    Raises:
        LockTaken: Another process holds it.
        OSError: The file cannot be opened.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: str) -> None:
        self.path = f"{path}.lock"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
        except BlockingIOError as taken:
            holder = _number(os.pread(self._fd, NUMBER, 0))
            os.close(self._fd)
            raise LockTaken(self.path, holder) from taken
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d" % os.getpid(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _number(text: bytes) -> int:
    with suppress(ValueError):
        return int(text)
    return 0
