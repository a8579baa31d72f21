"""Scripts, from hand-written logs."""

import pytest

from iommubus.abi.qemu_trace import Family, Trace
from iommubus.caps import Perm
from iommubus.demo.script import LookupStep, MapStep, MoveStep, Script, UnmapStep, Unplayable, space_name, write_script
from iommubus.ranges import LAST

MAP = "virtio_iommu_map domain=0 virt_start=0x1000 virt_end=0x1fff phys_start=0x8000 flags=3"
SPACE = "virtio-iommu/domain-0"
ENDPOINT = "virtio-iommu/endpoint-16"


def script(*lines: str, family: Family | None = None) -> Script:
    return write_script(Trace.read(lines, path="log", family=family), "log")


def test_records_become_steps_with_their_lines_and_seconds() -> None:
    made = script(
        "1@10.5:virtio_iommu_attach domain=0 endpoint=16",
        f"1@11.0:{MAP}",
        "1@11.5:virtio_iommu_translate_out 0x1004 -> 0x8004 for sid=16",
        "1@12.0:virtio_iommu_unmap_done domain=0 virt_start=0x1000 virt_end=0x1fff",
    )

    assert made.steps == [
        MoveStep(1, 10.5, ENDPOINT, SPACE),
        MapStep(2, 11.0, SPACE, 0x1000, 0x1FFF, 0x8000, Perm.RW),
        LookupStep(3, 11.5, SPACE, 0x1004, 0x8004),
        UnmapStep(4, 12.0, SPACE, 0x1000, 0x1FFF),
    ]
    assert (made.spaces, made.endpoints) == ({SPACE: True}, [ENDPOINT])
    assert made.has_lookups


def moved(line: int, endpoint: int, domain: int | None) -> MoveStep:
    space = None if domain is None else f"virtio-iommu/domain-{domain}"
    return MoveStep(line, None, f"virtio-iommu/endpoint-{endpoint}", space)


def test_the_last_endpoint_of_a_space_takes_the_mappings_with_it() -> None:
    made = script(
        "virtio_iommu_attach domain=0 endpoint=1",
        "virtio_iommu_attach domain=0 endpoint=2",
        MAP,
        MAP.replace("domain=0", "domain=1"),
        "virtio_iommu_detach domain=0 endpoint=1",
        "virtio_iommu_detach domain=0 endpoint=1",
        "virtio_iommu_attach domain=0 endpoint=2",
        "virtio_iommu_attach domain=1 endpoint=2",
    )

    assert [step for step in made.steps if not isinstance(step, MapStep)] == [
        moved(1, endpoint=1, domain=0),
        moved(2, endpoint=2, domain=0),
        moved(5, endpoint=1, domain=None),
        moved(8, endpoint=2, domain=1),
        UnmapStep(8, None, SPACE, 0, LAST),
    ]
    assert made.endpoints == ["virtio-iommu/endpoint-1", "virtio-iommu/endpoint-2"]


def test_to_who_moves_a_space_without_a_table_is_none() -> None:
    made = script(
        "virtio_iommu_attach domain=9 endpoint=1",
        "virtio_iommu_attach domain=9 endpoint=2",
        MAP,
        "virtio_iommu_attach domain=0 endpoint=1",
        "virtio_iommu_attach domain=9 endpoint=1",
        "virtio_iommu_detach domain=9 endpoint=1",
        "virtio_iommu_detach domain=9 endpoint=2",
    )

    assert [step for step in made.steps if isinstance(step, MoveStep)] == [
        moved(4, endpoint=1, domain=0),
        moved(5, endpoint=1, domain=None),
    ]
    assert made.spaces == {SPACE: True, "virtio-iommu/domain-9": False}
    assert made.endpoints == ["virtio-iommu/endpoint-1"]


def test_an_invalidation_of_everything_concerns_the_spaces_named_so_far() -> None:
    made = script(
        "vtd_inv_desc_iotlb_domain iotlb invalidate whole domain 0x1",
        "vtd_inv_desc_iotlb_global iotlb invalidate global",
        "vtd_inv_desc_iotlb_domain iotlb invalidate whole domain 0x2",
    )

    assert [(step.line, step.space) for step in made.steps] == [
        (1, "vtd/domain-1"),
        (2, "vtd/domain-1"),
        (3, "vtd/domain-2"),
    ]


def test_a_space_in_which_nothing_is_mapped_is_a_pull_space() -> None:
    made = script("vtd_inv_desc_iotlb_domain iotlb invalidate whole domain 0x1")

    assert made.spaces == {"vtd/domain-1": False}


def test_a_lookup_without_an_attach_belongs_to_the_only_space() -> None:
    lookup = "virtio_iommu_translate_out 0x1000 -> 0x8000 for sid=16"

    assert script(MAP, lookup).steps[1] == LookupStep(2, None, SPACE, 0x1000, 0x8000)
    assert len(script(MAP, MAP.replace("domain=0", "domain=1"), lookup).steps) == 2


def test_lookups_in_a_space_that_never_changes_are_left_out() -> None:
    made = script(
        MAP,
        "virtio_iommu_attach domain=9 endpoint=9",
        "virtio_iommu_translate_out 0x1000 -> 0x8000 for sid=9",
    )

    assert [step.line for step in made.steps] == [1]


@pytest.mark.parametrize(
    ("end", "target", "granule"),
    [("0x1fff", "0x8000", 0x1000), ("0x17ff", "0x8000", 0x800), ("0x1fff", "0x8100", 0x100)],
)
def test_the_granule_is_what_every_edge_and_target_is_a_multiple_of(end: str, target: str, granule: int) -> None:
    line = f"virtio_iommu_map domain=0 virt_start=0x1000 virt_end={end} phys_start={target} flags=3"

    assert script(line).granule == granule


def test_a_log_of_huge_pages_keeps_the_usual_granule() -> None:
    assert script("vtd_page_walk_one domain 0x1 iova 0x0 -> gpa 0x200000 mask 0x1fffff perm 3").granule == 0x1000


def test_a_log_without_known_events_cannot_be_played() -> None:
    with pytest.raises(Unplayable, match="log has no event of a known family"):
        script("vfio_user_dma_map iova 0x0")


def test_a_family_that_is_not_there_cannot_be_played() -> None:
    with pytest.raises(Unplayable, match=r"no event of the family vtd_inval; it has virtio_iommu$"):
        script(MAP, family=Family.VTD_INVAL)


def test_a_mapping_too_large_for_pages_is_named_by_its_line() -> None:
    with pytest.raises(Unplayable, match=r"^log:2: 0x0\.\.0xffffffffffffffff makes more than"):
        script(MAP, f"virtio_iommu_map domain=0 virt_start=0x0 virt_end={LAST:#x} phys_start=0x0 flags=3")


def test_names_that_look_like_patterns_are_made_harmless_and_stay_different() -> None:
    assert space_name("virtio-iommu-memory-region-2-16") == "virtio-iommu-memory-region-2-16"
    assert space_name("a[1]*?%") == "a%5B1%5D%2A%3F%25"
