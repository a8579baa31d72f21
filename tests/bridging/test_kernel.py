"""The calls of the kernel are its own, and its refusals are told in words."""

import errno
import os

import pytest

from iommubus.bridging.kernel import LINUX, refused

FIONREAD = 0x541B


def test_calls_are_the_kernels() -> None:
    receiving, sending = os.pipe()
    os.set_blocking(receiving, False)
    with pytest.raises(BlockingIOError):
        LINUX.read(receiving, 10)
    assert LINUX.write(sending, b"abc") == 3
    waiting = bytearray(4)
    assert LINUX.ioctl(receiving, FIONREAD, waiting) == 0
    assert waiting == b"\3\0\0\0"
    assert LINUX.read(receiving, 10) == b"abc"
    LINUX.close(receiving)
    LINUX.close(sending)
    with pytest.raises(OSError, match="Bad file descriptor"):
        LINUX.write(sending, b"")


def test_a_device_is_opened_to_be_read_and_written_and_is_not_inherited() -> None:
    fd = LINUX.open("/dev/null")
    assert (LINUX.read(fd, 1), LINUX.write(fd, b"x"), os.get_inheritable(fd)) == (b"", 1, False)
    LINUX.close(fd)


def test_a_refusal_says_what_it_means_where_that_is_known() -> None:
    hints = {errno.EBUSY: "another has it"}

    assert str(refused("VHOST_SET_OWNER", OSError(errno.EBUSY, ""), hints)) == (
        "VHOST_SET_OWNER: EBUSY, Device or resource busy (another has it)"
    )
    assert str(refused("read it", OSError(errno.EIO, ""), hints)) == "read it: EIO, Input/output error"
