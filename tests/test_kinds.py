"""The kinds of mappings in a table: few numbers, for what each allows and leads into."""

import pytest

from iommubus.caps import Perm
from iommubus.events import Memory
from iommubus.kinds import KINDS, PLAIN, Kinds

RAM = Memory("ram", 1, 0x1000)
ROM = Memory("rom", 1, 0x1000)


def test_permissions_without_a_memory_stand_for_themselves() -> None:
    kinds = Kinds()

    assert kinds.each == [(Perm(bits), None) for bits in range(4)]
    assert len(kinds.each) == PLAIN
    assert all(type(perm) is Perm for perm, _ in kinds.each)


def test_a_kind_has_one_attribute() -> None:
    """Equal ones share it, and others have others; a plain number means the permission."""
    kinds = Kinds()

    attrs = [kinds.attr(perm, memory) for memory in (RAM, ROM) for perm in (Perm.R, Perm.RW)]

    assert attrs == [4, 5, 6, 7]
    assert kinds.attr(1, Memory("ram", 1, 0x1000)) == 4
    assert kinds.attr(1, Memory("ram", 2, 0x1000)) == 8
    assert [kinds.each[attr] for attr in attrs] == [(Perm.R, RAM), (Perm.RW, RAM), (Perm.R, ROM), (Perm.RW, ROM)]


def test_the_attributes_of_a_memory_are_found() -> None:
    kinds = Kinds()
    for perm, memory in ((Perm.R, RAM), (Perm.R, ROM), (Perm.W, RAM)):
        kinds.attr(perm, memory)

    assert kinds.of(RAM) == [4, 6]
    assert kinds.of(Memory("ram", 2, 0x1000)) == []


def test_what_is_kept_gets_new_attributes() -> None:
    """What is not present is forgotten, plain ones never; the list that others refer to stays as it was."""
    kinds = Kinds()
    for perm, memory in ((Perm.R, RAM), (Perm.R, ROM), (Perm.W, RAM)):
        kinds.attr(perm, memory)
    before, old = kinds.each, list(kinds.each)

    assert kinds.keep({6, 3}) == {0: 0, 1: 1, 2: 2, 3: 3, 6: 4}

    assert before == old
    assert kinds.each == [*old[:4], (Perm.W, RAM)]
    assert kinds.of(RAM) == [4]
    assert kinds.of(ROM) == []
    assert kinds.attr(Perm.R, ROM) == 5


def fill(kinds: Kinds) -> int:
    """Add kinds until there should be no more, and return how many there are."""
    while not kinds.crowded:
        kinds.attr(Perm.R, Memory("ram", len(kinds.each), 1))
    return len(kinds.each)


@pytest.mark.parametrize(("limit", "kept", "next_time"), [(9, 0, 9), (9, 1, 10), (9, 2, 12), (KINDS, 0, KINDS)])
def test_it_is_crowded_at_its_limit_or_at_twice_what_was_kept(limit: int, kept: int, next_time: int) -> None:
    """So that looking through a table costs each kind that is added a constant."""
    kinds = Kinds(limit)
    assert fill(kinds) == limit

    kinds.keep(range(PLAIN, PLAIN + kept))

    assert fill(kinds) == next_time


def test_the_limit_is_what_was_said() -> None:
    """Without an argument a table keeps this many kinds before it looks."""
    assert fill(Kinds()) == KINDS == 1024
