"""The device's side of a virtqueue: every small ring, random bytes, and drivers that mean harm."""

import itertools
import struct
from collections.abc import Iterable
from random import Random

import pytest

from iommubus.bridging.dma import Miss
from iommubus.bridging.vring import CHAIN_LIMIT, INDIRECT, NEXT, READ_LIMIT, WRITE, Buffer, Chain, Ring, Vring
from iommubus.caps import Perm
from iommubus.errors import RingBroken

DESC, AVAIL, USED, DATA = 0x1000, 0x2000, 0x3000, 0x4000
END = 0x6000


class Memory:
    """Bytes at addresses; pages may be missing once, as in a cache that is empty."""

    def __init__(self, missing: Iterable[int] = ()) -> None:
        self.bytes = bytearray(END)
        self.missing = set(missing)

    def read(self, iova: int, size: int) -> bytes:
        self._check(iova, size, Perm.R)
        return bytes(self.bytes[iova : iova + size])

    def write(self, iova: int, data: bytes) -> None:
        self._check(iova, len(data), Perm.W)
        self.bytes[iova : iova + len(data)] = data

    def _check(self, iova: int, size: int, perm: Perm) -> None:
        for page in range(iova & ~0xFFF, iova + max(size, 1), 0x1000):
            if page in self.missing:
                raise Miss(max(page, iova), perm)
            if page >= END:
                raise Miss(max(page, iova), perm)

    def describe(self, at: int, iova: int, size: int, flags: int = 0, behind: int = 0) -> None:
        struct.pack_into("<QIHH", self.bytes, DESC + 16 * at, iova, size, flags, behind)

    def offer(self, size: int, start: int, heads: Iterable[int]) -> None:
        """Make chains available, from an index on."""
        for head in heads:
            struct.pack_into("<H", self.bytes, AVAIL + 4 + 2 * (start % size), head)
            start = (start + 1) % 0x10000
        struct.pack_into("<H", self.bytes, AVAIL + 2, start)

    def used(self, size: int, index: int) -> tuple[int, int]:
        found: tuple[int, int] = struct.unpack_from("<II", self.bytes, USED + 4 + 8 * (index % size))
        return found

    @property
    def used_index(self) -> int:
        return int(struct.unpack_from("<H", self.bytes, USED + 2)[0])


def a_ring(size: int = 4, base: int = 0) -> Ring:
    return Ring(3, size, DESC, AVAIL, USED, base)


# -- what a driver may do ------------------------------------------------------


def expected_chain(links: tuple[int, ...], flags: tuple[int, ...], head: int) -> Chain | None:
    """Return the chain from a descriptor on, `None` if it is broken."""
    readable: list[Buffer] = []
    writable: list[Buffer] = []
    at = head
    for _ in range(len(links)):
        if at >= len(links):
            return None
        buffer = Buffer(DATA + at, at + 1)
        if flags[at] & WRITE:
            writable.append(buffer)
        elif writable:
            return None
        else:
            readable.append(buffer)
        if not flags[at] & NEXT:
            return Chain(head, tuple(readable), tuple(writable))
        at = links[at]
    return None


@pytest.mark.parametrize("size", [1, 2])
def test_every_ring_of_one_and_two_descriptors(size: int) -> None:
    """
    Each way to link them, one link out of the ring among them, each set of flags, each head.
    """
    for links in itertools.product(range(size + 1), repeat=size):
        for flags in itertools.product(range(4), repeat=size):
            for head in range(size + 1):
                memory = Memory()
                for at in range(size):
                    memory.describe(at, DATA + at, at + 1, flags[at], links[at])
                memory.offer(size, 0, [head])
                vring, wanted = Vring(a_ring(size), memory), expected_chain(links, flags, head)
                if wanted is None:
                    with pytest.raises(RingBroken):
                        vring.pop()
                else:
                    assert vring.pop() == wanted, (links, flags, head)


def test_every_chain_of_four_descriptors() -> None:
    """
    Each way to link them, and each to end; the first two are readable, the others may be written.
    """
    for links in itertools.product(range(4), repeat=4):
        for ends in range(16):
            flags = tuple((0 if ends >> at & 1 else NEXT) | (WRITE if at >= 2 else 0) for at in range(4))
            memory = Memory()
            for at in range(4):
                memory.describe(at, DATA + at, at + 1, flags[at], links[at])
            memory.offer(4, 0, [0])
            try:
                found = Vring(a_ring(), memory).pop()
            except RingBroken:
                found = None
            assert found == expected_chain(links, flags, 0), (links, flags)


@pytest.mark.parametrize("base", [0, 1, 5, 0xFFFC, 0xFFFE, 0xFFFF])
def test_indices_wrap(base: int) -> None:
    """
    Four chains at a time through a ring of four, twice, from any index on.
    """
    memory = Memory()
    for at in range(4):
        memory.describe(at, DATA + at, 1)
    struct.pack_into("<H", memory.bytes, AVAIL + 2, base)
    vring = Vring(a_ring(base=base), memory)
    assert vring.pop() is None
    for turn in range(2):
        start = (base + 4 * turn) % 0x10000
        memory.offer(4, start, [3, 1, 0, 2])
        chains = [vring.pop() for _ in range(4)]
        assert [chain.head for chain in chains if chain] == [3, 1, 0, 2]
        assert vring.pop() is None
        for written, chain in enumerate(chains):
            assert chain is not None
            vring.push(chain, written)
        assert [memory.used(4, start + step) for step in range(4)] == [(3, 0), (1, 1), (0, 2), (2, 3)]
        assert memory.used_index == vring.base == (base + 4 * turn + 4) % 0x10000


def test_what_was_peeked_at_is_still_there() -> None:
    memory = Memory()
    memory.describe(2, DATA, 7)
    memory.offer(4, 0, [2])
    vring = Vring(a_ring(), memory)

    assert vring.peek() == vring.peek() == vring.pop() == Chain(2, (Buffer(DATA, 7),), ())
    assert vring.peek() is None


def test_the_bytes_of_a_chain_are_read_and_written_in_order() -> None:
    memory = Memory()
    memory.bytes[DATA : DATA + 8] = b"abcdefgh"
    memory.describe(0, DATA + 4, 4, NEXT, 1)
    memory.describe(1, DATA, 2, NEXT, 2)
    memory.describe(2, DATA + 16, 3, NEXT | WRITE, 3)
    memory.describe(3, DATA + 32, 3, WRITE)
    memory.offer(4, 0, [0])
    vring = Vring(a_ring(), memory)
    chain = vring.pop()
    assert chain is not None

    assert (vring.read(chain), vring.read(chain, 5), vring.read(chain, 0)) == (b"efghab", b"efgha", b"")
    assert (vring.write(chain, b"ABCD"), vring.write(chain, b"0123456789")) == (4, 6)
    assert memory.read(DATA + 16, 3) + memory.read(DATA + 32, 3) == b"012345"


@pytest.mark.parametrize(("flags", "wanted"), [(0, True), (1, False), (0xFFFE, True)])
def test_the_driver_says_whether_it_wants_to_be_told(flags: int, wanted: bool) -> None:
    memory = Memory()
    struct.pack_into("<H", memory.bytes, AVAIL, flags)

    assert Vring(a_ring(), memory).must_notify() is wanted


# -- what is not in the cache --------------------------------------------------


@pytest.mark.parametrize(
    "missing", [subset for count in range(5) for subset in itertools.combinations((1, 2, 3, 4), count)]
)
def test_after_a_miss_everything_can_be_done_again(missing: tuple[int, ...]) -> None:
    """
    Whatever is missing when, each chain comes once, and each is given back once.
    """
    memory = Memory(0x1000 * page for page in missing)
    memory.bytes[DATA : DATA + 4] = b"abcd"
    for at in range(4):
        memory.describe(at, DATA + at, 1)
    memory.offer(4, 0, [0, 1, 2, 3])
    vring = Vring(a_ring(), memory)
    seen: list[bytes] = []
    misses: list[Miss] = []
    while len(seen) < 4:
        try:
            chain = vring.peek()
            assert chain is not None
            data = vring.read(chain)
            vring.push(chain, 0)
            vring.advance()
            seen.append(data)
        except Miss as miss:
            misses.append(miss)
            memory.missing.remove(miss.iova & ~0xFFF)

    assert seen == [b"a", b"b", b"c", b"d"]
    assert [memory.used(4, index)[0] for index in range(4)] == [0, 1, 2, 3]
    assert {(miss.iova >> 12, miss.perm) for miss in misses} == {
        (page, Perm.W if page == 3 else Perm.R) for page in missing
    }


# -- what no driver may do -----------------------------------------------------


@pytest.mark.parametrize("ahead", [5, 6, 0x7FFF, 0xFFFF])
@pytest.mark.parametrize("base", [0, 0xFFFE])
def test_an_index_further_ahead_than_the_ring_has_descriptors_is_refused(ahead: int, base: int) -> None:
    memory = Memory()
    struct.pack_into("<H", memory.bytes, AVAIL + 2, (base + ahead) % 0x10000)

    with pytest.raises(RingBroken, match=f"index is {ahead} ahead"):
        Vring(a_ring(base=base), memory).pop()


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [
        ((DATA, 0, 0, 0), "no bytes"),
        ((DATA, 16, INDIRECT, 0), "not agreed upon"),
        ((2**64 - 1, 2, 0, 0), "wraps"),
        ((DATA, 1, NEXT, 0), "in a circle"),
        ((DATA, 1, NEXT, 4), "does not exist"),
        ((0, 0xFFFF_FFFF, NEXT, 1), "more than 4 GiB"),
    ],
)
def test_a_descriptor_that_cannot_be_is_refused(descriptor: tuple[int, int, int, int], reason: str) -> None:
    memory = Memory()
    memory.describe(0, *descriptor)
    memory.describe(1, 0, 2)
    memory.offer(4, 0, [0])
    vring = Vring(a_ring(), memory)

    for _ in range(2):  # and it stays so
        with pytest.raises(RingBroken, match=reason):
            vring.pop()


def test_a_chain_of_exactly_four_gibibytes_is_read_up_to_the_limit() -> None:
    class Endless(Memory):
        def read(self, iova: int, size: int) -> bytes:
            return super().read(iova, size) if iova < DATA else bytes(size)

    memory = Endless()
    memory.describe(0, DATA, 0xFFFF_FFFF, NEXT, 1)
    memory.describe(1, DATA, 1)
    memory.offer(4, 0, [0])
    vring = Vring(a_ring(), memory)
    chain = vring.pop()
    assert chain is not None

    assert sum(buffer.size for buffer in chain.readable) == CHAIN_LIMIT
    assert len(vring.read(chain)) == READ_LIMIT


@pytest.mark.parametrize("seed", range(20))
def test_whatever_stands_there_it_is_a_chain_or_broken(seed: int) -> None:
    """
    Random bytes, with indices and lengths near the edges more often than they would be.
    """
    random = Random(seed)  # noqa: S311 - rings, no secrets
    for _ in range(200):
        memory = Memory()
        memory.bytes[DESC : DESC + 64] = random.randbytes(64)
        for at in range(4):
            size = random.choice([0, 1, 4096, 2**32 - 1])
            memory.describe(at, random.choice([0, DATA, 2**64 - 1]), size, random.randrange(4), random.randrange(5))
        base = random.randrange(0x10000)
        memory.offer(4, base, [random.randrange(5) for _ in range(random.randrange(7))])
        vring = Vring(a_ring(base=base), memory)
        try:
            while (chain := vring.pop()) is not None:
                assert 1 <= len(chain.readable) + len(chain.writable) <= 4
                assert sum(each.size for each in (*chain.readable, *chain.writable)) <= CHAIN_LIMIT
        except RingBroken:
            pass
