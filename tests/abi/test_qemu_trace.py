"""QEMU's trace log, held against hand-written lines, noise and two recordings."""

import lzma
import time
from collections import Counter
from importlib.resources import files
from typing import Final

import pytest
from hypothesis import example, given, strategies as st

from iommubus.abi.qemu_trace import (
    DAMAGE_KEPT,
    EXCERPT_LIMIT,
    FAMILIES,
    LINE_LIMIT,
    Attach,
    Detach,
    Entry,
    Family,
    Lookup,
    Mapped,
    Record,
    Tally,
    Trace,
    Unmapped,
    UnmappedAll,
    families,
    parse,
)
from iommubus.caps import Perm
from iommubus.errors import TraceError
from iommubus.ranges import LAST

VIRTIO: Final = "virtio-iommu-612-qtrace.qemu.log.xz"
VTD: Final = "vfuser-intel-61.qemu.log.xz"
PAGE: Final = 4096

HEADS: Final[list[tuple[str, float | None]]] = [
    ("24060@1795345099.831755:", 1795345099.831755),
    ("1@0.000001:", 0.000001),
    ("2026-11-22T11:22:39.729615Z ", 1795346559.729615),
    ("2026-11-22T11:22:39Z ", 1795346559.0),
    ("2028-02-29T23:59:59.5Z ", 1835481599.5),
    ("1970-01-01T00:00:00Z ", 0.0),
    ("9999-12-31T23:59:59.999999999Z ", 253402300800.0),
    ("", None),
]

D0: Final = "virtio-iommu/domain-0"
MR: Final = "virtio-iommu-memory-region-2-16"

LINES: Final[list[tuple[Family, str, Record]]] = [
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_attach domain=0 endpoint=16",
        Attach(D0, "virtio-iommu/endpoint-16"),
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_detach domain=7 endpoint=8",
        Detach("virtio-iommu/domain-7", "virtio-iommu/endpoint-8"),
    ),
    (  # QEMU prints a u32 with %d, so its upper half comes out negative
        Family.VIRTIO_IOMMU,
        "virtio_iommu_attach domain=-1 endpoint=-2147483648",
        Attach("virtio-iommu/domain-4294967295", "virtio-iommu/endpoint-2147483648"),
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_attach domain=4294967295 endpoint=2147483648",
        Attach("virtio-iommu/domain-4294967295", "virtio-iommu/endpoint-2147483648"),
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0xffffe000 virt_end=0xffffffff phys_start=0x2436000 flags=3",
        Mapped(D0, 0xFFFFE000, 0xFFFFFFFF, 0x2436000, Perm.RW),
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0x0 virt_end=0xffffffffffffffff phys_start=0x0 flags=1",
        Mapped(D0, 0, LAST, 0, Perm.R),
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0x1000 virt_end=0x1fff phys_start=0xfffffffffffff000 flags=2",
        Mapped(D0, 0x1000, 0x1FFF, 0xFFFF_FFFF_FFFF_F000, Perm.W),
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0x8 virt_end=0x8 phys_start=0xfee00000 flags=6",
        Mapped(D0, 8, 8, 0xFEE00000, Perm.W, mmio=True),
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_unmap_done domain=0 virt_start=0xffe54000 virt_end=0xffe54fff",
        Unmapped(D0, 0xFFE54000, 0xFFE54FFF),
    ),
    (Family.VIRTIO_IOMMU, "virtio_iommu_put_domain Free domain=3", UnmappedAll("virtio-iommu/domain-3")),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_translate_out 0xfffff240 -> 0x2437240 for sid=16",
        Lookup("virtio-iommu/endpoint-16", 0xFFFFF240, 0x2437240),
    ),
    (
        Family.VIRTIO_IOMMU_NOTIFY,
        f"virtio_iommu_notify_map mr={MR} virt_start=0x1000 virt_end=0x2fff phys_start=0x5000 flags=3",
        Mapped(MR, 0x1000, 0x2FFF, 0x5000, Perm.RW),
    ),
    (
        Family.VIRTIO_IOMMU_NOTIFY,
        f"virtio_iommu_notify_unmap mr={MR} virt_start=0x1000 virt_end=0x2fff",
        Unmapped(MR, 0x1000, 0x2FFF),
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x3 iova 0x0 -> gpa 0x476a000 mask 0xfff perm 3",
        Mapped("vtd/domain-3", 0, 0xFFF, 0x476A000, Perm.RW),
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0xffff iova 0xffffffffffe00000 -> gpa 0xffffffffffe00000 mask 0x1fffff perm 1",
        Mapped("vtd/domain-65535", 0xFFFF_FFFF_FFE0_0000, LAST, 0xFFFF_FFFF_FFE0_0000, Perm.R),
    ),
    (  # the target of an UNMAP is whatever stood in the entry
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x3 iova 0x1000 -> gpa 0xffffffffffffffff mask 0xfff perm 0",
        Unmapped("vtd/domain-3", 0x1000, 0x1FFF),
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x0 iova 0x0 -> gpa 0x0 mask 0xffffffffffffffff perm 2",
        Mapped("vtd/domain-0", 0, LAST, 0, Perm.W),
    ),
    (
        Family.VTD_INVAL,
        "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x3 addr 0xfffff000 mask 0x0",
        Unmapped("vtd/domain-3", 0xFFFFF000, 0xFFFFFFFF),
    ),
    (  # an address inside its block: the block is what goes
        Family.VTD_INVAL,
        "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x3 addr 0x7000 mask 0x2",
        Unmapped("vtd/domain-3", 0x4000, 0x7FFF),
    ),
    (
        Family.VTD_INVAL,
        "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x3 addr 0xfffffffffffff000 mask 0x12",
        Unmapped("vtd/domain-3", 0xFFFF_FFFF_C000_0000, LAST),
    ),
    (
        Family.VTD_INVAL,
        "vtd_inv_desc_iotlb_domain iotlb invalidate whole domain 0x10",
        UnmappedAll("vtd/domain-16"),
    ),
    (Family.VTD_INVAL, "vtd_inv_desc_iotlb_global iotlb invalidate global", UnmappedAll(None)),
]

QUIET: Final[list[tuple[Family, str]]] = [
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0x1000 virt_end=0x1fff phys_start=0x0 flags=0",
    ),
    (
        Family.VIRTIO_IOMMU_NOTIFY,
        "virtio_iommu_notify_map mr=x virt_start=0x1000 virt_end=0x1fff phys_start=0x0 flags=4",
    ),
    (Family.VTD_INVAL, "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x3 addr 0x0 mask 0x13"),
    (Family.VTD_INVAL, "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x3 addr 0x0 mask 0x3f"),
]

NO_HEAD: Final = "the line has no known head"
NO_TEXT: Final = "the line is no UTF-8 text"
NOT_ITS_FIELDS: Final = "the fields are not those of this event"
TOO_GREAT: Final = "a number is greater than 0xffffffffffffffff"
TOO_LONG: Final = "the line is longer than 65536 characters"

DAMAGE: Final[list[tuple[Family, bytes | str, str]]] = [
    (Family.VIRTIO_IOMMU, "hello world", NO_HEAD),
    (Family.VIRTIO_IOMMU, "1@2.5:9lives", NO_HEAD),
    (Family.VIRTIO_IOMMU, "qemu-system-x86_64: warning: no such device", NO_HEAD),
    (Family.VIRTIO_IOMMU, "@1.5:virtio_iommu_map", NO_HEAD),
    (Family.VIRTIO_IOMMU, "1@2:virtio_iommu_map", NO_HEAD),
    (Family.VIRTIO_IOMMU, "1@2.5: virtio_iommu_map", NO_HEAD),
    (Family.VIRTIO_IOMMU, "1@9999999999999.5:virtio_iommu_map", NO_HEAD),
    (Family.VIRTIO_IOMMU, "1@\u0662.5:virtio_iommu_map", NO_HEAD),
    (Family.VIRTIO_IOMMU, "2026-11-22 11:22:39Z virtio_iommu_map", NO_HEAD),
    (Family.VIRTIO_IOMMU, "2026-11-22T11:22:39 virtio_iommu_map", NO_HEAD),
    (Family.VIRTIO_IOMMU, "1@2.5:a_b c\n1@2.5:a_b c", NO_HEAD),
    (Family.VIRTIO_IOMMU, "\0\0\0\0", NO_HEAD),
    (Family.VIRTIO_IOMMU, "0000-01-01T00:00:00Z a_b", NO_HEAD),
    (Family.VIRTIO_IOMMU, "2026-13-22T11:22:39Z a_b", NO_HEAD),
    (Family.VIRTIO_IOMMU, "2026-11-22T24:00:00Z a_b", NO_HEAD),
    (Family.VIRTIO_IOMMU, "2026-11-22T23:60:00Z a_b", NO_HEAD),
    (Family.VIRTIO_IOMMU, "2026-11-22T23:59:60Z a_b", NO_HEAD),
    (Family.VIRTIO_IOMMU, "2026-11-00T11:22:39Z a_b", "2026-11-00T11:22:39Z is no time"),
    (Family.VIRTIO_IOMMU, "2026-02-29T11:22:39Z a_b", "2026-02-29T11:22:39Z is no time"),
    (Family.VIRTIO_IOMMU, b"1@2.5:a_b \xff", NO_TEXT),
    (Family.VIRTIO_IOMMU, "1@2.5:a_b \udcff", NO_TEXT),
    (Family.VIRTIO_IOMMU, "1@2.5:a_b " + "x" * LINE_LIMIT, TOO_LONG),
    (Family.VIRTIO_IOMMU, b" " * (LINE_LIMIT + 1), TOO_LONG),
    (Family.VIRTIO_IOMMU, "virtio_iommu_map", NOT_ITS_FIELDS),
    (Family.VIRTIO_IOMMU, "virtio_iommu_attach domain=0", NOT_ITS_FIELDS),
    (Family.VIRTIO_IOMMU, "virtio_iommu_attach domain=0 endpoint=1 x=2", NOT_ITS_FIELDS),
    (Family.VIRTIO_IOMMU, "virtio_iommu_attach domain=\u0660 endpoint=1", NOT_ITS_FIELDS),
    (Family.VIRTIO_IOMMU, "virtio_iommu_detach domain=0 endpoint=12345678901", NOT_ITS_FIELDS),
    (Family.VIRTIO_IOMMU, "virtio_iommu_attach domain=0 endpoint=4294967296", "4294967296 is no 32-bit number"),
    (Family.VIRTIO_IOMMU, "virtio_iommu_attach domain=-2147483649 endpoint=0", "-2147483649 is no 32-bit number"),
    (Family.VIRTIO_IOMMU, "virtio_iommu_put_domain Free domain=", NOT_ITS_FIELDS),
    (Family.VIRTIO_IOMMU, "virtio_iommu_translate_out 0x1 -> for sid=16", NOT_ITS_FIELDS),
    (Family.VIRTIO_IOMMU, "virtio_iommu_translate_out 0x1 -> 0x10000000000000000 for sid=16", TOO_GREAT),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_unmap_done domain=0 virt_start=0x1000 virt_end=0x1fff0000000000000",
        TOO_GREAT,
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_unmap_done domain=0 virt_start=0x2000 virt_end=0x1fff",
        "the range 0x2000..0x1fff is inverted",
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0x2000 virt_end=0x1fff phys_start=0x0 flags=0",
        "the range 0x2000..0x1fff is inverted",
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0x1000 virt_end=0x1fff phys_start=0xfffffffffffff001 flags=1",
        "the target 0xfffffffffffff001 of 0x1000..0x1fff leaves 0..2^64-1",
    ),
    (
        Family.VIRTIO_IOMMU,
        "virtio_iommu_map domain=0 virt_start=0x1000 virt_end=0x1fff phys_start=0x0 flags=8",
        "flags 0x8 has unknown bits",
    ),
    (
        Family.VIRTIO_IOMMU_NOTIFY,
        "virtio_iommu_notify_unmap mr= virt_start=0x1000 virt_end=0x1fff",
        NOT_ITS_FIELDS,
    ),
    (
        Family.VIRTIO_IOMMU_NOTIFY,
        f"virtio_iommu_notify_unmap mr={'x' * 256} virt_start=0x1000 virt_end=0x1fff",
        NOT_ITS_FIELDS,
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x10000 iova 0x0 -> gpa 0x0 mask 0xfff perm 3",
        "a number is greater than 0xffff",
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x3 iova 0x0 -> gpa 0x0 mask 0x1000 perm 3",
        "the mask 0x1000 does not fit iova 0x0",
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x3 iova 0x1000 -> gpa 0x0 mask 0x1fffff perm 0",
        "the mask 0x1fffff does not fit iova 0x1000",
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x3 iova 0x0 -> gpa 0x0 mask 0xfff perm 4",
        "perm 0x4 has unknown bits",
    ),
    (
        Family.VTD_PAGE_WALK,
        "vtd_page_walk_one domain 0x3 iova 0x0 -> gpa 0xfffffffffffff001 mask 0xfff perm 3",
        "the target 0xfffffffffffff001 of 0x0..0xfff leaves 0..2^64-1",
    ),
    (
        Family.VTD_INVAL,
        "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x3 addr 0x0 mask 0x40",
        "a number is greater than 0x3f",
    ),
    (Family.VTD_INVAL, "vtd_inv_desc_iotlb_domain iotlb invalidate whole domain", NOT_ITS_FIELDS),
    (Family.VTD_INVAL, "vtd_inv_desc_iotlb_global", NOT_ITS_FIELDS),
]


def recording(name: str) -> list[bytes]:
    """Return the lines of a recorded trace."""
    packed = files("iommubus.demo").joinpath("data", name).read_bytes()
    return lzma.decompress(packed).splitlines(keepends=True)


def kinds(trace: Trace) -> Counter[type[Record]]:
    """Count the records of a trace by what they are."""
    return Counter(type(entry.record) for entry in trace.entries)


def accounted(tally: Tally) -> int:
    """Return how many lines the tally knows the fate of."""
    return tally.blank + tally.entries + tally.skipped.total() + tally.quiet.total() + tally.damaged


# -- single lines ------------------------------------------------------------


@pytest.mark.parametrize(("head", "seconds"), HEADS)
@pytest.mark.parametrize(("family", "text", "record"), LINES)
def test_each_line_says_its_record_under_each_head(
    head: str, seconds: float | None, family: Family, text: str, record: Record
) -> None:
    """
    A line means the same under every head, as bytes or text, with or without an end.
    """
    line = head + text

    for form in (line, line + "\n", line + "\r\n", line.encode(), line.encode() + b"\n"):
        trace = Trace.read([form], path="log", family=family)

        assert trace.entries == [Entry(1, seconds, record)]
        assert accounted(trace.tally) == trace.tally.lines == 1


def test_the_table_of_lines_covers_the_table_of_families() -> None:
    """
    Every event that is understood has a line here, and belongs to one family.
    """
    known = [(family, event) for family, parsers in FAMILIES.items() for event in parsers]
    written = {(family, text.split()[0]) for family, text, _ in LINES}

    assert set(known) == written
    assert list(FAMILIES) == list(Family)
    assert len({event for _, event in known}) == len(known)


@pytest.mark.parametrize(("family", "text"), QUIET)
def test_a_line_for_which_qemu_published_nothing_is_quiet(family: Family, text: str) -> None:
    """
    A MAP that allows nothing and a descriptor that QEMU refuses are counted, not played.
    """
    trace = Trace.read([text], path="log", family=family)

    assert trace.entries == []
    assert trace.tally.quiet == {text.split(maxsplit=1)[0]: 1}
    assert accounted(trace.tally) == 1


@pytest.mark.parametrize(("family", "line", "reason"), DAMAGE)
def test_a_damaged_line_is_an_error_with_its_place_and_reason(family: Family, line: bytes | str, reason: str) -> None:
    """
    A line that cannot be read raises, naming file, line number, text and reason.
    """
    with pytest.raises(TraceError) as caught:
        Trace.read(["1@2.5:other_event", line], path="some.log", family=family)

    error = caught.value
    assert (error.path, error.line, error.reason) == ("some.log", 2, reason)
    assert str(error).startswith(f"some.log:2: {reason}: ")
    assert len(error.text) <= EXCERPT_LIMIT


def test_an_error_keeps_the_line_as_it_stands() -> None:
    """
    The text of an error is the line without its end; bytes that are no text are escaped.
    """
    lines: list[bytes | str] = [b"no head \xff\n", "no head \udcff\r\n", "n\u00f6 head"]
    tally = Trace.read(lines, path="log", keep_going=True).tally

    assert [error.text for error in tally.errors] == ["no head \\xff", "no head \\udcff", "n\u00f6 head"]


@pytest.mark.parametrize(
    ("family", "event"),
    [
        (Family.VIRTIO_IOMMU, "virtio_iommu_map domain=0"),
        (Family.VIRTIO_IOMMU_NOTIFY, f"virtio_iommu_notify_map mr={MR}"),
    ],
)
@pytest.mark.parametrize("known", [0, 1, 7])
def test_every_unknown_flag_of_a_virtio_map_is_damage(family: Family, event: str, known: int) -> None:
    """
    Each bit of the word but READ, WRITE and MMIO is refused, alone or with them.
    """
    for bit in range(3, 32):
        flags = known | 1 << bit
        line = f"{event} virt_start=0x1000 virt_end=0x1fff phys_start=0x0 flags={flags}"

        with pytest.raises(TraceError) as caught:
            Trace.read([line], path="some.log", family=family)

        assert caught.value.reason == f"flags {flags:#x} has unknown bits"


@pytest.mark.parametrize(("family", "line", "reason"), DAMAGE)
def test_damage_can_be_counted_instead(family: Family, line: bytes | str, reason: str) -> None:
    """
    With keep_going a damaged line costs itself alone.
    """
    good = "1@2.5:virtio_iommu_attach domain=0 endpoint=16"
    trace = Trace.read([line, good, line], path="log", family=family, keep_going=True)

    assert trace.tally.damaged == 2
    assert [(error.line, error.reason) for error in trace.tally.errors] == [(1, reason), (3, reason)]
    assert accounted(trace.tally) == trace.tally.lines == 3


def test_the_first_errors_are_kept_and_all_are_counted() -> None:
    """
    A file of noise costs `DAMAGE_KEPT` errors of memory, and its size is known.
    """
    tally = Trace.read(["noise"] * 100, path="log", keep_going=True).tally

    assert tally.damaged == 100
    assert [error.line for error in tally.errors] == list(range(1, DAMAGE_KEPT + 1))


def test_a_line_of_the_greatest_length_is_read() -> None:
    """
    `LINE_LIMIT` itself is allowed; an event of another kind may be that long.
    """
    line = "1@2.5:handle_qmp_command ".ljust(LINE_LIMIT, "x")

    assert Trace.read([line], path="log").tally.skipped == {"handle_qmp_command": 1}


def test_empty_lines_count_as_lines() -> None:
    """
    Empty lines are passed over, and numbers stay those of the file.
    """
    text = "virtio_iommu_put_domain Free domain=3"
    trace = Trace.read(["", "\n", " \t\r\n", b"", text], path="log", family=Family.VIRTIO_IOMMU)

    assert trace.tally.blank == 4
    assert [entry.line for entry in trace.entries] == [5]


def test_other_events_are_counted_by_name() -> None:
    """
    An event of no family, or of another family, is skipped under its name.
    """
    lines = ["1@2.5:vhost_iotlb_miss 0x1 step 1", "1@2.5:vfio_x  iova 0x0", "vhost_iotlb_miss", "1@2.5:ioinst ssch"]
    lines += ["vtd_page_walk_one of another family, so its fields do not matter"]
    trace = Trace.read(lines, path="log", family=Family.VIRTIO_IOMMU)

    assert trace.entries == []
    assert trace.tally.skipped == {"vhost_iotlb_miss": 2, "vfio_x": 1, "ioinst": 1, "vtd_page_walk_one": 1}


# -- choosing a family -------------------------------------------------------


@pytest.mark.parametrize("first", Family)
@pytest.mark.parametrize("second", Family)
def test_the_first_family_present_is_read(first: Family, second: Family) -> None:
    """
    Whatever the order of the lines, the preferred family is read, and all are named.
    """
    texts = {family: text for family, text, record in LINES if isinstance(record, Unmapped)}
    trace = Trace.read([texts[first], "noise", texts[second]], path="log", keep_going=True)

    assert trace.present == tuple(family for family in Family if family in {first, second})
    assert trace.family is trace.present[0]
    assert {type(entry.record) for entry in trace.entries} == {Unmapped}


def test_a_family_is_present_when_there_is_something_to_play() -> None:
    """
    Attaches and lookups alone make no family present; their notifications do.
    """
    alone = [text for _, text, record in LINES if isinstance(record, Attach | Detach | Lookup)]
    told = f"virtio_iommu_notify_unmap mr={MR} virt_start=0x0 virt_end=0xfff"

    assert families(alone) == ()
    assert families([*alone, told]) == (Family.VIRTIO_IOMMU_NOTIFY,)


def test_a_trace_without_a_family_has_no_entries() -> None:
    """
    A log with nothing to play is no error: its events are skipped and counted.
    """
    trace = Trace.read(["1@2.5:vhost_iotlb_miss 0x1 step 1", ""], path="log")

    assert (trace.family, trace.present, trace.entries) == (None, (), [])
    assert (trace.tally.lines, trace.tally.blank, trace.tally.skipped.total()) == (2, 1, 1)


def test_lines_can_be_read_one_by_one() -> None:
    """
    `parse` takes a stream, yields before it reads on, and its tally is right meanwhile.
    """
    stream = iter([*(text for family, text, _ in LINES if family is Family.VTD_INVAL), "noise"])
    tally = Tally()
    entries = parse(stream, Family.VTD_INVAL, path="log", tally=tally)

    assert next(entries).line == 1
    assert (tally.lines, tally.entries) == (1, 1)
    assert len(list(stream)) == 5


# -- any bytes at all --------------------------------------------------------

WORDS: Final = sorted({word for _, text, _ in LINES for word in text.replace("=", "= ").split()})
HEAD_WORDS: Final = [head for head, _ in HEADS]

LETTERS: Final = "az_AZ09 =:@.>-\0\t\n\r\x85\u00e9\u0660\u2028\udc80\U0001f600"
GOOD_LINES: Final = [(head + text).encode() for head, _ in HEADS for _, text, _ in LINES]


@st.composite
def near_lines(draw: st.DrawFn) -> str:
    """Make a line of the words that real lines are made of, and of numbers."""
    word = st.sampled_from(WORDS) | st.integers().map(hex) | st.integers().map(str) | st.text(LETTERS, max_size=4)
    head = draw(st.sampled_from(HEAD_WORDS) | st.text(LETTERS, max_size=8))
    return head + " ".join(draw(st.lists(word, max_size=8))).replace("= ", "=")


@st.composite
def broken_lines(draw: st.DrawFn) -> bytes:
    """Make a good line with up to three bytes in the place of one."""
    line = draw(st.sampled_from(GOOD_LINES))
    at = draw(st.integers(0, len(line)))
    return line[:at] + draw(st.binary(max_size=3)) + line[at + 1 :]


@given(
    lines=st.lists(st.binary() | st.text(LETTERS) | near_lines() | broken_lines(), max_size=4),
    family=st.none() | st.sampled_from(Family),
)
@example(lines=["9999-12-31T24:00:00Z a_b"], family=None)
@example(lines=["0000-00-00T00:00:00Z a_b"], family=None)
@example(lines=["virtio_iommu_put_domain Free domain=" + "9" * 5000], family=Family.VIRTIO_IOMMU)
@example(lines=["virtio_iommu_translate_out 0x" + "f" * 9000 + " -> 0x0 for sid=1"], family=Family.VIRTIO_IOMMU)
def test_any_lines_give_records_skips_or_errors(lines: list[bytes | str], family: Family | None) -> None:
    """
    Whatever the lines hold: each is accounted for, ranges are sound, nothing else is raised.
    """
    trace = Trace.read(lines, path="log", family=family, keep_going=True)

    tally = trace.tally
    assert accounted(tally) == tally.lines == len(lines)
    assert tally.entries == len(trace.entries)
    assert [entry.line for entry in trace.entries] == sorted({entry.line for entry in trace.entries})
    for entry in trace.entries:
        if isinstance(entry.record, Mapped | Unmapped):
            assert 0 <= entry.record.first <= entry.record.last <= LAST

    if tally.errors:
        with pytest.raises(TraceError) as caught:
            Trace.read(lines, path="log", family=family)

        assert caught.value.line == tally.errors[0].line


# -- the recordings ----------------------------------------------------------


def pages(first: int, last: int) -> range:
    """Return the page addresses of a range."""
    return range(first, last + 1, PAGE)


def test_the_virtio_recording_holds_the_known_records() -> None:
    """
    The recording has one attach, 9,015 maps, 8,756 unmaps and 9,768 lookups, no damage.
    """
    trace = Trace.read(recording(VIRTIO), path=VIRTIO)

    assert trace.present == (Family.VIRTIO_IOMMU, Family.VIRTIO_IOMMU_NOTIFY)
    assert trace.family is Family.VIRTIO_IOMMU
    assert kinds(trace) == {Attach: 1, Mapped: 9015, Unmapped: 8756, Lookup: 9768}
    assert trace.tally == Tally(
        lines=64282,
        entries=27540,
        skipped=Counter(
            vhost_iotlb_miss=19228,
            virtio_iommu_unmap=8756,
            virtio_iommu_notify_unmap=8756,
            virtio_iommu_notify_flag_add=1,
            virtio_iommu_notify_flag_del=1,
        ),
    )
    assert trace.entries[0] == Entry(1, 1795345099.733099, Attach(D0, "virtio-iommu/endpoint-16"))
    times = [entry.seconds for entry in trace.entries if entry.seconds is not None]
    assert len(times) == 27540
    assert 2.5 < max(times) - min(times) < 2.6


def test_the_lookups_of_the_virtio_recording_agree_with_its_maps() -> None:
    """
    Replayed page by page, no lookup of 9,768 disagrees, no map lies over a page, 351 remain.
    """
    table: dict[int, int] = {}
    home: dict[str, str] = {}
    disagree = over = absent = 0
    for entry in Trace.read(recording(VIRTIO), path=VIRTIO).entries:
        match entry.record:
            case Attach(space, endpoint):
                home[endpoint] = space
            case Mapped(space, first, last, target):
                assert space == D0
                over += sum(page in table for page in pages(first, last))
                table.update((page, target + page - first) for page in pages(first, last))
            case Unmapped(space, first, last):
                assert space == D0
                absent += sum(table.pop(page, None) is None for page in pages(first, last))
            case Lookup(endpoint, iova, target):
                assert home[endpoint] == D0
                page = iova & -PAGE
                disagree += table.get(page) != target - (iova - page)
            case _:
                pytest.fail(f"unexpected {entry.record}")

    assert (disagree, over, absent, len(table)) == (0, 0, 0, 351)


def test_the_notifications_of_the_virtio_recording_are_its_unmaps() -> None:
    """
    With a cacher alone QEMU notified UNMAPs only, the same ranges in the same order.
    """
    lines = recording(VIRTIO)
    told = Trace.read(lines, path=VIRTIO, family=Family.VIRTIO_IOMMU_NOTIFY)
    done = Trace.read(lines, path=VIRTIO, family=Family.VIRTIO_IOMMU)

    def unmaps(trace: Trace) -> list[tuple[int, int]]:
        records = [entry.record for entry in trace.entries]
        return [(record.first, record.last) for record in records if isinstance(record, Unmapped)]

    assert kinds(told) == {Unmapped: 8756}
    assert {entry.record.space for entry in told.entries if isinstance(entry.record, Unmapped)} == {MR}
    assert unmaps(told) == unmaps(done)


def test_the_vtd_recording_maps_and_unmaps_everything() -> None:
    """
    The recording has 7,394 maps and as many unmaps; nothing is mapped at its end.
    """
    trace = Trace.read(recording(VTD), path=VTD)

    held: dict[int, int] = {}
    remaps = absent = 0
    for entry in trace.entries:
        match entry.record:
            case Mapped("vtd/domain-3", first, last):
                under = [start for start in held if start <= last and first <= held[start]]
                remaps += bool(under)
                for start in under:
                    del held[start]

                held[first] = last
            case Unmapped("vtd/domain-3", first, last):
                absent += held.pop(first, None) != last
            case _:
                pytest.fail(f"unexpected {entry.record}")

    assert trace.present == (Family.VTD_PAGE_WALK,)
    assert kinds(trace) == {Mapped: 7394, Unmapped: 7394}
    assert trace.tally == Tally(
        lines=44714,
        entries=14788,
        skipped=Counter(
            vfio_iommu_map_notify=14928,
            vfio_user_dma_unmap=7554,
            vfio_user_dma_map=7418,
            vfio_listener_region_add_ram=24,
            vfio_listener_region_add_iommu=2,
        ),
    )
    assert (remaps, absent, len(held)) == (0, 0, 0)


def test_a_recording_is_read_in_little_time() -> None:
    """
    64,282 lines cost about a quarter of a second; slow machines and coverage may need more.
    """
    lines = recording(VIRTIO)
    before = time.process_time()

    Trace.read(lines, path=VIRTIO)

    assert time.process_time() - before < 3.0
