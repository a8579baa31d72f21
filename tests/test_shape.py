"""A space accepts the addresses of its shape, and refuses each other one for the first reason there is."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from iommubus.errors import (
    BadPermission,
    BadShape,
    BadTarget,
    EmptyRange,
    InReserved,
    MappingError,
    Misaligned,
    OutsideSpace,
    RangeWraps,
)
from iommubus.ranges import LAST, IovaRange
from iommubus.shape import Shape

PAGE: Final = 0x1000
MSI: Final = IovaRange(0xFEE00000, 0xFEEFFFFF)
VTD: Final = Shape(PAGE, 2**39 - 1, (MSI, IovaRange(0x7000, 0x7FFF)))
WHOLE: Final = Shape(PAGE, LAST)
BYTES: Final = Shape(1, LAST)


def refusal(check: Callable[..., None], *arguments: int) -> MappingError:
    """Return the error that a check raises, and see that its message has every number in hexadecimal."""
    with pytest.raises(MappingError) as refused:
        check(*arguments)
    values: dict[str, Any] = vars(refused.value)
    for value in values.values():
        if isinstance(value, int):
            assert hex(value) in str(refused.value)
    return refused.value


# -- shapes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granule", "last"),
    [(1, 0), (1, LAST), (2, 1), (PAGE, PAGE - 1), (PAGE, LAST), (2**63, LAST), (2**64, LAST), (2**16, 2**48 - 1)],
)
def test_a_space_ends_with_a_granule(granule: int, last: int) -> None:
    """Any power of two is a granule, from one byte to the whole space, if the last address ends one."""
    shape = Shape(granule, last)

    assert (shape.granule, shape.last, shape.reserved) == (granule, last, ())
    with pytest.raises(AttributeError):
        setattr(shape, "last", LAST)  # noqa: B010


@pytest.mark.parametrize("granule", [0, -1, -4096, 3, 6, PAGE - 1, PAGE + 1, 2**64 - 1, 2**64 + 1])
def test_a_granule_is_a_power_of_two(granule: int) -> None:
    """What is no power of two is refused, whatever the last address is."""
    for last in (0, LAST, -1):
        with pytest.raises(BadShape) as refused:
            Shape(granule, last)

        assert vars(refused.value) == {
            "granule": granule,
            "last": last,
            "reason": "the granule is no power of two",
        }


@pytest.mark.parametrize(
    ("granule", "last"),
    [
        (1, -1),
        (1, LAST + 1),
        (PAGE, -1),
        (PAGE, 0),
        (PAGE, PAGE),
        (PAGE, PAGE - 2),
        (PAGE, LAST - 1),
        (PAGE, LAST + PAGE),
        (2**65, LAST),
        (2, 0),
    ],
)
def test_a_space_that_ends_elsewhere_is_refused(granule: int, last: int) -> None:
    """The last address lies in 0..2^64-1 and ends a granule, else there would be a part of one."""
    with pytest.raises(BadShape) as refused:
        Shape(granule, last)

    assert vars(refused.value) == {
        "granule": granule,
        "last": last,
        "reason": "the last address does not end a granule",
    }


def test_a_reserved_range_lies_in_the_space() -> None:
    """A window may end with the space; one that ends a byte behind it is refused by name, the first or not."""
    inside = IovaRange(0x10, 0xFFFF)
    assert Shape(PAGE, 0xFFFF, (inside,)).reserved == (inside,)

    with pytest.raises(BadShape) as refused:
        Shape(PAGE, 0xFFFF, (inside, IovaRange(0, 0x10000)))

    assert vars(refused.value) == {
        "granule": PAGE,
        "last": 0xFFFF,
        "reason": "the reserved range 0x0..0x10000 ends behind it",
    }


# -- ranges ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "iova", "size"),
    [
        (WHOLE, 0, PAGE),
        (WHOLE, 0, 2**64),
        (WHOLE, LAST + 1 - PAGE, PAGE),
        (BYTES, 0, 1),
        (BYTES, LAST, 1),
        (BYTES, 1, LAST),
        (VTD, 0, 2**39),
        (VTD, 2**39 - PAGE, PAGE),
        (VTD, MSI.first, MSI.size),
    ],
)
def test_a_range_may_be_any_granules_of_the_space(shape: Shape, iova: int, size: int) -> None:
    """From the first granule to the last one, and all of them; reserved ranges may be unmapped."""
    shape.check_range(iova, size)


@pytest.mark.parametrize(
    ("shape", "iova", "size", "error", "values"),
    [
        (VTD, 0, 0, EmptyRange, {"iova": 0, "size": 0}),
        (VTD, PAGE, -PAGE, EmptyRange, {"iova": PAGE, "size": -PAGE}),
        (VTD, -1, PAGE, RangeWraps, {"iova": -1, "size": PAGE}),
        (VTD, -PAGE, 2 * PAGE, RangeWraps, {"iova": -PAGE, "size": 2 * PAGE}),
        (WHOLE, LAST + 1 - PAGE, 2 * PAGE, RangeWraps, {"iova": LAST + 1 - PAGE, "size": 2 * PAGE}),
        (BYTES, LAST, 2, RangeWraps, {"iova": LAST, "size": 2}),
        (BYTES, 0, 2**64 + 1, RangeWraps, {"iova": 0, "size": 2**64 + 1}),
        (VTD, 2**39, PAGE, OutsideSpace, {"first": 2**39, "last": 2**39 + PAGE - 1, "space_last": 2**39 - 1}),
        (VTD, 0, 2**39 + 1, OutsideSpace, {"first": 0, "last": 2**39, "space_last": 2**39 - 1}),
        (VTD, 1, 2**39, OutsideSpace, {"first": 1, "last": 2**39, "space_last": 2**39 - 1}),
        (VTD, 0x1001, PAGE, Misaligned, {"what": "iova", "value": 0x1001, "granule": PAGE}),
        (VTD, 0x1800, PAGE, Misaligned, {"what": "iova", "value": 0x1800, "granule": PAGE}),
        (VTD, 0x1000, PAGE - 1, Misaligned, {"what": "size", "value": PAGE - 1, "granule": PAGE}),
        (VTD, 0x1000, 1, Misaligned, {"what": "size", "value": 1, "granule": PAGE}),
    ],
)
def test_a_range_is_refused_with_its_values(
    shape: Shape, iova: int, size: int, error: type[MappingError], values: dict[str, object]
) -> None:
    """One byte too many, too few or too far is refused, and the error says which; a MAP is refused alike."""
    for found in (refusal(shape.check_range, iova, size), refusal(shape.check_map, iova, size, 0, 3)):
        assert type(found) is error
        assert vars(found) == values


# -- mappings ----------------------------------------------------------------


@pytest.mark.parametrize("perm", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "iova", "size", "target"),
    [
        (WHOLE, 0, PAGE, LAST + 1 - PAGE),
        (WHOLE, 0, 2**64, 0),
        (BYTES, LAST, 1, LAST),
        (BYTES, 0, 2, LAST - 1),
        (VTD, 0, 0x7000, 0x8000),
        (VTD, 0x8000, MSI.first - 0x8000, 0),
        (VTD, MSI.last + 1, 2**39 - 1 - MSI.last, 0),
    ],
)
def test_a_mapping_may_lead_anywhere(shape: Shape, iova: int, size: int, target: int, perm: int) -> None:
    """Up to a reserved range and from behind it, to the first target and to the last one, with every permission."""
    shape.check_map(iova, size, target, perm)


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "values"),
    [
        (VTD, (0x1000, PAGE, 0, 0), BadPermission, {"perm": 0}),
        (VTD, (0x1000, PAGE, 0, 4), BadPermission, {"perm": 4}),
        (VTD, (0x1000, PAGE, 0, 5), BadPermission, {"perm": 5}),
        (VTD, (0x1000, PAGE, 0, -1), BadPermission, {"perm": -1}),
        (VTD, (0x1000, PAGE, -1, 3), BadTarget, {"target": -1, "size": PAGE}),
        (VTD, (0x1000, 2 * PAGE, -PAGE, 3), BadTarget, {"target": -PAGE, "size": 2 * PAGE}),
        (VTD, (0x1000, PAGE, LAST, 3), BadTarget, {"target": LAST, "size": PAGE}),
        (VTD, (0x1000, PAGE, 2**64 - PAGE + 1, 3), BadTarget, {"target": 2**64 - PAGE + 1, "size": PAGE}),
        (BYTES, (0, 2, LAST, 3), BadTarget, {"target": LAST, "size": 2}),
        (VTD, (0x1000, PAGE, 0x1234, 3), Misaligned, {"what": "target", "value": 0x1234, "granule": PAGE}),
    ],
)
def test_a_mapping_is_refused_with_its_values(
    shape: Shape, arguments: tuple[int, int, int, int], error: type[MappingError], values: dict[str, object]
) -> None:
    """A permission or a target that cannot be is refused, and the error says which."""
    found = refusal(shape.check_map, *arguments)

    assert type(found) is error
    assert vars(found) == values


@pytest.mark.parametrize(
    ("first", "last", "window"),
    [
        (MSI.first, MSI.last, MSI),
        (MSI.first - PAGE, MSI.first + PAGE - 1, MSI),
        (MSI.last + 1 - PAGE, MSI.last + PAGE, MSI),
        (MSI.first + PAGE, MSI.first + 2 * PAGE - 1, MSI),
        (0x8000, 2**39 - 1, MSI),
        (0, 0x7FFF, IovaRange(0x7000, 0x7FFF)),
        (0x7000, 0x7FFF, IovaRange(0x7000, 0x7FFF)),
        (0, 2**39 - 1, MSI),
    ],
)
def test_a_reserved_range_is_never_mapped(first: int, last: int, window: IovaRange) -> None:
    """Touching a window with one granule is enough; of several, the one named first to the space is named."""
    found = refusal(VTD.check_map, first, last - first + 1, 0, 3)

    assert type(found) is InReserved
    assert vars(found) == {
        "first": first,
        "last": last,
        "reserved_first": window.first,
        "reserved_last": window.last,
    }


@pytest.mark.parametrize(("iova", "refused"), [(9, False), (10, True), (12, True), (13, False)])
def test_a_reserved_range_ends_at_its_bytes(iova: int, refused: bool) -> None:
    """With a granule of one byte, the neighbours of a window can be mapped, and its first and last byte cannot."""
    shape = Shape(1, LAST, (IovaRange(10, 12),))
    if refused:
        assert isinstance(refusal(shape.check_map, iova, 1, 0, 3), InReserved)
    else:
        shape.check_map(iova, 1, 0, 3)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_value_of_another_type_is_refused(place: int) -> None:
    """What rounds is no address, even in a space where every byte may be one."""
    values: list[Any] = [2, 2, 2, 3]
    values[place] = 2.0
    with pytest.raises(TypeError):
        BYTES.check_map(*values)
    with pytest.raises(TypeError):
        Shape(1, values[0] / 2)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_value_that_wraps_is_refused(place: int) -> None:
    """Law 9: an integer of another library may wrap before it can be compared."""
    values: list[Any] = [2, 2, 2, 3]
    values[place] = Word(2)
    with pytest.raises(TypeError, match=r"of type int, got .*Word"):
        BYTES.check_map(*values)


class Word:
    """Stands in for an integer of another library."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __or__(self, other: int) -> "Word":
        return Word(self.value | other)

    __ror__ = __or__


def test_the_first_reason_wins() -> None:
    """Each repair brings out the next reason, in the order in which a caller has to think of them."""
    steps: list[tuple[tuple[int, int, int, int], type[MappingError]]] = [
        ((-1, 0, -1, 0), EmptyRange),
        ((-1, 2**39 + 1, -1, 0), RangeWraps),
        ((1, 2**39 + 1, -1, 0), OutsideSpace),
        ((1, PAGE + 1, -1, 0), Misaligned),
        ((PAGE, PAGE + 1, -1, 0), Misaligned),
        ((MSI.first, PAGE, -1, 0), BadPermission),
        ((MSI.first, PAGE, -1, 3), BadTarget),
        ((MSI.first, PAGE, 1, 3), Misaligned),
        ((MSI.first, PAGE, 0, 3), InReserved),
    ]
    found = [refusal(VTD.check_map, *arguments) for arguments, _ in steps]

    assert [type(error) for error in found] == [error for _, error in steps]
    assert [error.what for error in found if isinstance(error, Misaligned)] == ["iova", "size", "target"]
