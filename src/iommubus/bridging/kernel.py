"""The calls of the kernel that bridges make, and its refusals in words.

They stand in a class, so that a test can have a model of a device take them
where there is none.
"""

import os
from collections.abc import Mapping
from fcntl import ioctl
from typing import Final

from ..errors import KernelRefused


class Kernel:
    """The kernel of this machine."""

    def open(self, path: str) -> int:
        """Open a device for reading and writing.

        Raises:
            OSError: It cannot be opened.
        """
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def ioctl(self, fd: int, request: int, argument: bytearray | int = 0) -> int:
        """Make a request of a device, which may write into its argument.

        Raises:
            OSError: It was refused.
        """
        return ioctl(fd, request, argument)

    def read(self, fd: int, size: int) -> bytes:
        """Read what a device has to say.

        Raises:
            BlockingIOError: It has nothing to say.
            OSError: It cannot be read.
        """
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        """Tell a device something; it has taken it in once this returns.

        Raises:
            OSError: It was refused.
        """
        return os.write(fd, data)


LINUX: Final = Kernel()
"""The kernel that is there."""


def refused(what: str, failure: OSError, hints: Mapping[int, str]) -> KernelRefused:
    """Return the error for a call that the kernel refused.

    Args:
        what: The call, with its values.
        failure: What came of it.
        hints: What error numbers mean at this call.
    """
    number = failure.errno or 0
    return KernelRefused(what, number, hints.get(number, ""))
