"""Demands say what was found instead."""

import pytest

from iommubus.errors import Misaligned, Overlap, PromiseBroken
from iommubus.testing.conformance.demands import demand, demand_raised


def test_what_differs_is_said() -> None:
    demand("it is so", 1, 1)
    with pytest.raises(PromiseBroken) as caught:
        demand("it is so", 1, 2)

    assert (caught.value.promise, caught.value.found, caught.value.wanted) == ("it is so", 1, 2)


def refuse() -> None:
    raise Misaligned("iova", 1, 16)


def test_what_has_to_be_refused_is_refused_with_its_values() -> None:
    with demand_raised(Misaligned, value=1, granule=16):
        refuse()
    wrong = r"expected \{'value': 2\}, found \{'value': 1\}"
    with pytest.raises(PromiseBroken, match=wrong), demand_raised(Misaligned, value=2):
        refuse()


def test_what_is_not_refused_is_said() -> None:
    nothing = "refused with Overlap: expected Overlap, found no error"
    with pytest.raises(PromiseBroken, match=nothing), demand_raised(Overlap):
        pass


def test_another_error_passes() -> None:
    with pytest.raises(Misaligned), demand_raised(Overlap):
        refuse()
