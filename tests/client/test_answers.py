"""What answers what."""

from iommubus.client.answers import ANSWERS, ANY_ANSWER, answers_to, has_more
from iommubus.wire.messages import WORDS, Side
from iommubus.wire.messages.queries import ListSpaces, Spaces
from iommubus.wire.messages.replies import Done, Refused
from iommubus.wire.messages.spaces import Detach
from iommubus.wire.messages.syncing import Sync, Synced, SyncRefused


def test_a_request_is_answered_by_its_own_kind_or_done_and_any_may_be_refused() -> None:
    assert answers_to(Sync(1, 1, [])) == (Synced, SyncRefused, Refused)
    assert answers_to(Detach(1, "device")) == (Done, Refused)


def test_clients_ask_and_the_daemon_answers() -> None:
    assert set(ANSWERS) <= set(WORDS[Side.CLIENT])
    assert set(WORDS[Side.DAEMON]) >= ANY_ANSWER
    assert all("request" in kind.__struct_fields__ for kind in (*ANSWERS, *ANY_ANSWER))


def test_an_answer_may_have_several_parts() -> None:
    assert has_more(Spaces(1, [], more=True))
    assert not has_more(Spaces(1, []))
    assert not has_more(Done(1))
    assert ANSWERS[ListSpaces] == (Spaces,)
