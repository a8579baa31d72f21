"""Answers leave in the order of the questions."""

from itertools import permutations

import pytest

from iommubus.bridging.replies import Replies


@pytest.mark.parametrize("order", [*permutations(range(4))])
def test_answers_leave_in_the_order_of_the_questions(order: tuple[int, ...]) -> None:
    sent: list[bytes] = []
    replies = Replies(sent.append)
    places = [replies.reserve() for _ in order]

    for count, place in enumerate(order, 1):
        places[place].give(b"%d" % place)

        given = {*order[:count]}
        ready = next((place for place in range(len(order)) if place not in given), len(order))
        assert sent == [b"%d" % place for place in range(ready)]
        assert len(replies) == len(order) - ready


def test_an_answer_is_given_once() -> None:
    reply = Replies(bytes).reserve()
    reply.give(b"ok")

    with pytest.raises(ValueError, match="given already"):
        reply.give(b"ok")
