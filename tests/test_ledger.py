"""What was removed is remembered, with its targets, until everybody has let go of it."""

from collections.abc import Iterator, Sequence
from typing import Final, overload

import pytest

from iommubus.caps import Perm
from iommubus.ledger import PIECE_LIMIT, RANGE_LIMIT, TRIM_EVERY, Ledger, OldPieces
from iommubus.mapping import Mapping
from iommubus.ranges import LAST

EVERYWHERE: Final = ((0, LAST),)


def piece(first: int, last: int, target: int = 0x8000) -> Mapping:
    """Return a removed mapping."""
    return Mapping(first, last, target, Perm.RW)


class Watched(Sequence[Mapping]):
    """Pieces that count how often one of them is looked at."""

    def __init__(self, *pieces: Mapping) -> None:
        self.pieces = pieces
        self.looks = 0

    def __len__(self) -> int:
        return len(self.pieces)

    @overload
    def __getitem__(self, index: int) -> Mapping: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping]: ...
    def __getitem__(self, index: int | slice) -> Mapping | Sequence[Mapping]:
        self.looks += 1
        return self.pieces[index]

    def __iter__(self) -> Iterator[Mapping]:
        for at in range(len(self)):
            yield self[at]


# -- remembering and forgetting ----------------------------------------------


def test_pieces_come_back_as_they_went() -> None:
    """Old translations are given oldest first, those of one UNMAP in order, with targets and permissions."""
    ledger = Ledger()
    first = [piece(0x1000, 0x1FFF, 0xA000), piece(0x3000, 0x3FFF, 0xB000)]
    second = [piece(0, LAST, 0)]

    ledger.fresh.append((4, first))
    ledger.fresh.append((7, second))

    assert len(ledger) == 3
    assert list(ledger.since(0, EVERYWHERE)) == first + second
    assert not ledger.since(0, EVERYWHERE).truncated
    assert ledger.since(0, EVERYWHERE).ranges == []


@pytest.mark.parametrize(("seq", "count"), [(0, 3), (3, 3), (4, 2), (6, 2), (7, 1), (8, 1), (9, 0), (10, 0)])
def test_since_a_number_means_after_it(seq: int, count: int) -> None:
    """Who has let go of all up to a number is not charged with that number, and is with the next."""
    ledger = Ledger()
    pieces = [piece(at * 16, at * 16 + 15) for at in range(3)]
    for number, removed in zip((4, 7, 9), pieces, strict=True):
        ledger.fresh.append((number, [removed]))

    old = ledger.since(seq, EVERYWHERE)

    assert list(old) == pieces[3 - count :]
    assert bool(old) is (count > 0)


@pytest.mark.parametrize("taken_in", [False, True])
@pytest.mark.parametrize(("seq", "left"), [(0, 4), (3, 4), (4, 2), (6, 2), (7, 1), (8, 1), (9, 0), (10, 0)])
def test_trimming_forgets_up_to_a_number(seq: int, left: int, taken_in: bool) -> None:
    """What everybody has let go of is forgotten, that number included, whether it is fresh or was kept before."""
    ledger = Ledger()
    pieces = [piece(at * 16, at * 16 + 15) for at in range(4)]
    ledger.fresh.append((4, pieces[:2]))
    ledger.fresh.append((7, pieces[2:3]))
    if taken_in:
        ledger.trim(0)
    ledger.fresh.append((9, pieces[3:]))

    ledger.trim(seq)

    assert ledger.fresh == []
    assert len(ledger) == left
    assert list(ledger.since(0, EVERYWHERE)) == pieces[4 - left :]
    ledger.trim(0)
    assert len(ledger) == left


def test_what_was_given_out_stays() -> None:
    """The answer to one question does not change when the ledger is trimmed or added to."""
    ledger = Ledger()
    ledger.fresh.append((1, [piece(0, 9)]))
    ledger.add_range(2, 20, 29)
    old = ledger.since(0, EVERYWHERE)

    ledger.trim(2)
    ledger.fresh.append((3, [piece(40, 49)]))
    ledger.add_range(3, 60, 69)

    assert list(old) == [piece(0, 9)]
    assert list(old.ranges) == [(20, 29)]


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_up_to_its_limit_a_ledger_knows_the_targets(limit: int) -> None:
    """As many pieces as the limit keep their targets; of one more, the oldest is known by its range only."""
    ledger = Ledger(limit)
    pieces = [piece(at * 16, at * 16 + 9) for at in range(limit + 1)]

    ledger.fresh += [(seq, [removed]) for seq, removed in enumerate(pieces[:limit], 1)]
    ledger.trim(0)
    assert len(ledger) == limit
    assert not ledger.since(0, EVERYWHERE).truncated
    ledger.fresh.append((limit + 1, pieces[limit:]))
    assert len(ledger) == limit + 1
    assert not ledger.since(0, EVERYWHERE).truncated
    ledger.trim(0)

    old = ledger.since(0, EVERYWHERE)
    assert len(ledger) == limit
    assert list(old) == pieces[1:]
    assert list(old.ranges) == [(0, 9)]
    assert old.truncated
    assert old


def test_the_pieces_of_an_unmap_that_do_not_fit_become_one_range() -> None:
    """All pieces of one UNMAP keep their targets, or none; as a range they are one, however many there were."""
    ledger = Ledger(3)
    ledger.fresh.append((1, [piece(32, 39), piece(40, 49), piece(51, 59)]))
    ledger.fresh.append((2, [piece(0, 9), piece(10, 19)]))

    ledger.trim(0)

    assert len(ledger) == 2
    assert list(ledger.since(0, EVERYWHERE)) == [piece(0, 9), piece(10, 19)]
    assert list(ledger.since(0, EVERYWHERE).ranges) == [(32, 59)]
    assert list(ledger.since(1, EVERYWHERE).ranges) == []


def test_one_unmap_larger_than_the_limit_keeps_no_target() -> None:
    """Memory is bounded, whatever a single UNMAP removes."""
    ledger = Ledger(3)
    ledger.fresh.append((1, [piece(at * 16, at * 16 + 9) for at in range(4)]))

    ledger.trim(0)

    assert len(ledger) == 0
    assert list(ledger.since(0, EVERYWHERE)) == []
    assert list(ledger.since(0, EVERYWHERE).ranges) == [(0, 57)]


def test_room_comes_back_by_trimming() -> None:
    """What was let go of takes no room: it is forgotten before the limit is looked at."""
    ledger = Ledger(2)
    ledger.fresh.append((1, [piece(0, 9), piece(10, 19)]))
    ledger.trim(0)
    ledger.fresh.append((2, [piece(20, 29), piece(30, 39)]))

    ledger.trim(1)

    assert list(ledger.since(0, EVERYWHERE)) == [piece(20, 29), piece(30, 39)]
    assert not ledger.since(0, EVERYWHERE).truncated


@pytest.mark.parametrize("order", [(5, 6), (6, 5)])
@pytest.mark.parametrize(("seq", "known"), [(0, True), (4, True), (5, True), (6, False), (7, False)])
def test_merged_ranges_are_kept_until_the_last_is_let_go_of(order: tuple[int, int], seq: int, known: bool) -> None:
    """Nobody knows which is whose, so all count as the latest: too much is kept out of use, never too little."""
    asked, trimmed = Ledger(), Ledger()
    for ledger in (asked, trimmed):
        ledger.add_range(order[0], 0, 9)
        ledger.add_range(order[1], 32, 39)

    trimmed.trim(seq)

    for old in (asked.since(seq, EVERYWHERE), trimmed.since(0, EVERYWHERE)):
        assert list(old.ranges) == ([(0, 9), (32, 39)] if known else [])
        assert old.truncated is known
        assert bool(old) is known


def test_a_range_without_pieces_is_remembered_as_a_range() -> None:
    """Of a pull space, or a device's TLB, nothing but the range is known; this is said, and no piece is counted."""
    ledger = Ledger()

    ledger.add_range(1, 0, LAST)

    assert len(ledger) == 0
    assert list(ledger.since(0, EVERYWHERE).ranges) == [(0, LAST)]
    assert ledger.since(0, EVERYWHERE).truncated


def test_ranges_are_bounded_too() -> None:
    """Past the limit of ranges half as many are left: they cover all that was removed, and a little more."""
    ledger = Ledger()
    for at in range(RANGE_LIMIT):
        ledger.add_range(1, at * 16, at * 16 + (11 if at % 2 else 9))
    assert len(ledger.since(0, EVERYWHERE).ranges) == RANGE_LIMIT

    ledger.add_range(1, LAST, LAST)

    ranges = ledger.since(0, EVERYWHERE).ranges
    assert len(ranges) == RANGE_LIMIT // 2
    assert ranges[0][0] == 0
    assert ranges[-1] == (LAST, LAST)
    assert sum(last - first + 1 for first, last in ranges) >= 11 * RANGE_LIMIT


def test_the_limits_are_what_they_are_said_to_be() -> None:
    """65,536 pieces, 4,096 ranges, and a look at who has let go after each 1,024 removals."""
    ledger = Ledger()
    ledger.fresh.append((1, [piece(7, 7)]))
    ledger.fresh.append((2, Watched(*[piece(0, 0)] * 65_536)))

    ledger.trim(0)

    assert len(ledger) == 65_536
    assert list(ledger.since(0, EVERYWHERE).ranges) == [(7, 7)]
    assert (PIECE_LIMIT, RANGE_LIMIT, TRIM_EVERY) == (65_536, 4096, 256)


# -- the part that concerns a subscriber -------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(0, LAST)], [(10, 19, 100), (30, 39, 300)]),
        ([(10, 39)], [(10, 19, 100), (30, 39, 300)]),
        ([(11, 38)], [(11, 19, 101), (30, 38, 300)]),
        ([(0, 9)], []),
        ([(0, 10)], [(10, 10, 100)]),
        ([(20, 29)], []),
        ([(19, 30)], [(19, 19, 109), (30, 30, 300)]),
        ([(40, LAST)], []),
        ([(39, LAST)], [(39, 39, 309)]),
        ([(12, 13), (15, 16), (39, 39)], [(12, 13, 102), (15, 16, 105), (39, 39, 309)]),
        ([], []),
    ],
)
def test_a_subscriber_is_told_of_its_own_ranges(
    parts: list[tuple[int, int]], expected: list[tuple[int, int, int]]
) -> None:
    """Pieces, and ranges, are cut to the parts asked for, to the byte; the targets move along."""
    known, merged = Ledger(), Ledger(0)
    for ledger in (known, merged):
        ledger.fresh += [(1, [piece(10, 19, 100)]), (2, [piece(30, 39, 300)])]
    merged.trim(0)

    pieces, ranges = known.since(0, parts), merged.since(0, parts)

    assert list(pieces) == [piece(*fields) for fields in expected]
    assert list(ranges.ranges) == [(first, last) for first, last, _ in expected]
    assert list(ranges) == []
    assert bool(pieces) is bool(ranges) is bool(expected)
    assert not pieces.truncated
    assert ranges.truncated is bool(expected)


def test_one_byte_at_either_end_of_the_space() -> None:
    """The first and the last byte of the space are clipped like any other."""
    ledger = Ledger(1)
    ledger.fresh.append((1, [piece(0, LAST, 0)]))
    ledger.add_range(2, 0, LAST)

    old = ledger.since(0, [(0, 0), (LAST, LAST)])

    assert list(old) == [piece(0, 0, 0), piece(LAST, LAST, LAST)]
    assert list(old.ranges) == [(0, 0), (LAST, LAST)]


# -- laziness ----------------------------------------------------------------


def test_nothing_is_made_before_it_is_looked_at() -> None:
    """Remembering and asking touch no piece; a look at the first one makes only that one; a second look is complete."""
    pieces = Watched(*(piece(at * 16, at * 16 + 9) for at in range(100)))
    ledger = Ledger()

    ledger.fresh.append((1, pieces))
    old = ledger.since(0, EVERYWHERE)
    assert pieces.looks == 0

    assert next(iter(old)) == pieces.pieces[0]
    assert bool(old)
    assert pieces.looks == 2
    assert list(old) == list(old) == list(pieces.pieces)


def test_old_pieces_are_printed_for_people() -> None:
    """How many pieces there are, and whether there are others of which no target is known."""
    assert repr(OldPieces([], EVERYWHERE, [])) == "<up to 0 old pieces>"
    assert repr(OldPieces([[piece(0, 9)], [piece(20, 29)]], EVERYWHERE, [])) == "<up to 2 old pieces>"
    assert repr(OldPieces([[piece(0, 9)]], EVERYWHERE, [(0, 1), (5, 6)])) == (
        "<up to 1 old pieces, and unknown ones in 2 ranges>"
    )


def test_an_empty_ledger_owes_nothing() -> None:
    """Before anything was removed there is nothing to keep out of use, to trim or to count."""
    ledger = Ledger()

    ledger.trim(10)

    assert len(ledger) == 0
    assert not ledger.since(0, EVERYWHERE)
    assert not Ledger().since(-1, EVERYWHERE).truncated


def test_ranges_can_be_set_beside_the_pieces() -> None:
    """The pieces stay what they are, and the answer is truncated as soon as one target is unknown."""
    old = OldPieces([[piece(0, 9)]], EVERYWHERE, [])

    assert list(old.beside([])) == [piece(0, 9)]
    assert not old.beside([]).truncated
    assert list(old.beside([(20, 29)]).ranges) == [(20, 29)]
    assert list(old.beside([(20, 29)]).beside([(40, 49)]).ranges) == [(20, 29), (40, 49)]
