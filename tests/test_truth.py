"""The judge of seeds: what it finds, and what it does not mind."""

from collections.abc import Callable

import pytest

from iommubus import Mapping, Perm
from tests.truth import PAGE, Held, Truth, by_page


def held(page: int, target: int, count: int = 1, endpoint: str = "space", asked: int | None = None) -> Held:
    first = page * PAGE
    return Held(endpoint, Mapping(first, first + count * PAGE - 1, target, Perm.RW), asked)


def problems(truth: Truth, one: Held, since: int) -> list[str]:
    return list(truth.wrong(one, since))


@pytest.fixture
def truth() -> Truth:
    made = Truth()
    made.create("space")
    made.create("other")
    return made


ENDS: dict[str, Callable[[Truth], object]] = {
    "unmapped": lambda truth: truth.unmap("space", 2, 1),
    "all unmapped": lambda truth: truth.unmap_all("space"),
    "taken over": lambda truth: truth.create("space"),
    "moved": lambda truth: truth.attach("space", "other"),
    "detached": lambda truth: truth.attach("space", None),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_ended_before_the_call_must_not_be_in_use(truth: Truth, end: Callable[[Truth], object]) -> None:
    one = held(1, truth.map("space", 1, 3), 3)
    before = truth.now()
    end(truth)
    after = truth.now()

    assert problems(truth, one, before) == []
    assert problems(truth, one, after)
    assert list(truth.wrong(one, after, frozenset({"other"}))) == []


def test_the_rest_of_what_was_cut_stays(truth: Truth) -> None:
    target = truth.map("space", 1, 3)
    truth.unmap("space", 2, 1)

    assert problems(truth, held(3, target + 2 * PAGE), truth.now()) == []
    assert truth.pages("space") == {1: target, 3: target + 2 * PAGE}


def test_what_was_mapped_again_is_another_one(truth: Truth) -> None:
    old = truth.map("space", 1, 1)
    truth.unmap("space", 1, 1)
    new = truth.map("space", 1, 1)
    since = truth.now()

    assert problems(truth, held(1, new), since) == []
    assert problems(truth, held(1, old), since)


def test_a_space_that_was_closed_is_not_the_next_one(truth: Truth) -> None:
    one = held(1, truth.map("space", 1, 1))
    truth.unmap_all("space")
    since = truth.now()

    assert problems(truth, one, since)
    truth.create("space", another=True)
    assert problems(truth, one, truth.now()) == []


def test_what_never_was_is_wrong_at_any_time(truth: Truth) -> None:
    target = truth.map("space", 1, 2)

    assert problems(truth, held(1, 0), 0)
    assert problems(truth, held(1, target + 2 * PAGE), 0)
    assert problems(truth, held(2, target), 0)


def test_an_endpoint_that_came_back_is_there(truth: Truth) -> None:
    one = held(1, truth.map("space", 1, 1))
    truth.attach("space", "other")
    truth.attach("space", "space")

    assert problems(truth, one, truth.now()) == []
    assert truth.space_of("space") == "space"


def test_a_device_tlb_is_ended_by_its_invalidation_alone(truth: Truth) -> None:
    target = truth.map("space", 1, 1)
    one = held(1, target, asked=truth.now())
    truth.unmap("space", 1, 1)
    before = truth.now()
    truth.invalidate("space", 0, 4)

    assert problems(truth, one, before) == []
    assert problems(truth, one, truth.now())
    assert problems(truth, held(1, target, asked=truth.now()), truth.now()) == []


def test_pieces_are_compared_page_by_page(truth: Truth) -> None:
    target = truth.map("space", 1, 3)

    assert by_page(iter([held(1, target).mapping, held(2, target + PAGE, 2).mapping])) == truth.pages("space")
    assert truth.is_free("space", 4, 2)
    assert not truth.is_free("space", 3, 2)
    assert truth.pages(None) == {}
