"""DMA_READ and DMA_WRITE: a server that cannot map the memory that it was given asks for its bytes.

Source: QEMU ``docs/interop/vfio-user.rst``, "Read and Write Operations".
"""

from collections.abc import Callable, Iterator
from errno import EFAULT, EINVAL, ENOTSUP
from typing import Final

from ...abi.vfio_user import DMA_ACCESS, Command, DmaAccess
from ...caps import Perm
from ...errors import AbiError, BadField, BadLength, BadMemory, Fenced, StateError, UnknownMemory
from ...events import Memory
from ...mapping import Mapping
from ...table import Table

View = Callable[[Memory], memoryview]
"""Returns the bytes of a memory, or raises one of `UNREACHED`."""

UNREACHED: Final = (LookupError, PermissionError, BadMemory, UnknownMemory, Fenced, StateError)
"""Why an access leads nowhere: nothing is mapped there, or not for that; or the bytes of its memory are not here,
it was removed, or nothing may be used any more."""

PIECES: Final = 4096
"""Mappings that one access may lie across: a page each, and 16 times the data that a server asks for by default."""


def serve(command: int, payload: bytes, held: Table, view: View, max_data: int) -> bytes | int:
    """Do what a server asks for.

    Args:
        command: What it asks for.
        payload: What came with it.
        held: What it may reach.
        view: Gives the bytes of a memory.
        max_data: Bytes that it may ask for at once.

    Returns:
        What the answer carries, or an error number.
    """
    if command not in {Command.DMA_READ, Command.DMA_WRITE}:
        return ENOTSUP
    data = payload[DMA_ACCESS.size :]
    try:
        access = DMA_ACCESS.decode(payload[: DMA_ACCESS.size])
        _check(access, len(data), writes=command == Command.DMA_WRITE, max_data=max_data)
        if command == Command.DMA_READ:
            return payload + b"".join(_reached(access, held, view, Perm.R))
        return _write(access, data, held, view)
    except AbiError:
        return EINVAL
    except UNREACHED:
        return EFAULT


def _check(access: DmaAccess, given: int, *, writes: bool, max_data: int) -> None:
    if access.count > max_data:
        raise BadField(DMA_ACCESS.name, "count", access.count, f"0x1..{max_data:#x}")
    wanted = access.count if writes else 0
    if given != wanted:
        raise BadLength(f"data of {DMA_ACCESS.name}", given, wanted, wanted)


def _write(access: DmaAccess, data: bytes, held: Table, view: View) -> bytes:
    parts = list(_reached(access, held, view, Perm.W))  # first: all of it is written, or nothing
    if any(part.readonly for part in parts):
        raise PermissionError("its memory cannot be written")
    at = 0
    for part in parts:
        part[:] = data[at : at + len(part)]
        at += len(part)
    return DMA_ACCESS.encode(access)


def _reached(access: DmaAccess, held: Table, view: View, perm: Perm) -> Iterator[memoryview]:
    """Yield the bytes that an access leads to.

    Raises:
        LookupError: Something there is not mapped, or leads to a bare address.
        PermissionError: It may not be accessed like that.
    """
    first, last = access.address, access.address + access.count - 1
    for mapping in _without_gap(held.walk(first, last, PIECES), first, last):
        piece = mapping.clip(first, last)
        if piece.memory is None:
            raise LookupError(piece)
        if not piece.perm & perm:
            raise PermissionError(piece)
        yield view(piece.memory)[piece.target : piece.target + piece.size]


def _without_gap(found: list[Mapping], first: int, last: int) -> list[Mapping]:
    for mapping in found:
        if mapping.first > first:
            raise LookupError(first)
        first = mapping.last + 1
    if first <= last:
        raise LookupError(first)
    return found
