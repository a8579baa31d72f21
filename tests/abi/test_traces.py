"""Every message of the recordings of real guests decodes, and encodes again to the same bytes."""

import lzma
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from iommubus.abi import vfio_user, vhost, vhost_user
from iommubus.abi.vhost_user import Channel, IotlbMsg, IotlbType, Message
from iommubus.caps import Perm
from iommubus.errors import BadLength

DATA: Final = Path(__file__).parent / "data"
VHOST_USER: Final = ("intel-strict-61", "virtio-iommu-612-qtrace")
VFIO_USER: Final = "vfuser-intel-61"
CHANNELS: Final = {"main": Channel.FRONT_END, "backend": Channel.BACK_END}

CUT: Final = 80
"""Bytes that the recorder kept of a longer vfio-user message: the header and 64."""

CHUNK: Final = 1009
"""Bytes that the streams are fed at once: a prime, so that cuts fall everywhere."""


class Line(NamedTuple):
    """One recorded message: its socket and direction, how many descriptors came, its bytes, the recorder's view."""

    stream: tuple[str, str]
    descriptors: int
    data: bytes
    note: dict[str, Any]


@cache
def lines(name: str) -> list[Line]:
    """Return a recording's messages in order."""
    return list(_lines(name))


def _lines(name: str) -> Iterator[Line]:
    with lzma.open(DATA / f"{name}.jsonl.xz", "rt", encoding="ascii") as file:
        for line in file:
            entry = msgspec.json.decode(line)
            stream = (entry.get("chan", "main"), entry["dir"])
            yield Line(stream, int(entry["fds"]), bytes.fromhex(entry["hex"]), entry.get("note") or {})


def agrees(message: Message, note: dict[str, Any]) -> bool:
    """Say whether a message has what the recorder read into it."""
    if "op" not in note:
        return bool(message.flags & vhost_user.Flags.REPLY)
    iotlb = message.body
    if not isinstance(iotlb, IotlbMsg):
        return message.name == str(note["op"]).replace("SLAVE", "BACKEND")
    seen = {"op": iotlb.type.name, "iova": iotlb.iova, "size": iotlb.size, "uaddr": iotlb.uaddr, "perm": iotlb.perm}
    return all(seen[key] == value for key, value in note.items())


@pytest.mark.parametrize(
    ("name", "iotlb", "misses"),
    [
        (VHOST_USER[0], Counter(UPDATE=11101, INVALIDATE=11137), 11099),
        (VHOST_USER[1], Counter(UPDATE=9614, INVALIDATE=8756), 9612),
    ],
)
def test_a_vhost_user_recording_comes_out_as_it_went_in(name: str, iotlb: Counter[str], misses: int) -> None:
    """No message is opaque, each agrees with the recorder and came with its descriptors, and the counts are known."""
    counts: Counter[str] = Counter()
    streams: dict[tuple[str, str], bytearray] = {}
    messages: dict[tuple[str, str], list[bytes]] = {}
    for line in lines(name):
        message = vhost_user.decode(line.data, CHANNELS[line.stream[0]])
        assert vhost_user.encode(message) == line.data
        assert not isinstance(message.body, vhost_user.Opaque)
        assert agrees(message, line.note), line
        vhost_user.check_descriptors(message, line.descriptors)
        streams.setdefault(line.stream, bytearray()).extend(line.data)
        messages.setdefault(line.stream, []).append(line.data)
        if isinstance(message.body, IotlbMsg):
            counts[message.body.type.name] += 1
    assert counts == iotlb + Counter(MISS=misses)
    for stream, data in streams.items():
        splitter, split = vhost_user.splitter(), list[bytes]()
        for at in range(0, len(data), CHUNK):
            splitter.feed(data[at : at + CHUNK])
            split.extend(iter(splitter.next_message, None))
        assert split == messages[stream]


def test_a_cache_filled_from_a_recording_answers_what_the_guest_mapped() -> None:
    """Every recorded MISS is followed by an UPDATE that has its address and permission."""
    asked: list[IotlbMsg] = []
    for line in lines(VHOST_USER[1]):
        body = vhost_user.decode(line.data, CHANNELS[line.stream[0]]).body
        if not isinstance(body, IotlbMsg):
            continue
        if body.type is IotlbType.MISS:
            asked.append(body)
        elif body.type is IotlbType.UPDATE:
            where, perm = vhost.range_of(body), vhost.perm_of(body)
            asked = [
                miss
                for miss in asked
                if not (where.first <= miss.iova <= where.last and vhost.perm_of(miss) & perm == vhost.perm_of(miss))
            ]

    assert asked == []


def test_the_vfio_user_recording_comes_out_as_it_went_in() -> None:
    """All but the three messages that the recorder cut, and those are refused as cut."""
    counts: Counter[str] = Counter()
    cut: list[str] = []
    streams: dict[tuple[str, str], tuple[bytearray, list[bytes]]] = {}
    for line in lines(VFIO_USER):
        header = vfio_user.HEADER.decode(line.data[: vfio_user.HEADER.size])
        if header.msg_size > CUT:
            with pytest.raises(BadLength, match=f"has {header.msg_size} bytes, got {CUT}"):
                vfio_user.decode(line.data)
            cut.append(line.note["cmd"])
            continue
        message = vfio_user.decode(line.data)
        assert vfio_user.encode(message) == line.data
        vfio_user.check_descriptors(message, line.descriptors)
        stream, messages = streams.setdefault(line.stream, (bytearray(), []))
        stream += line.data
        messages.append(line.data)
        counts[type(message.body).__name__] += 1
        if isinstance(message.body, vfio_user.DmaMap | vfio_user.DmaUnmap) and line.stream[1] == "c2s":
            where = vfio_user.range_of(message.body)
            assert (where.first, where.size) == (line.note["iova"], line.note["size"])

    assert sorted(cut) == ["REGION_READ", "VERSION", "VERSION"]
    assert counts == Counter(DmaMap=7418, DmaUnmap=7554 + 7412, Empty=7418 + 142, Opaque=counts["Opaque"])
    for data, messages in streams.values():
        splitter, split = vfio_user.splitter(), list[bytes]()
        for at in range(0, len(data), CHUNK):
            splitter.feed(data[at : at + CHUNK])
            split.extend(iter(splitter.next_message, None))
        assert split == messages


def test_the_recorded_server_refused_only_what_was_never_mapped() -> None:
    """Each of the 142 errors is ENOENT, for an UNMAP of what no MAP had given: the server is exact."""
    held: dict[int, int] = {}
    pending: dict[int, vfio_user.Body] = {}
    refused = 0
    for line in lines(VFIO_USER):
        if len(line.data) != vfio_user.HEADER.decode(line.data[: vfio_user.HEADER.size]).msg_size:
            continue
        message = vfio_user.decode(line.data)
        if line.stream[1] == "c2s":
            pending[message.msg_id] = message.body
            continue
        body = pending.pop(message.msg_id)
        if message.flags & vfio_user.Flags.ERROR:
            assert isinstance(body, vfio_user.DmaUnmap)
            assert (message.error, held.get(body.address)) == (2, None)
            refused += 1
        elif isinstance(body, vfio_user.DmaMap):
            assert vfio_user.perm_of(body) in {Perm.R, Perm.W, Perm.RW}
            held[body.address] = body.size
        elif isinstance(body, vfio_user.DmaUnmap):
            assert message.body == body
            assert held.pop(body.address) == body.size

    assert refused == 142
