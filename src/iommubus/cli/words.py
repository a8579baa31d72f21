"""How numbers, kinds of event, accesses and ranges are written on a command line, and printed.

Addresses are printed in hexadecimal; what is read may be decimal, or hexadecimal
with ``0x``.  Ranges are printed with both ends inclusive.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Final

from ..caps import Cap, Perm
from ..errors import span
from ..events import Memory, place
from ..ranges import LAST

KINDS: Final = {"unmap": Cap.UNMAP, "map": Cap.MAP, "device": Cap.DEVIOTLB_UNMAP}
"""Kinds of event by name; ``device`` is the invalidation of a device's own TLB."""

PERMS: Final = {"r": Perm.R, "w": Perm.W, "rw": Perm.RW}
"""What a mapping allows, by name."""


def number(text: str) -> int:
    """Return the number that a text writes.

    Raises:
        ValueError: It writes none, or one that 64 bits do not hold.
    """
    try:
        value = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        value = -1
    if not (0 <= value <= LAST and text.isascii() and text.isalnum()):
        raise ValueError(f"{text!r} is no number from 0 to {LAST:#x}, decimal or with 0x")
    return value


def seconds(text: str) -> float:
    """Return the seconds that a text writes.

    Raises:
        ValueError: It writes no number, or one that nobody can wait for.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not isfinite(value) or value < 0:
        raise ValueError(f"{text!r} is no number of seconds")
    return value


def kinds(text: str) -> Cap:
    """Return the kinds of event that a text names, with commas between.

    Raises:
        ValueError: It names none, or something else.
    """
    mask = Cap(0)
    for name in text.split(","):
        if name.strip() not in KINDS:
            raise ValueError(f"{name.strip()!r} is no kind of event; there are {', '.join(KINDS)}")
        mask |= KINDS[name.strip()]
    return mask


def perm(text: str) -> Perm:
    """Return the access that a text names.

    Raises:
        ValueError: It names none.
    """
    if text.lower() not in PERMS:
        raise ValueError(f"{text!r} is no access; there are {', '.join(PERMS)}")
    return PERMS[text.lower()]


def kind_names(mask: int) -> list[str]:
    """Return the names of the kinds in a mask; bits that nobody knows yet are a number."""
    names = [name for name, cap in KINDS.items() if mask & cap]
    unknown = mask & ~int(Cap.ALL)
    return [*names, f"{unknown:#x}"] if unknown else names


def perm_name(mask: int) -> str:
    """Return the name of an access."""
    return next((name for name, one in PERMS.items() if one == mask), f"{mask:#x}")


def mapping_text(first: int, last: int, target: int, access: int, memory: Memory | None) -> str:
    """Return a mapping as people read it."""
    return f"{span(first, last)} -> {place(target, memory)} {perm_name(access)}"


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """Return ranges as people read them."""
    return " ".join("all" if pair == (0, LAST) else span(*pair) for pair in ranges)


def seconds_text(value: float) -> str:
    """Return a duration in the unit that fits it."""
    if value < 1e-3:  # noqa: PLR2004 - a millisecond
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.1f} s"
