"""Errors say whose fault it is, and carry the values that people and programs act on."""

import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Final

import pytest

from iommubus import errors
from iommubus.errors import (
    AbiError,
    AccessDenied,
    AddressError,
    AddressTaken,
    AlreadyIterated,
    BadActivation,
    BadCapacity,
    BadCertificate,
    BadContract,
    BadDescriptors,
    BadField,
    BadHolder,
    BadLength,
    BadMemory,
    BadMessage,
    BadName,
    BadPermission,
    BadSetting,
    BadShape,
    BadTarget,
    BridgeError,
    BusClosed,
    CannotListen,
    CapabilityRefused,
    CaseFailed,
    ConfigError,
    ConfigUnreadable,
    ConformanceFailed,
    ConnectionLost,
    DemandRefused,
    DescriptorsRefused,
    Disconnected,
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
    LeaseRunOut,
    LeasesUnreadable,
    LeasesUnwritable,
    LimitReached,
    ListenError,
    LockTaken,
    LoopThread,
    MapAlone,
    MappingError,
    MappingFailed,
    MayNotSubscribe,
    MemoryInUse,
    MemoryNameTaken,
    Misaligned,
    MustShare,
    NameTaken,
    NoAnswer,
    NoBacking,
    NoCredentials,
    NotContiguous,
    NotEntered,
    NotifierFailed,
    NotInHand,
    NotMapped,
    NotOffered,
    NotProducer,
    NoTranslator,
    NotSocket,
    OutOfPlace,
    OutsideRanges,
    OutsideSpace,
    Overlap,
    PastMemory,
    PeerBroke,
    PeerCannot,
    PeerError,
    PeerGone,
    PeerLeft,
    PeerRefused,
    PromiseBroken,
    ProtocolError,
    PublisherClosed,
    RangeWraps,
    RemoteError,
    RingBroken,
    RuleMissing,
    SpaceClosed,
    StateError,
    Stopping,
    StopUnproven,
    Straddle,
    SubscribeError,
    SubscriptionClosed,
    SyncFailed,
    TokenRefused,
    TooLong,
    TooManyMappings,
    TraceError,
    TranslationFault,
    TranslatorFailed,
    UnknownCapability,
    UnknownMemory,
    UnknownName,
    UnknownSetting,
    Unreachable,
    VersionRefused,
    WrongLoop,
    WrongMode,
    WrongThread,
    span,
)

FAMILIES: Final[dict[type[IommubusError], tuple[type[Exception], ...]]] = {
    IommubusError: (Exception,),
    MappingError: (IommubusError, ValueError),
    SubscribeError: (IommubusError, ValueError),
    StateError: (IommubusError, RuntimeError),
    TranslationFault: (IommubusError,),
    AbiError: (IommubusError, ValueError),
    ProtocolError: (IommubusError,),
    ListenError: (IommubusError,),
    PeerError: (IommubusError,),
    BridgeError: (IommubusError,),
    ConfigError: (IommubusError, ValueError),
}
"""What each family is, besides itself."""

EXAMPLES: Final[list[tuple[IommubusError, tuple[type[Exception], ...], str]]] = [
    (EmptyRange(0x1000, 0), (MappingError,), "a range has at least one byte, got iova 0x1000 size 0x0"),
    (RangeWraps(0xFFF0, 2**64), (MappingError,), "iova 0xfff0 size 0x10000000000000000 leaves 0..2^64-1"),
    (InvertedRange(0x2000, 0x1FFF), (MappingError,), "first 0x2000 is greater than last 0x1fff"),
    (
        Misaligned("target", 0x1234, 0x1000),
        (MappingError,),
        "target 0x1234 is no multiple of the granule 0x1000",
    ),
    (
        OutsideSpace(0xF000, 0x10FFF, 0xFFFF),
        (MappingError,),
        "0xf000..0x10fff ends behind 0xffff, the last address of the space",
    ),
    (
        InReserved(0xFEE00000, 0xFEE00FFF, 0xFEE00000, 0xFEEFFFFF),
        (MappingError,),
        "0xfee00000..0xfee00fff touches the reserved range 0xfee00000..0xfeefffff",
    ),
    (BadPermission(0x14), (MappingError,), "a mapping allows R (1), W (2) or both (3), got 0x14"),
    (
        BadTarget(0xFFFFFFFFFFFFF000, 0x2000),
        (MappingError,),
        "target 0xfffffffffffff000 size 0x2000 leaves 0..2^64-1",
    ),
    (
        BadShape(0x1000, 0xABC, "it is odd"),
        (MappingError,),
        "a space with granule 0x1000 and last address 0xabc cannot be: it is odd",
    ),
    (
        Overlap(0x1000, 0x1FFF, 0x1800, 0x27FF),
        (MappingError,),
        "0x1000..0x1fff overlaps the live mapping 0x1800..0x27ff",
    ),
    (Straddle(0x1000, 0x1FFF, 0x1800, 0x27FF), (MappingError,), "0x1000..0x1fff cuts the mapping 0x1800..0x27ff"),
    (
        PastMemory(0x3000, 0x2000, "ram@1", 0x4000),
        (MappingError,),
        "target 0x3000 size 0x2000 ends behind ram@1, of 0x4000 bytes",
    ),
    (
        UnknownMemory("ram", 1, 2),
        (MappingError, LookupError),
        "the bus has no memory ram@1 that is this one; it has ram@2",
    ),
    (
        UnknownMemory("ram", 1, 0),
        (MappingError, LookupError),
        "the bus has no memory ram@1 that is this one; it has none of this name",
    ),
    (
        BadMemory("ram", 0x2000, "its file has 0x1000"),
        (ValueError,),
        "a memory 'ram' of 0x2000 bytes cannot be: its file has 0x1000",
    ),
    (MemoryNameTaken("ram"), (NameTaken, ValueError), "a memory named 'ram' exists already"),
    (
        MemoryInUse("ram@1", "vtd0", 0x1000, 0x1FFF),
        (StateError,),
        "ram@1 is in use: the space 'vtd0' maps 0x1000..0x1fff to it",
    ),
    (
        NotContiguous(0x1000, 0x4FFF, 0x2FFF),
        (TranslationFault,),
        "0x1000..0x4fff leads to one piece of memory only up to 0x2fff",
    ),
    (
        NoBacking(0x1234, 0xABC234),
        (TranslationFault,),
        "0x1234 leads to the bare address 0xabc234, not into a memory",
    ),
    (NotOffered("MAP"), (MappingError,), "the space does not offer MAP"),
    (EmptyMask(0), (SubscribeError,), "the capability mask 0x0 asks for nothing"),
    (
        MapAlone(0x12),
        (SubscribeError,),
        "the capability mask 0x12 has MAP without UNMAP: who is never told to let go may not hold",
    ),
    (UnknownCapability(0x1B, 7), (SubscribeError,), "the capability mask 0x1b has unknown bits 0x18"),
    (
        CapabilityRefused("vtd0", 0x13, 0x15, "it has no caching mode"),
        (SubscribeError,),
        "vtd0 offers the mask 0x15, not 0x13: it has no caching mode",
    ),
    (
        DemandRefused("vtd0", 0x11, 0x13, "snooping is on"),
        (SubscribeError,),
        "the producer of vtd0 refused the demand 0x13 (it was 0x11): snooping is on",
    ),
    (
        OutsideRanges("vtd0", ((0x10, 0x1F), (0x1A, 0x2F)), "two overlap"),
        (SubscribeError,),
        "the ranges 0x10..0x1f, 0x1a..0x2f cannot be subscribed on vtd0: two overlap",
    ),
    (
        OutsideRanges("vtd0", (), "there is none"),
        (SubscribeError,),
        "the ranges (none) cannot be subscribed on vtd0: there is none",
    ),
    (BadCapacity(-3), (SubscribeError,), "a mailbox holds at least one event, got a capacity of -3"),
    (
        BadContract("granule", 6, "it is no power of two"),
        (SubscribeError,),
        "a subscription cannot have granule with 0x6: it is no power of two",
    ),
    (
        BadHolder(4711, "with stops='lease' nobody waits for the end of one"),
        (SubscribeError,),
        "a subscription cannot have process 4711 for its holder: with stops='lease' nobody waits for the end of one",
    ),
    (
        GranuleRefused("vtd0", 0x4000, 0x1000),
        (SubscribeError,),
        "vtd0 maps as little as 0x1000, who copies it cannot need 0x4000",
    ),
    (
        MustShare("vfio", "00:03.0", "a", "00:04.0", "b"),
        (SubscribeError,),
        "vfio needs its endpoints in one space, but 00:03.0 in a contradicts 00:04.0 in b",
    ),
    (
        BadName("vtd*"),
        (ValueError,),
        "'vtd*' is no name for a space or an endpoint: it is empty or has one of the pattern characters *?[]",
    ),
    (NameTaken("vtd0"), (ValueError,), "a space or an endpoint named 'vtd0' exists already"),
    (UnknownName("vtd9", ("vtd0", "vtd1")), (LookupError,), "no space is named 'vtd9'; there are vtd0, vtd1"),
    (UnknownName("vtd9", ()), (LookupError,), "no space is named 'vtd9'; there are none"),
    (BusClosed(), (StateError,), "the bus is not open; use it inside `async with Bus() as bus`"),
    (SpaceClosed("vtd0"), (StateError,), "the space 'vtd0' is closed"),
    (EndpointClosed("00:03.0"), (StateError,), "the endpoint '00:03.0' is closed"),
    (SubscriptionClosed("vfio"), (StateError,), "the subscription 'vfio' is closed"),
    (
        NotEntered("vfio"),
        (StateError,),
        "the subscription 'vfio' is not registered yet; enter it with `async with`",
    ),
    (
        AlreadyIterated("vfio"),
        (StateError,),
        "the subscription 'vfio' is being iterated already; it has one consumer",
    ),
    (WrongThread(4711, 4712), (StateError,), "the bus belongs to thread 4711, it was called from thread 4712"),
    (
        PublisherClosed(),
        (StateError,),
        "the publisher for threads is not open; threads can use it inside `async with bus.in_thread()`",
    ),
    (
        LoopThread(4711),
        (StateError,),
        "thread 4711 runs the bus and would wait for itself; call the space or the bus directly there",
    ),
    (
        WrongMode("vfio", "next", "it has no batches"),
        (StateError,),
        "the subscription 'vfio' acknowledges by 'next': it has no batches",
    ),
    (
        ForeignBatch("vfio", 12),
        (StateError,),
        "batch 12 was handed over by another subscription than 'vfio'",
    ),
    (
        NotInHand("vfio", "vtd0#3 UNMAP 0x0..0xfff"),
        (StateError,),
        "vtd0#3 UNMAP 0x0..0xfff is not in the hand of the subscription 'vfio', so it cannot fail any more",
    ),
    (Fenced("vfio", "it crashed"), (IommubusError,), "the subscription 'vfio' is fenced: it crashed"),
    (MappingFailed(("0x10 failed", "0x20 failed")), (IommubusError,), "0x10 failed; 0x20 failed"),
    (
        TooManyMappings("vfio", 65535),
        (IommubusError,),
        "the subscription 'vfio' can hold 65535 mappings and has no room for another",
    ),
    (
        SyncFailed(("vfio is late", "vhost is late"), ("0x30 failed",)),
        (IommubusError,),
        "sync failed: vfio is late; vhost is late; 0x30 failed",
    ),
    (NotMapped(0xABC), (TranslationFault,), "nothing is mapped at 0xabc"),
    (AccessDenied(0xABC, 0x12, 0x11), (TranslationFault,), "0xabc allows 0x11, the access needs 0x12"),
    (NoTranslator("smmu0", 0xABC), (TranslationFault,), "smmu0 keeps no table, so 0xabc cannot be translated"),
    (BadLength("vhost_msg", 71, 72, 72), (AbiError,), "vhost_msg has 72 bytes, got 71"),
    (BadLength("vhost_iotlb_msg", 33, 26, 32), (AbiError,), "vhost_iotlb_msg has 26 to 32 bytes, got 33"),
    (
        TooLong("vhost-user message", 9000, 4096),
        (AbiError,),
        "vhost-user message announces 9000 bytes, at most 4096 are taken",
    ),
    (
        BadField("vhost_iotlb_msg", "perm", 0x1A, "0x0..0x3"),
        (AbiError,),
        "perm of vhost_iotlb_msg is 0x1a, allowed: 0x0..0x3",
    ),
    (
        BadField("VFIO_USER_VERSION", "version data", b"\x7b\x00", "JSON"),
        (AbiError,),
        "version data of VFIO_USER_VERSION is 7b 00, allowed: JSON",
    ),
    (BadDescriptors("SET_LOG_FD", 2, 1, 1), (AbiError,), "SET_LOG_FD comes with 1 descriptors, got 2"),
    (PeerCannot("QEMU", "REPLY_ACK", "acks"), (BridgeError,), "QEMU has no REPLY_ACK: acks"),
    (PeerBroke("QEMU", "a bad header"), (BridgeError,), "QEMU broke its protocol: a bad header"),
    (PeerLeft("QEMU", "it closed the connection"), (BridgeError,), "QEMU is gone: it closed the connection"),
    (PeerRefused("DPDK", "INVALIDATE 0x0..0xfff", 1000), (BridgeError,), "DPDK refused INVALIDATE 0x0..0xfff: 1000"),
    (
        KernelRefused("MAP_DMA 0x0..0xfff", 28, "no more entries"),
        (BridgeError,),
        "MAP_DMA 0x0..0xfff: ENOSPC, No space left on device (no more entries)",
    ),
    (KernelRefused("MAP_DMA 0x0..0xfff", 17, ""), (BridgeError,), "MAP_DMA 0x0..0xfff: EEXIST, File exists"),
    (RingBroken(1, "descriptor 9 does not exist"), (BridgeError,), "ring 1 is broken: descriptor 9 does not exist"),
    (BadDescriptors("DMA_MAP", 2, 0, 1), (AbiError,), "DMA_MAP comes with 0 to 1 descriptors, got 2"),
    (
        NoAnswer("smmu0", 0xABC, 0.5),
        (TranslationFault,),
        "the producer of smmu0 did not say within 0.5 s where 0xabc leads",
    ),
    (
        TranslatorFailed("smmu0", 0xABC, "it raised"),
        (TranslationFault,),
        "the producer of smmu0 could not say where 0xabc leads: it raised",
    ),
    (FrameTooLarge(4097, 4096), (ProtocolError,), "a frame of 4097 bytes, at most 4096 are taken"),
    (
        BadMessage("Publish", "rows[3]", "0x1fff", "last is less than first"),
        (ProtocolError,),
        "rows[3] of Publish is 0x1fff: last is less than first",
    ),
    (
        OutOfPlace("Deliver", "client", "ready"),
        (ProtocolError,),
        "the client may not say Deliver while the connection is ready",
    ),
    (
        VersionRefused(3, 5, 1, 2),
        (ProtocolError,),
        "the other end speaks versions 3 to 5 of the protocol, this one 1 to 2",
    ),
    (
        FeatureRefused(0x18, 0x11),
        (ProtocolError,),
        "the features 0x18 are required, 0x11 are offered: 0x8 are missing",
    ),
    (RemoteError("KeyError", "'ram'"), (IommubusError,), "KeyError: 'ram'"),
    (
        TraceError("guest.log", 17, "vtd_x 0xz", "bad number"),
        (ValueError,),
        "guest.log:17: bad number: 'vtd_x 0xz'",
    ),
    (
        PromiseBroken("a shadower holds what is mapped", ["0x0..0xfff", "0x2000..0x2fff"], []),
        (AssertionError,),
        "a shadower holds what is mapped: expected 0x0..0xfff, 0x2000..0x2fff, found nothing",
    ),
    (
        PromiseBroken("it goes on", wanted=False, found=True),
        (AssertionError,),
        "it goes on: expected False, found True",
    ),
    (
        CaseFailed("it_follows", "Law 1: nothing is in use.", "it did not end within 1 s"),
        (IommubusError,),
        "it_follows: it did not end within 1 s [Law 1: nothing is in use.]",
    ),
    (AddressError("udp:x:1", "it is no form"), (ValueError,), "'udp:x:1' cannot be used: it is no form"),
    (
        AddressTaken("/run/b", 7),
        (ListenError,),
        "process 7 answers at /run/b; stop that first, or listen elsewhere",
    ),
    (
        AddressTaken("/run/b", 0),
        (ListenError,),
        "somebody answers at /run/b; stop that first, or listen elsewhere",
    ),
    (
        LockTaken("/run/b.lock", 7),
        (ListenError,),
        "process 7 holds the lock /run/b.lock; two daemons cannot share what it guards",
    ),
    (
        LockTaken("/run/b.lock", 0),
        (ListenError,),
        "another process holds the lock /run/b.lock; two daemons cannot share what it guards",
    ),
    (NotSocket("/run/b"), (ListenError,), "/run/b is there and is no socket; it was left as it is"),
    (CannotListen("tls:a:1", "it is taken"), (ListenError,), "cannot listen on tls:a:1: it is taken"),
    (
        BadActivation("there are 2"),
        (ListenError,),
        "the service manager handed over sockets that cannot be used: there are 2",
    ),
    (BadCertificate("/etc/c.pem", "no PEM"), (ListenError,), "/etc/c.pem cannot be loaded: no PEM"),
    (NoCredentials("it hides"), (PeerError,), "it cannot be known who the peer is: it hides"),
    (PeerGone(7), (PeerError,), "process 7, which connected, has ended"),
    (DescriptorsRefused("too many"), (PeerError,), "a message with descriptors was refused: too many"),
    (TokenRefused(), (PeerError,), "the token is none that was given to this peer and not used yet"),
    (
        UnknownSetting("a.toml", "limits.frames", "limits.frame"),
        (ConfigError,),
        "a.toml: there is no setting limits.frames; did you mean limits.frame?",
    ),
    (UnknownSetting("a.toml", "x", ""), (ConfigError,), "a.toml: there is no setting x"),
    (
        BadSetting("a.toml", "log.format", "'xml'", "'json' or 'text'"),
        (ConfigError,),
        "a.toml: log.format is 'xml', accepted: 'json' or 'text'",
    ),
    (ConfigUnreadable("a.toml", "no TOML"), (ConfigError,), "a.toml cannot be read: no TOML"),
    (
        RuleMissing("uid 7", "publish", "vtd0", 'uid = 7, publish = ["vtd0"]'),
        (IommubusError,),
        "uid 7 may not publish 'vtd0': it would take the rule uid = 7, publish = [\"vtd0\"]",
    ),
    (
        MayNotSubscribe("uid 7", "subscribe", "vtd0", 'uid = 7, subscribe = ["vtd0"]'),
        (RuleMissing, SubscribeError),
        "uid 7 may not subscribe 'vtd0': it would take the rule uid = 7, subscribe = [\"vtd0\"]",
    ),
    (
        ExitRefused("vfio#1", "it came over TCP"),
        (SubscribeError,),
        "vfio#1 cannot be proven stopped by the end of its process: it came over TCP",
    ),
    (
        ConnectionLost("qemu", "it said nothing for 10 s"),
        (IommubusError,),
        "the client 'qemu' is gone: it said nothing for 10 s",
    ),
    (
        Disconnected("unix:/run/bus.sock", "nobody listens"),
        (IommubusError,),
        "there is no connection to the daemon at unix:/run/bus.sock: nobody listens",
    ),
    (Unreachable(0x1000, "no daemon"), (TranslationFault,), "nobody can be asked where 0x1000 leads: no daemon"),
    (
        LeaseRunOut("vfio#1", "the daemon is silent"),
        (Fenced,),
        "the lease of the subscription 'vfio#1' has run out: the daemon is silent",
    ),
    (NotProducer("vtd0"), (StateError,), "'vtd0' is another producer's, who alone can change it"),
    (
        WrongLoop(),
        (StateError,),
        "a connection to a daemon needs asyncio, or uvloop; this is another event loop",
    ),
    (
        LimitReached("limits.spaces", 256),
        (IommubusError,),
        "the daemon's setting limits.spaces allows 256, and no more",
    ),
    (Stopping("SIGTERM"), (IommubusError,), "the daemon is about to stop: SIGTERM"),
    (
        StopUnproven("vfio", 4711, "it has no on_fence"),
        (IommubusError,),
        "vfio is not proven stopped before process 4711 has ended: it has no on_fence",
    ),
    (
        StopUnproven("vfio", 0, "it has no on_fence"),
        (IommubusError,),
        "vfio is not proven stopped before its process has ended: it has no on_fence",
    ),
    (
        LeasesUnreadable("/run/l", "it is cut"),
        (IommubusError,),
        (
            "/run/l cannot be read: it is cut. It says who may still use what an earlier daemon handed out, "
            "so nothing is served without it. When all subscribers of that daemon have ended, delete the file and "
            "start again; a reboot ends them too"
        ),
    ),
    (
        LeasesUnwritable("/run/l", "it is full"),
        (IommubusError,),
        "/run/l cannot be written: it is full; nothing was granted",
    ),
]
"""Of every error that can be raised: one, its family, and its sentence."""

NAMES: Final = [f"{type(error).__name__}-{at}" for at, (error, _, _) in enumerate(EXAMPLES)]


def error_classes() -> Iterator[type[Exception]]:
    """Yield every public exception of the module."""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception) and not name.startswith("_"):
            assert value.__module__.startswith(f"{errors.__name__}.")
            yield value


def tree() -> Iterator[tuple[int, str]]:
    """Yield each class that the module's docstring names, with its depth there."""
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        if line.lstrip().startswith("*"):
            listed = line.partition(" -- ")[0]
        elif line.startswith(" ") and "also" in line:
            listed = line  # a list of names that goes on
        else:
            continue
        for name in re.findall(r"`(\w+)`", re.sub(r"\(also [^)]*\)", "", listed)):
            yield depth, name


@pytest.mark.parametrize(("error", "family", "message"), EXAMPLES, ids=NAMES)
def test_a_message_says_the_values(error: IommubusError, family: tuple[type[Exception], ...], message: str) -> None:
    """Every error is one of its family, and its sentence has its values: addresses and masks in hexadecimal."""
    assert isinstance(error, (IommubusError, *family))
    assert all(isinstance(error, base) for base in family)
    assert str(error) == message


@pytest.mark.parametrize(("error", "family", "message"), EXAMPLES, ids=NAMES)
def test_an_error_can_be_sent_to_another_process(
    error: IommubusError, family: tuple[type[Exception], ...], message: str
) -> None:
    """A pickled error comes back with its class, its values and its sentence."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301

    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == message
    assert isinstance(again, family)


def test_every_error_has_an_example() -> None:
    """Whatever can be raised stands in the table above, or is a family, or a group."""
    shown = {type(error) for error, _, _ in EXAMPLES}

    assert set(error_classes()) == shown | FAMILIES.keys() | {NotifierFailed, ConformanceFailed}


def test_leaves_are_found_however_deep_they_are() -> None:
    one, other = PeerLeft("the server", "it closed the connection"), BadLength("a message", 1, 2, 2)

    assert errors.leaves(one) == [one]
    assert errors.leaves(BaseExceptionGroup("", [BaseExceptionGroup("", [other]), one])) == [other, one]


def test_families_stay_apart() -> None:
    """An error is of one family only, so that `except` tells whose fault it was."""
    families = FAMILIES.keys() - {IommubusError}

    for error, _, _ in EXAMPLES:
        assert sum(isinstance(error, family) for family in families) <= 1
    for family, bases in FAMILIES.items():
        assert all(issubclass(family, base) for base in bases)


def test_errors_are_themselves_only() -> None:
    """Two errors with equal values are two errors: they can be keys, and are found by identity."""
    one, other = Overlap(1, 2, 3, 4), Overlap(1, 2, 3, 4)

    assert one != other
    assert len({one, other}) == 2


def test_the_tree_in_the_docstring_names_every_class() -> None:
    """Readers find each class once in the tree, below the family that it belongs to."""
    found: list[str] = []
    path: dict[int, type[Exception]] = {}
    for depth, name in tree():
        error = getattr(errors, name)
        found.append(name)
        path[depth] = error
        assert not depth or issubclass(error, path[0])
        if depth == 2:
            assert issubclass(error, path[1])

    assert sorted(found) == sorted(error.__name__ for error in error_classes())


def test_failed_notifiers_are_a_group_of_their_own_kind() -> None:
    """What is split off a group of failed notifiers can still be caught as one of ours."""
    causes = [ValueError("one"), KeyError("two"), ValueError("three")]
    failed = NotifierFailed("3 notifiers raised", causes)

    values, rest = failed.split(ValueError)

    assert isinstance(failed, IommubusError)
    assert isinstance(failed, ExceptionGroup)
    assert isinstance(values, NotifierFailed)
    assert isinstance(rest, NotifierFailed)
    assert values.message == "3 notifiers raised"
    assert values.exceptions == (causes[0], causes[2])
    assert rest.exceptions == (causes[1],)


def test_failed_notifiers_can_be_sent_to_another_process() -> None:
    """A pickled group comes back with its message and what it is made of."""
    again = pickle.loads(pickle.dumps(NotifierFailed("1 notifier raised", [ValueError("one")])))  # noqa: S301

    assert type(again) is NotifierFailed
    assert str(again) == "1 notifier raised (1 sub-exception)"
    assert list(map(repr, again.exceptions)) == ["ValueError('one')"]


def test_a_failed_conformance_names_its_cases() -> None:
    """All that failed is said at once, and what is split off can be caught as one of ours."""
    cases = [CaseFailed(name, f"Law {name}.", "reason") for name in ("a", "b")]
    failed = ConformanceFailed("2 of 3 cases for a bus failed", cases)

    first, rest = failed.split(lambda one: isinstance(one, CaseFailed) and one.case == "a")

    assert isinstance(failed, IommubusError)
    assert str(failed) == "2 of 3 cases for a bus failed; a: reason [Law a.]; b: reason [Law b.]"
    assert failed.cases == ("a", "b")
    assert isinstance(first, ConformanceFailed)
    assert isinstance(rest, ConformanceFailed)
    assert (first.cases, rest.cases) == (("a",), ("b",))


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [(0, 0, "0x0..0x0"), (0x1000, 0x1FFF, "0x1000..0x1fff"), (0, 2**64 - 1, "0x0..0xffffffffffffffff")],
)
def test_a_range_is_written_with_both_ends(first: int, last: int, text: str) -> None:
    """Ranges are printed in hexadecimal, both ends inclusive."""
    assert span(first, last) == text


def test_fields_are_given_in_order_or_by_name() -> None:
    """However an error is made, it says and pickles the same."""
    by_name = EmptyRange(0x1000, size=0)

    assert repr(by_name) == "EmptyRange(iova=4096, size=0)" == repr(EmptyRange(iova=0x1000, size=0))
    assert by_name.args == (0x1000, 0)
    assert repr(pickle.loads(pickle.dumps(by_name))) == repr(by_name)  # noqa: S301


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1,), {}), ((1, 2, 3), {}), ((1, 2), {"size": 3}), ((1,), {"length": 2})]
)
def test_an_error_takes_its_fields_and_nothing_else(values: tuple[int, ...], named: dict[str, int]) -> None:
    """A mistake in raising is a mistake at once, not a message with a hole in it."""
    make: type[Exception] = EmptyRange

    with pytest.raises(TypeError, match="EmptyRange takes iova, size"):
        make(*values, **named)
