"""Misses and what answers them, in every order in which that can come."""

import itertools
from collections.abc import Callable

import pytest

from iommubus.bridges.vhost_user_backend.misses import Misses
from iommubus.caps import Perm
from iommubus.events import Memory
from iommubus.mapping import Mapping

RAM = Memory("ram", 1, 0x10000)


def page(number: int, perm: Perm = Perm.RW) -> Mapping:
    return Mapping(number * 0x1000, number * 0x1000 + 0xFFF, 0, perm, RAM)


class Asked:
    """A miss that was asked, and what it was answered."""

    def __init__(self, misses: Misses, number: int, perm: Perm = Perm.R) -> None:
        self.answers: list[Mapping | None] = []
        self.question = misses.ask(number * 0x1000 + 0x10, perm, self.answers.append)


def test_an_update_answers_what_it_covers_and_allows() -> None:
    misses = Misses(replied=True)
    read, write, other = Asked(misses, 1), Asked(misses, 1, Perm.W), Asked(misses, 2)

    assert misses.update(page(1, Perm.R)) == 1
    assert misses.update(page(1, Perm.W)) == 1
    assert misses.update(page(1, Perm.RW)) == 0

    assert (read.answers, write.answers, other.answers) == ([page(1, Perm.R)], [page(1, Perm.W)], [])
    assert len(misses) == 3  # the front end has replied to none


@pytest.mark.parametrize(("iova", "covered"), [(0xFFF, False), (0x1000, True), (0x1FFF, True), (0x2000, False)])
def test_an_update_covers_its_last_byte_and_no_more(iova: int, covered: bool) -> None:
    misses = Misses(replied=True)
    answers: list[Mapping | None] = []
    misses.ask(iova, Perm.R, answers.append)

    misses.update(page(1))

    assert answers == ([page(1)] if covered else [])


def test_a_reply_is_judged_once_what_came_before_it_was_handled() -> None:
    """
    The UPDATE may still lie in the other socket when the reply is read.
    """
    misses = Misses(replied=True)
    first, second = Asked(misses, 1), Asked(misses, 2)
    assert misses.replied(100)
    assert misses.replied(100)

    assert misses.handled(99) == 0
    misses.update(page(1))
    assert misses.handled(100) == 1

    assert (first.answers, second.answers) == ([page(1)], [None])


def test_replies_belong_to_misses_in_their_order() -> None:
    misses = Misses(replied=True)
    first, second = Asked(misses, 1), Asked(misses, 2)
    misses.replied(0)
    misses.handled(0)

    assert (first.answers, second.answers, len(misses)) == ([None], [], 1)


def test_a_reply_without_a_miss_is_none() -> None:
    misses = Misses(replied=True)
    Asked(misses, 1)

    assert (misses.replied(0), misses.replied(0)) == (True, False)


def test_one_that_nobody_waits_for_keeps_its_place() -> None:
    """
    Its reply comes all the same, and is not another one's.
    """
    misses = Misses(replied=True)
    first, second = Asked(misses, 1), Asked(misses, 2)
    misses.abandon(first.question)

    misses.replied(0)
    misses.update(page(1))
    misses.handled(0)
    assert (first.answers, second.answers) == ([], [])
    misses.replied(0)
    misses.handled(0)
    assert second.answers == [None]


def test_without_replies_an_update_answers_and_nothing_else() -> None:
    misses = Misses(replied=False)
    first, second = Asked(misses, 1), Asked(misses, 2)

    misses.handled(1 << 40)
    misses.update(page(1))
    misses.abandon(second.question)

    assert (first.answers, second.answers, len(misses)) == ([page(1)], [], 0)


def test_when_the_front_end_is_gone_all_are_answered() -> None:
    misses = Misses(replied=True)
    asked = [Asked(misses, number) for number in range(3)]
    misses.update(page(1))
    misses.close()

    assert [each.answers for each in asked] == [[None], [page(1)], [None]]
    assert len(misses) == 0


STEPS: dict[str, Callable[[Misses, list[Asked]], object]] = {
    "ask": lambda misses, asked: asked.append(Asked(misses, len(asked))),
    "update": lambda misses, asked: misses.update(page(len(asked) - 1)),
    "reply": lambda misses, _: misses.replied(0),
    "handled": lambda misses, _: misses.handled(0),
    "abandon": lambda misses, asked: misses.abandon(asked[0].question) if asked else None,
}


def test_in_every_history_each_is_answered_at_most_once_and_at_its_reply_at_the_latest() -> None:
    """
    All 19,531 histories of up to six steps.
    """
    for count in range(7):
        for script in itertools.product(STEPS, repeat=count):
            misses, asked, replies = Misses(replied=True), list[Asked](), 0
            for step in script:
                replies += step == "reply" and replies < len(asked)
                STEPS[step](misses, asked)
            misses.handled(0)
            for number, each in enumerate(asked):
                given_up = number == 0 and "abandon" in script[script.index("ask") :]
                assert len(each.answers) <= 1, script
                assert each.answers or number >= replies or given_up, script
            assert len(misses) == len(asked) - replies, script
