"""Messages are counted by their kind and direction."""

from iommubus.abi.vhost_user import Channel, decode
from iommubus.bridges.vhost_user_tap.counting import Counts
from tests.vhost_user_talk import invalidate, miss, ram_table, reply, update


def test_each_kind_is_counted_for_itself() -> None:
    counts = Counts()
    for said in (ram_table(), update(0), update(0), invalidate(0)):
        counts.add(decode(said.data), to_back=True)
    for data in (reply(5), reply(22), reply(22, 1)):
        counts.add(decode(data), to_back=False)
    counts.add(decode(miss(0).data, Channel.BACK_END), to_back=False)
    counts.add(decode(reply(1), Channel.BACK_END), to_back=True)

    found = counts.statistics()
    assert (found.updates, found.invalidates, found.misses, found.acks, found.refused) == (2, 1, 1, 2, 1)
    assert dict(found.requests) == {"SET_MEM_TABLE": 1, "IOTLB_MSG": 3}
    assert dict(found.replies) == {"SET_MEM_TABLE": 1, "IOTLB_MSG": 2}
    assert dict(found.back_end_requests) == {"IOTLB_MSG": 1}
    assert dict(found.back_end_replies) == {"IOTLB_MSG": 1}
