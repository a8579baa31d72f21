"""What is said of a ring, and when it can be served."""

import itertools
import os

import pytest

from iommubus.abi.vhost import VringFlags
from iommubus.abi.vhost_user import VringAddr
from iommubus.bridges.vhost_user_backend.rings import Slot, signal
from iommubus.bridging.vring import Ring
from iommubus.errors import BadField
from tests.peers import open_descriptors

ADDR = VringAddr(1, VringFlags(0), 0x1000, 0x3000, 0x2000, 0)


def eventfd() -> int:
    return os.eventfd(0)


def test_a_ring_is_wanted_once_all_was_said_and_it_is_enabled() -> None:
    for size, addr, kick, said, default in itertools.product((0, 8), (None, ADDR), (0, 1), (None, False, True), (0, 1)):
        slot = Slot(1)
        slot.size, slot.addr, slot.enabled, slot.base = size, addr, said, 5
        slot.kick = 77 if kick else None
        live = slot.wanted(0xF, enabled=bool(default))
        if size and addr and kick and (default if said is None else said):
            assert live is not None
            assert live.ring == Ring(1, 8, desc=0x1000, avail=0x2000, used=0x3000, base=5)
            assert (live.kick, live.call, live.features) == (77, slot.call, 0xF)
        else:
            assert live is None


@pytest.mark.parametrize("size", [0, 3, 6, 0xFFFF, 0x10000, 2**31])
def test_a_size_that_no_ring_has_is_refused(size: int) -> None:
    with pytest.raises(BadField, match="power of two"):
        Slot(0).resize(size)


def test_an_index_has_sixteen_bits() -> None:
    slot = Slot(0)
    slot.rebase(0xFFFF)
    with pytest.raises(BadField):
        slot.rebase(0x10000)
    assert slot.base == 0xFFFF


def test_a_kick_descriptor_stays_open_until_the_device_has_stopped() -> None:
    before = open_descriptors()
    slot = Slot(0)
    first = eventfd()
    slot.set_kick(first)
    slot.set_kick(eventfd())
    os.fstat(first)

    slot.stopped(9)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    slot.reset()
    slot.close_retired()
    assert (slot.base, open_descriptors()) == (0, before)


def test_a_call_descriptor_is_replaced_under_the_device() -> None:
    before = open_descriptors()
    slot = Slot(0)
    call = slot.call
    call.notify()  # to nobody
    first, second = eventfd(), eventfd()
    slot.set_call(first)
    slot.set_call(second)
    call.notify()

    assert os.eventfd_read(second) == 1
    slot.set_call(None)
    assert open_descriptors() == before


def test_one_that_cannot_be_signalled_any_more_is_passed_over() -> None:
    slot = Slot(0)
    fd = signal(eventfd())
    os.eventfd_write(fd, 2**64 - 2)
    slot.set_call(fd)

    slot.call.notify()

    assert os.eventfd_read(fd) == 2**64 - 2
    slot.set_call(None)


def test_what_is_no_eventfd_is_refused() -> None:
    fds = [*os.pipe(), os.memfd_create("memory"), os.open("/dev/null", os.O_RDONLY)]
    for fd in fds:
        with pytest.raises(BadField, match="eventfd"):
            signal(fd)
        os.close(fd)
