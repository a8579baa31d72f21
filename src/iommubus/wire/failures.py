"""Errors on their way to the other end, and back into the classes that they were.

Those in `TRAVELLERS` arrive as themselves, with their fields; all others as a
`RemoteError`.  So does one whose fields cannot be read: a failure that is reported
badly is still a failure.

`OSError` travels by its number, which is how a kernel says that it has no room
(ENOMEM, ENOSPC).
"""

from inspect import get_annotations
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, defstruct
from msgspec.msgpack import Decoder, Encoder

from ..errors import (
    AccessDenied,
    AlreadyIterated,
    BadCapacity,
    BadContract,
    BadHolder,
    BadMemory,
    BadMessage,
    BadName,
    BadPermission,
    BadShape,
    BadTarget,
    BusClosed,
    CapabilityRefused,
    DemandRefused,
    EmptyMask,
    EmptyRange,
    EndpointClosed,
    ExitRefused,
    FeatureRefused,
    Fenced,
    ForeignBatch,
    FrameTooLarge,
    GranuleRefused,
    InReserved,
    InvertedRange,
    IommubusError,
    KernelRefused,
    LeasesUnwritable,
    LimitReached,
    MapAlone,
    MayNotSubscribe,
    MemoryInUse,
    MemoryNameTaken,
    Misaligned,
    MustShare,
    NameTaken,
    NoAnswer,
    NoBacking,
    NotContiguous,
    NotEntered,
    NotMapped,
    NotOffered,
    NotProducer,
    NoTranslator,
    OutOfPlace,
    OutsideRanges,
    OutsideSpace,
    Overlap,
    PastMemory,
    PeerLeft,
    PeerRefused,
    RangeWraps,
    RemoteError,
    RuleMissing,
    SpaceClosed,
    Stopping,
    StopUnproven,
    Straddle,
    SubscriptionClosed,
    TooManyMappings,
    TranslatorFailed,
    UnknownCapability,
    UnknownMemory,
    UnknownName,
    VersionRefused,
    WrongMode,
)
from ..ranges import LAST
from .messages.replies import NO_VALUES, Failure
from .messages.values import ENTRY_LIMIT, NAME_LIMIT, clip_text

DIGIT_LIMIT: Final = 40
"""Most digits of a number that is no 64-bit one: 2^64 has 20, and nobody errs by more than its square."""

CLASSES: Final[tuple[type[IommubusError], ...]] = (
    EmptyRange,
    RangeWraps,
    InvertedRange,
    Misaligned,
    OutsideSpace,
    InReserved,
    BadPermission,
    BadTarget,
    BadShape,
    Overlap,
    Straddle,
    NotOffered,
    PastMemory,
    UnknownMemory,
    EmptyMask,
    MapAlone,
    UnknownCapability,
    CapabilityRefused,
    DemandRefused,
    OutsideRanges,
    BadCapacity,
    BadContract,
    BadHolder,
    GranuleRefused,
    MustShare,
    BadName,
    NameTaken,
    MemoryNameTaken,
    UnknownName,
    BadMemory,
    BusClosed,
    SpaceClosed,
    EndpointClosed,
    SubscriptionClosed,
    NotEntered,
    AlreadyIterated,
    WrongMode,
    ForeignBatch,
    MemoryInUse,
    Fenced,
    TooManyMappings,
    NotMapped,
    AccessDenied,
    NoTranslator,
    NoAnswer,
    TranslatorFailed,
    NotContiguous,
    NoBacking,
    FrameTooLarge,
    BadMessage,
    OutOfPlace,
    VersionRefused,
    FeatureRefused,
    RuleMissing,
    MayNotSubscribe,
    ExitRefused,
    LimitReached,
    NotProducer,
    Stopping,
    StopUnproven,
    LeasesUnwritable,
    PeerLeft,
    PeerRefused,
    KernelRefused,
)
"""The errors that may travel.  Not among them: those of one process alone (threads,
notifiers, traces, other interfaces), and those whose parts have messages of their own
(a failed `sync`, a failed replay)."""


def fields_of(kind: type[IommubusError]) -> list[tuple[str, Any]]:
    """Return the fields of an error class and their types, in the order in which it takes them."""
    return [
        field
        for base in reversed(kind.__mro__)
        if issubclass(base, IommubusError) and base is not IommubusError
        for field in get_annotations(base).items()
    ]


def _decoder(name: str, fields: list[tuple[str, Any]]) -> Decoder[Struct]:
    """Return what reads fields from an array, and passes over what a newer end has beyond them."""
    shape: type[Struct] = defstruct(name, fields, array_like=True)
    return Decoder(shape, strict=False)  # a long number is a string of digits


TRAVELLERS: Final[dict[str, tuple[type[Exception], Decoder[Struct]]]] = {
    **{kind.__name__: (kind, _decoder(kind.__name__, fields_of(kind))) for kind in CLASSES},
    "OSError": (OSError, _decoder("OSError", [("errno", int), ("strerror", str)])),
}
"""By the name under which it travels: the class, and what reads its fields."""

_ENCODER: Final = Encoder()


def to_failure(error: BaseException) -> Failure:
    """Return what tells the other end of an error.

    Long texts and lists in it are cut, so that it always fits its message.
    """
    if isinstance(error, RemoteError):  # it passes through, and stays what it was
        return Failure(error.kind[:NAME_LIMIT], clip_text(error.text))
    if isinstance(error, OSError) and error.errno is not None:
        return Failure("OSError", clip_text(str(error)), _values(error.errno, error.strerror or ""))
    kind = type(error).__name__
    if kind not in TRAVELLERS or TRAVELLERS[kind][0] is not type(error):
        return Failure(kind[:NAME_LIMIT], clip_text(str(error)))
    return Failure(kind, clip_text(str(error)), _values(*error.args))


def to_error(failure: Failure) -> Exception:
    """Return the error that the other end told of."""
    unknown = RemoteError(failure.kind, failure.text)
    if failure.kind not in TRAVELLERS:
        return unknown
    kind, decoder = TRAVELLERS[failure.kind]
    try:
        values = decoder.decode(failure.values)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return unknown
    return kind(*msgspec.structs.astuple(values))


def _values(*values: Any) -> Raw:
    return Raw(_ENCODER.encode([_sent(value) for value in values])) if values else NO_VALUES


def _sent(value: Any) -> Any:
    """Return what stands for the value of a field."""
    if isinstance(value, int):
        return int(value) if -(2**63) <= value <= LAST else str(value)[:DIGIT_LIMIT]
    if isinstance(value, str):
        return clip_text(value)
    if isinstance(value, tuple):
        return [_sent(part) for part in value[:ENTRY_LIMIT]]  # pyright: ignore[reportUnknownVariableType]
    return value if isinstance(value, float) else clip_text(repr(value))
