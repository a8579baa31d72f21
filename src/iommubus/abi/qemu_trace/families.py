"""The trace events that are understood, by family, and how to read their fields.

A family is a set of events that tells one complete story.  QEMU tells some
stories twice (what the guest asked, and what the notifiers were told), which
is why one family at a time is played.

A parser takes the text behind the event's name.  It answers with a record, or
with `None` where QEMU wrote a line although it published nothing.

Source: the formats are those of QEMU ``hw/virtio/trace-events`` and
``hw/i386/trace-events``; when a line is written, and what QEMU refuses, is in
``hw/virtio/virtio-iommu.c`` and ``hw/i386/intel_iommu.c``.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from ...caps import Perm
from ...errors import span
from ...ranges import LAST
from .records import Attach, Detach, Lookup, Mapped, Record, Unmapped, UnmappedAll

VIRTIO_MMIO: Final = 4
"""``VIRTIO_IOMMU_MAP_F_MMIO``; READ (1) and WRITE (2) are `Perm`'s own values."""

VTD_PAGE_BITS: Final = 12
VTD_MAX_AM: Final = 18
"""``VTD_MAMV``: QEMU traces a descriptor with a larger mask, and then refuses it."""

AM_LAST: Final = 63
"""The address mask of a descriptor has six bits."""

DOMAIN_LAST: Final = 0xFFFF
"""A VT-d domain identifier has sixteen bits."""


class Family(StrEnum):
    """A set of trace events that tells one complete story, preferred ones first."""

    VIRTIO_IOMMU = "virtio_iommu"
    """What the guest did to the domains of a virtio-iommu; a space per domain."""

    VIRTIO_IOMMU_NOTIFY = "virtio_iommu_notify"
    """What a virtio-iommu told its notifiers; a space per memory region."""

    VTD_PAGE_WALK = "vtd_page_walk"
    """What VT-d in caching mode found changed in the guest's tables; a space per domain."""

    VTD_INVAL = "vtd_inval"
    """Invalidations that reached VT-d; a pull space per domain."""


class BadFields(Exception):
    """Fields that do not parse or make no sense; becomes a `TraceError`."""


Parser = Callable[[str], Record | None]
"""Reads the fields of one event; raises `BadFields`."""


# -- fields ------------------------------------------------------------------


def _form(text: str) -> re.Pattern[str]:
    """Compile a format as QEMU writes it: %x hexadecimal, %d of a u32, %s a name."""
    pattern = re.escape(text).replace("%x", "([0-9a-f]+)").replace("%d", "(-?[0-9]{1,10})")
    return re.compile(pattern.replace("%s", "([!-~]{1,255})"))


def _scan(form: re.Pattern[str], fields: str) -> tuple[str, ...]:
    match = form.fullmatch(fields)
    if match is None:
        raise BadFields("the fields are not those of this event")

    return match.groups()


def _hex(digits: str, limit: int = LAST) -> int:
    value = int(digits, 16)
    if value > limit:
        raise BadFields(f"a number is greater than {limit:#x}")

    return value


def _word(digits: str) -> int:
    """Read a u32 that QEMU printed with %d: the upper half comes out negative."""
    value = int(digits)
    if not -(2**31) <= value < 2**32:
        raise BadFields(f"{digits} is no 32-bit number")

    return value & 0xFFFF_FFFF


def _check_range(first: int, last: int) -> None:
    if first > last:
        raise BadFields(f"the range {span(first, last)} is inverted")


def _check_target(first: int, last: int, target: int) -> None:
    if target > LAST - (last - first):
        raise BadFields(f"the target {target:#x} of {span(first, last)} leaves 0..2^64-1")


# -- virtio-iommu ------------------------------------------------------------


def _virtio_domain(digits: str) -> str:
    return f"virtio-iommu/domain-{_word(digits)}"


def _virtio_endpoint(digits: str) -> str:
    return f"virtio-iommu/endpoint-{_word(digits)}"


def _virtio_mapped(space: str, start: str, end: str, phys: str, flag_digits: str) -> Mapped | None:
    first, last, target, flags = _hex(start), _hex(end), _hex(phys), _word(flag_digits)
    _check_range(first, last)
    _check_target(first, last, target)
    if flags & ~(int(Perm.RW) | VIRTIO_MMIO):
        raise BadFields(f"flags {flags:#x} has unknown bits")

    perm = flags & Perm.RW
    return Mapped(space, first, last, target, Perm(perm), bool(flags & VIRTIO_MMIO)) if perm else None


def _unmapped(space: str, start: str, end: str) -> Unmapped:
    first, last = _hex(start), _hex(end)
    _check_range(first, last)
    return Unmapped(space, first, last)


_ATTACH = _form("domain=%d endpoint=%d")
_DOMAIN_MAP = _form("domain=%d virt_start=0x%x virt_end=0x%x phys_start=0x%x flags=%d")
_DOMAIN_UNMAP = _form("domain=%d virt_start=0x%x virt_end=0x%x")
_PUT_DOMAIN = _form("Free domain=%d")
_TRANSLATE = _form("0x%x -> 0x%x for sid=%d")
_REGION_MAP = _form("mr=%s virt_start=0x%x virt_end=0x%x phys_start=0x%x flags=%d")
_REGION_UNMAP = _form("mr=%s virt_start=0x%x virt_end=0x%x")


def _attach(fields: str) -> Attach:
    domain, endpoint = _scan(_ATTACH, fields)
    return Attach(_virtio_domain(domain), _virtio_endpoint(endpoint))


def _detach(fields: str) -> Detach:
    domain, endpoint = _scan(_ATTACH, fields)
    return Detach(_virtio_domain(domain), _virtio_endpoint(endpoint))


def _domain_map(fields: str) -> Mapped | None:
    domain, start, end, phys, flags = _scan(_DOMAIN_MAP, fields)
    return _virtio_mapped(_virtio_domain(domain), start, end, phys, flags)


def _domain_unmap(fields: str) -> Unmapped:
    domain, start, end = _scan(_DOMAIN_UNMAP, fields)
    return _unmapped(_virtio_domain(domain), start, end)


def _put_domain(fields: str) -> UnmappedAll:
    (domain,) = _scan(_PUT_DOMAIN, fields)
    return UnmappedAll(_virtio_domain(domain))


def _translate(fields: str) -> Lookup:
    iova, target, endpoint = _scan(_TRANSLATE, fields)
    return Lookup(_virtio_endpoint(endpoint), _hex(iova), _hex(target))


def _region_map(fields: str) -> Mapped | None:
    return _virtio_mapped(*_scan(_REGION_MAP, fields))


def _region_unmap(fields: str) -> Unmapped:
    return _unmapped(*_scan(_REGION_UNMAP, fields))


# -- VT-d --------------------------------------------------------------------


def _vtd_domain(digits: str) -> str:
    return f"vtd/domain-{_hex(digits, DOMAIN_LAST)}"


_PAGE_WALK = _form("domain 0x%x iova 0x%x -> gpa 0x%x mask 0x%x perm %d")
_INVALIDATE_PAGES = _form("iotlb invalidate domain 0x%x addr 0x%x mask 0x%x")
_INVALIDATE_DOMAIN = _form("iotlb invalidate whole domain 0x%x")
_INVALIDATE_GLOBAL = _form("iotlb invalidate global")


def _page_walk(fields: str) -> Mapped | Unmapped:
    domain, iova, gpa, mask_digits, perm_digits = _scan(_PAGE_WALK, fields)
    space, first, target = _vtd_domain(domain), _hex(iova), _hex(gpa)
    mask, perm = _hex(mask_digits), _word(perm_digits)
    if mask & (mask + 1) or first & mask:
        raise BadFields(f"the mask {mask:#x} does not fit iova {first:#x}")

    if perm > Perm.RW:
        raise BadFields(f"perm {perm:#x} has unknown bits")

    last = first | mask
    if not perm:
        return Unmapped(space, first, last)  # gpa is whatever stood in the entry

    _check_target(first, last, target)
    return Mapped(space, first, last, target, Perm(perm))


def _invalidate_pages(fields: str) -> Unmapped | None:
    domain, digits, am_digits = _scan(_INVALIDATE_PAGES, fields)
    space, address, am = _vtd_domain(domain), _hex(digits), _hex(am_digits, AM_LAST)
    if am > VTD_MAX_AM:
        return None

    mask = (1 << VTD_PAGE_BITS + am) - 1
    return Unmapped(space, address & ~mask, address | mask)


def _invalidate_domain(fields: str) -> UnmappedAll:
    (domain,) = _scan(_INVALIDATE_DOMAIN, fields)
    return UnmappedAll(_vtd_domain(domain))


def _invalidate_global(fields: str) -> UnmappedAll:
    _scan(_INVALIDATE_GLOBAL, fields)
    return UnmappedAll(None)


# -- the table ---------------------------------------------------------------

FAMILIES: Final[Mapping[Family, Mapping[str, Parser]]] = {
    Family.VIRTIO_IOMMU: {
        "virtio_iommu_attach": _attach,
        "virtio_iommu_detach": _detach,
        "virtio_iommu_map": _domain_map,
        "virtio_iommu_unmap_done": _domain_unmap,
        "virtio_iommu_put_domain": _put_domain,
        "virtio_iommu_translate_out": _translate,
    },
    Family.VIRTIO_IOMMU_NOTIFY: {
        "virtio_iommu_notify_map": _region_map,
        "virtio_iommu_notify_unmap": _region_unmap,
    },
    Family.VTD_PAGE_WALK: {
        "vtd_page_walk_one": _page_walk,
    },
    Family.VTD_INVAL: {
        "vtd_inv_desc_iotlb_pages": _invalidate_pages,
        "vtd_inv_desc_iotlb_domain": _invalidate_domain,
        "vtd_inv_desc_iotlb_global": _invalidate_global,
    },
}
"""The parser of every event, by family; families in the order of preference."""

SIGNS: Final[Mapping[str, Family]] = {
    "virtio_iommu_map": Family.VIRTIO_IOMMU,
    "virtio_iommu_unmap_done": Family.VIRTIO_IOMMU,
    "virtio_iommu_notify_map": Family.VIRTIO_IOMMU_NOTIFY,
    "virtio_iommu_notify_unmap": Family.VIRTIO_IOMMU_NOTIFY,
    "vtd_page_walk_one": Family.VTD_PAGE_WALK,
    "vtd_inv_desc_iotlb_pages": Family.VTD_INVAL,
    "vtd_inv_desc_iotlb_domain": Family.VTD_INVAL,
    "vtd_inv_desc_iotlb_global": Family.VTD_INVAL,
}
"""The events that make a family present: an attach or a lookup alone has nothing to play."""
