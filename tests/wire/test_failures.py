"""Errors arrive as what they were, or as a `RemoteError`, and never break anything."""

import errno
import inspect
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw

from iommubus import errors
from iommubus.errors import (
    BadCapacity,
    BusClosed,
    Fenced,
    IommubusError,
    MemoryNameTaken,
    NameTaken,
    NoAnswer,
    OutsideRanges,
    Overlap,
    ProtocolError,
    RangeWraps,
    RemoteError,
    UnknownName,
)
from iommubus.wire.failures import CLASSES, TRAVELLERS, fields_of, to_error, to_failure
from iommubus.wire.messages.replies import Failure
from iommubus.wire.messages.values import ENTRY_LIMIT, NAME_LIMIT, TEXT_LIMIT

LOCAL: Final = {
    errors.WrongThread,
    errors.LoopThread,
    errors.PublisherClosed,
    errors.PromiseBroken,
    errors.CaseFailed,
    errors.ConformanceFailed,
    errors.AddressError,
    errors.AddressTaken,
    errors.LockTaken,
    errors.NotSocket,
    errors.CannotListen,
    errors.BadActivation,
    errors.BadCertificate,
    errors.NoCredentials,
    errors.PeerGone,
    errors.DescriptorsRefused,
    errors.TokenRefused,
    errors.UnknownSetting,
    errors.BadSetting,
    errors.ConfigUnreadable,
    errors.LeasesUnreadable,
    errors.PeerCannot,
    errors.PeerBroke,
    errors.RingBroken,
    errors.LeaseRunOut,
    errors.NotInHand,
    errors.MappingFailed,
    errors.SyncFailed,
    errors.NotifierFailed,
    errors.TraceError,
    errors.RemoteError,
    errors.Disconnected,
    errors.ConnectionLost,
    errors.Unreachable,
    errors.WrongLoop,
}
"""What does not travel as itself: it is of one process, or its parts have messages of their own."""

VALUES: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: st.integers(-(2**70), 2**70),
    str: st.text(max_size=40),
    float: st.floats(allow_nan=False),
    tuple[str, ...]: st.lists(st.text(max_size=9), max_size=4).map(tuple),
    tuple[tuple[int, int], ...]: st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 9)), max_size=4).map(
        tuple
    ),
}


def through(error: Exception) -> Exception:
    """Send an error to the other end."""
    data = msgspec.msgpack.encode(to_failure(error))
    return to_error(msgspec.msgpack.decode(data, type=Failure))


def families() -> set[type]:
    """Return the classes of errors that others derive from, and other interfaces' own."""
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, IommubusError)}
    parents = {parent for kind in kinds for parent in kind.__mro__[1:]}
    return {
        kind
        for kind in kinds
        if kind in parents - {NameTaken, errors.RuleMissing, Fenced} or issubclass(kind, errors.AbiError)
    }


def test_every_error_travels_or_is_known_not_to() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, IommubusError)}

    assert kinds - families() - LOCAL == set(CLASSES)
    assert TRAVELLERS.keys() == {kind.__name__ for kind in CLASSES} | {"OSError"}


@pytest.mark.parametrize("kind", CLASSES)
@given(data=st.data())
def test_an_error_arrives_with_its_class_and_its_fields(kind: type[IommubusError], data: st.DataObject) -> None:
    error = kind(*(data.draw(VALUES[type_]) for _, type_ in fields_of(kind)))

    again = through(error)

    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_a_class_that_adds_no_field_has_those_of_its_base() -> None:
    assert fields_of(MemoryNameTaken) == [("name", str)]
    assert repr(through(MemoryNameTaken("ram"))) == "MemoryNameTaken(name='ram')"
    assert fields_of(BusClosed) == []
    assert type(through(BusClosed())) is BusClosed


def test_a_kernel_says_by_number_that_it_has_no_room() -> None:
    again = through(OSError(errno.ENOSPC, "no space"))

    assert isinstance(again, OSError)
    assert (again.errno, again.strerror) == (errno.ENOSPC, "no space")
    assert type(through(FileExistsError(errno.EEXIST, "there"))) is FileExistsError
    assert repr(through(OSError(errno.EIO, None))) == f"OSError({errno.EIO}, '')"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (KeyError("x"), "KeyError", "'x'"),
        (OSError("just words"), "OSError", "just words"),
        (errors.WrongThread(1, 2), "WrongThread", "the bus belongs to thread 1, it was called from thread 2"),
        (RemoteError("Elsewhere", "far away"), "Elsewhere", "far away"),
    ],
)
def test_what_has_no_class_here_arrives_by_its_name_and_its_sentence(error: Exception, kind: str, text: str) -> None:
    again = through(error)

    assert isinstance(again, RemoteError)
    assert (again.kind, again.text) == (kind, text)


def test_a_class_of_the_same_name_is_another_class() -> None:
    class NameTaken(Exception):
        pass

    again = through(NameTaken("not ours"))

    assert repr(again) == "RemoteError(kind='NameTaken', text='not ours')"


def test_numbers_of_more_than_64_bits_arrive() -> None:
    assert vars(through(RangeWraps(-1, 2**64))) == {"iova": -1, "size": 2**64}
    assert vars(through(RangeWraps(2**64 - 1, -(2**63)))) == {"iova": 2**64 - 1, "size": -(2**63)}
    assert vars(through(RangeWraps(-(2**63) - 1, 2**64 - 1))) == {"iova": -(2**63) - 1, "size": 2**64 - 1}


def test_numbers_of_64_bits_are_numbers_on_the_wire() -> None:
    for number in (-(2**63), -1, 0, 2**64 - 1):
        assert to_failure(BadCapacity(number)).values == Raw(msgspec.msgpack.encode([number]))


def test_no_error_is_too_long_for_its_message() -> None:
    """A sentence, a text and a list in it are cut; what is left still names its class."""
    unknown = through(UnknownName("x" * 1000, tuple(f"space{at}" for at in range(5000))))
    assert isinstance(unknown, UnknownName)
    assert unknown.name == "x" * TEXT_LIMIT
    assert unknown.known == tuple(f"space{at}" for at in range(ENTRY_LIMIT))

    named = type("X" * 1000, (Exception,), {})("y" * 1000)
    assert repr(through(named)) == repr(RemoteError("X" * NAME_LIMIT, "y" * TEXT_LIMIT))
    assert repr(through(RemoteError("X" * 1000, "y" * 1000))) == repr(RemoteError("X" * NAME_LIMIT, "y" * TEXT_LIMIT))

    ranges = through(OutsideRanges("s", ((1, 2),) * 500, "none"))
    assert isinstance(ranges, OutsideRanges)
    assert ranges.ranges == ((1, 2),) * ENTRY_LIMIT
    assert to_failure(BadCapacity(10**300)).values == Raw(msgspec.msgpack.encode(["1" + "0" * 39]))


def test_a_field_of_a_type_that_it_should_not_have_is_told_in_words() -> None:
    error = BadCapacity(object)  # type: ignore[arg-type]

    assert to_failure(error).values == Raw(msgspec.msgpack.encode(["<class 'object'>"]))
    assert repr(through(error)) == repr(RemoteError("BadCapacity", str(error)))


def test_characters_that_have_no_utf_8_are_replaced() -> None:
    assert repr(through(Fenced("a\ud800b", "\udfff"))) == "Fenced(subscription='a?b', reason='?')"
    assert repr(through(KeyError("\ud800"))) == repr(RemoteError("KeyError", "'\\ud800'"))


def failure(kind: str, *values: object) -> Failure:
    return Failure(kind, "text", Raw(msgspec.msgpack.encode(values)))


def test_fields_that_a_newer_class_has_are_passed_over() -> None:
    assert repr(to_error(failure("Overlap", 1, 2, 3, 4, "newer", [5]))) == repr(Overlap(1, 2, 3, 4))


@pytest.mark.parametrize(
    "bad",
    [
        failure("Overlap", 1, 2, 3),
        failure("Overlap", 1, 2, 3, "four"),
        failure("NoAnswer", "smmu0", 1, None),
        failure("Overlap", 1, 2, 3, "9" * 10_000),
        Failure("Overlap", "text"),
        Failure("Overlap", "text", Raw(b"\xc1")),
        Failure("Overlap", "text", Raw(b"")),
        Failure("NameTaken", "text", Raw(b"\x91\xa1\xff")),
        Failure("NameTaken", "text", Raw(b"\x91" * 100_000 + b"\x00")),
        Failure("BusClosed", "text", Raw(b"\x91" * 100_000 + b"\x00")),
    ],
)
def test_an_error_whose_fields_cannot_be_read_is_still_an_error(bad: Failure) -> None:
    assert repr(to_error(bad)) == repr(RemoteError(bad.kind, "text"))


@given(kind=st.sampled_from(sorted(TRAVELLERS)), values=st.binary(max_size=40))
def test_any_bytes_for_fields_make_an_error(kind: str, values: bytes) -> None:
    error = to_error(Failure(kind, "text", Raw(values)))

    assert isinstance(error, (TRAVELLERS[kind][0], RemoteError))
    str(error)


def test_a_deadline_may_be_whole_seconds() -> None:
    error = to_error(failure("NoAnswer", "smmu0", 1, 2))

    assert isinstance(error, NoAnswer)
    assert str(error).endswith("within 2 s where 0x1 leads")


def test_what_broke_the_protocol_can_be_told() -> None:
    assert {kind.__name__ for kind in CLASSES if issubclass(kind, ProtocolError)} == {
        "FrameTooLarge", "BadMessage", "OutOfPlace", "VersionRefused", "FeatureRefused",
    }  # fmt: skip
