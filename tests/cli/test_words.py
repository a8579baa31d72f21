"""Numbers, kinds, accesses and ranges, read and printed."""

from collections.abc import Callable
from typing import Any

import pytest

from iommubus.caps import Cap, Perm
from iommubus.cli import words
from iommubus.events import Memory
from iommubus.ranges import LAST


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("4096", 4096), ("0x1000", 0x1000), ("0XfF", 255), ("007", 7), ("0xffffffffffffffff", LAST)],
)
def test_numbers_are_decimal_or_hexadecimal(text: str, value: int) -> None:
    assert words.number(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1_0", "0x", "ff", "1.0", "0x1_0", "0x10000000000000000", "१", "0b1"]
)
def test_what_is_no_number_of_64_bits_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no number from 0 to 0xffffffffffffffff, decimal or with 0x"):
        words.number(text)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1.5", 1.5), ("1e-3", 0.001)])
def test_seconds(text: str, value: float) -> None:
    assert words.seconds(text) == value


@pytest.mark.parametrize("text", ["", "-1", "inf", "nan", "1s"])
def test_what_nobody_can_wait_for_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no number of seconds"):
        words.seconds(text)


def test_kinds_are_read_and_printed_in_one_order() -> None:
    assert words.kinds("map, unmap") == Cap.IOTLB
    assert words.kinds("device") == Cap.DEVIOTLB_UNMAP
    assert words.kind_names(Cap.ALL) == ["unmap", "map", "device"]
    assert words.kind_names(0) == []
    assert words.kind_names(0x12) == ["map", "0x10"]


@pytest.mark.parametrize("text", ["", "map,", "iotlb"])
def test_what_is_no_kind_is_named_with_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="is no kind of event; there are unmap, map, device"):
        words.kinds(text)


def test_accesses_are_read_and_printed() -> None:
    for name, perm in (("r", Perm.R), ("w", Perm.W), ("rw", Perm.RW)):
        assert words.perm(name) == words.perm(name.upper()) == perm
        assert words.perm_name(perm) == name
    assert words.perm_name(0) == "0x0"
    with pytest.raises(ValueError, match="'x' is no access; there are r, w, rw"):
        words.perm("x")


def test_mappings_and_ranges_are_printed_with_both_ends() -> None:
    memory = Memory("ram", 2, 0x10000)

    assert words.mapping_text(0x1000, 0x1FFF, 0x8000, 3, None) == "0x1000..0x1fff -> 0x8000 rw"
    assert words.mapping_text(0, 0xFFF, 0x10, 1, memory) == "0x0..0xfff -> ram@2+0x10 r"
    assert words.ranges_text([(0, LAST)]) == "all"
    assert words.ranges_text([(0, 0xFFF), (0x2000, LAST)]) == "0x0..0xfff 0x2000..0xffffffffffffffff"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 us"), (0.0000021, "2 us"), (0.0012, "1.2 ms"), (0.9, "900.0 ms"), (10, "10.0 s")]
)
def test_durations_have_the_unit_that_fits(value: float, text: str) -> None:
    assert words.seconds_text(value) == text


@pytest.mark.parametrize("read", [words.number, words.kinds, words.perm, words.seconds])
def test_no_text_breaks_a_reader(read: Callable[[str], Any]) -> None:
    for text in ("\0", "\udcff", "9" * 5000, "0x" + "f" * 5000, "\u2460", "rw\n"):
        with pytest.raises(ValueError, match=r"is no"):
            read(text)
