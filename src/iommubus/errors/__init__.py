"""Every exception iommubus raises on purpose, by whose fault it is.

* `IommubusError`
    * `MappingError` (also `ValueError`) -- the *producer* asked for something a
      page table cannot hold; the space is unchanged and nobody was told
        * `EmptyRange`, `RangeWraps`, `InvertedRange`
        * `Misaligned`, `OutsideSpace`, `InReserved`, `BadPermission`, `BadTarget`
        * `Overlap`, `Straddle`, `NotOffered`, `BadShape`
        * `PastMemory`, `UnknownMemory` (also `LookupError`)
    * `SubscribeError` (also `ValueError`) -- the *consumer* asked for what it
      cannot have; it is not registered
        * `EmptyMask`, `MapAlone`, `UnknownCapability`
        * `CapabilityRefused`, `DemandRefused`, `OutsideRanges`, `BadCapacity`
        * `BadContract`, `BadHolder`, `GranuleRefused`, `MustShare`
        * `ExitRefused`, `MayNotSubscribe` (also `RuleMissing`) -- in a daemon
    * `BadName`, `NameTaken`, `MemoryNameTaken` (also `ValueError`),
      `UnknownName` (also `LookupError`) -- a name is wrong
    * `BadMemory` (also `ValueError`) -- a *descriptor* or a size that can be no
      memory
    * `StateError` (also `RuntimeError`) -- right call, wrong moment or place
        * `BusClosed`, `SpaceClosed`, `EndpointClosed`, `SubscriptionClosed`
        * `NotEntered`
        * `AlreadyIterated`, `WrongThread`, `WrongMode`, `ForeignBatch`, `NotInHand`
        * `MemoryInUse`
        * `PublisherClosed`, `LoopThread`
        * `NotProducer`, `WrongLoop`
    * `Fenced` -- this subscription was fenced; what it holds must not be used
        * `LeaseRunOut` -- for now: the daemon is away
    * `MappingFailed` -- this subscriber could not apply part of its first replay
    * `TooManyMappings` -- this *subscriber* said that it has room for no more
    * `SyncFailed` -- *subscribers* did not finish in time, or could not
    * `TranslationFault` -- the *device* used an address it may not use
        * `NotMapped`, `AccessDenied`, `NoTranslator`
        * `NoAnswer`, `TranslatorFailed` -- the *producer* gave none, or a wrong one
        * `NotContiguous`, `NoBacking`
        * `Unreachable` -- the daemon is away
    * `NotifierFailed` -- the *producer's own* callbacks raised
    * `AbiError` (also `ValueError`) -- a *peer* sent bytes, or a caller made a
      value, that another system's interface does not have
        * `BadLength`, `TooLong`, `BadField`, `BadDescriptors`
    * `ProtocolError` -- the *peer* of a connection broke the wire protocol
        * `FrameTooLarge`, `BadMessage`, `OutOfPlace`
        * `VersionRefused`, `FeatureRefused`
    * `RemoteError` -- the *other end* of a connection failed, in a way that has
      no class here
    * `TraceError` (also `ValueError`) -- a *recorded trace* is damaged
    * `ConformanceFailed`, `CaseFailed`, `PromiseBroken` (also `AssertionError`) --
      an *implementation under test* is not as it has to be: all in all, in one
      case, at one place
    * `AddressError` (also `ValueError`) -- a *user* wrote an address that cannot be
    * `ListenError` -- the *host* has no place for a daemon there
        * `AddressTaken`, `LockTaken`, `NotSocket`, `CannotListen`
        * `BadActivation`, `BadCertificate`
    * `PeerError` -- who is at the other end cannot be known, or sent what is
      refused
        * `NoCredentials`, `PeerGone`
        * `DescriptorsRefused`, `TokenRefused`
    * `ConfigError` (also `ValueError`) -- the *administrator* wrote a setting
      that cannot be
        * `UnknownSetting`, `BadSetting`, `ConfigUnreadable`
    * `RuleMissing` -- this *peer* may not do that: no rule allows it
    * `StopUnproven` -- this *subscriber* was fenced, and has no way to be stopped
    * `LimitReached` -- this *peer* wants more than the daemon gives to one
    * `BridgeError` -- another project's program, or the *kernel*, at the other end of a bridge
        * `PeerCannot`, `PeerBroke`, `PeerLeft`, `PeerRefused`
        * `KernelRefused`
        * `RingBroken` -- the *guest* has a driver that did
    * `Disconnected`, `Stopping` -- the *daemon* is away, or about to go
    * `ConnectionLost` -- the *client* whom the daemon asked is gone
    * `LeasesUnreadable`, `LeasesUnwritable` -- the *disk* does not give, or
      take, the record of who may still hold something

Catch `IommubusError` to catch them all.  Cancellation is never wrapped.
Addresses are printed in hexadecimal, ranges with both ends inclusive.
"""

from .base import (
    IommubusError as IommubusError,
    leaves as leaves,
    span as span,
)
from .bridges import (
    BridgeError as BridgeError,
    KernelRefused as KernelRefused,
    PeerBroke as PeerBroke,
    PeerCannot as PeerCannot,
    PeerLeft as PeerLeft,
    PeerRefused as PeerRefused,
    RingBroken as RingBroken,
)
from .daemon import (
    BadSetting as BadSetting,
    ConfigError as ConfigError,
    ConfigUnreadable as ConfigUnreadable,
    LeasesUnreadable as LeasesUnreadable,
    LeasesUnwritable as LeasesUnwritable,
    RuleMissing as RuleMissing,
    UnknownSetting as UnknownSetting,
)
from .device import (
    AccessDenied as AccessDenied,
    NoAnswer as NoAnswer,
    NoBacking as NoBacking,
    NotContiguous as NotContiguous,
    NotMapped as NotMapped,
    NoTranslator as NoTranslator,
    TranslationFault as TranslationFault,
    TranslatorFailed as TranslatorFailed,
)
from .foreign import (
    AbiError as AbiError,
    BadDescriptors as BadDescriptors,
    BadField as BadField,
    BadLength as BadLength,
    TooLong as TooLong,
    TraceError as TraceError,
)
from .hosts import (
    AddressError as AddressError,
    AddressTaken as AddressTaken,
    BadActivation as BadActivation,
    BadCertificate as BadCertificate,
    CannotListen as CannotListen,
    DescriptorsRefused as DescriptorsRefused,
    ListenError as ListenError,
    LockTaken as LockTaken,
    NoCredentials as NoCredentials,
    NotSocket as NotSocket,
    PeerError as PeerError,
    PeerGone as PeerGone,
    TokenRefused as TokenRefused,
)
from .mapping import (
    BadPermission as BadPermission,
    BadShape as BadShape,
    BadTarget as BadTarget,
    EmptyRange as EmptyRange,
    InReserved as InReserved,
    InvertedRange as InvertedRange,
    MappingError as MappingError,
    Misaligned as Misaligned,
    NotOffered as NotOffered,
    OutsideSpace as OutsideSpace,
    Overlap as Overlap,
    PastMemory as PastMemory,
    RangeWraps as RangeWraps,
    Straddle as Straddle,
    UnknownMemory as UnknownMemory,
)
from .moments import (
    AlreadyIterated as AlreadyIterated,
    BusClosed as BusClosed,
    EndpointClosed as EndpointClosed,
    ForeignBatch as ForeignBatch,
    LoopThread as LoopThread,
    MemoryInUse as MemoryInUse,
    NotEntered as NotEntered,
    NotInHand as NotInHand,
    PublisherClosed as PublisherClosed,
    SpaceClosed as SpaceClosed,
    StateError as StateError,
    SubscriptionClosed as SubscriptionClosed,
    WrongMode as WrongMode,
    WrongThread as WrongThread,
)
from .names import (
    BadMemory as BadMemory,
    BadName as BadName,
    MemoryNameTaken as MemoryNameTaken,
    NameTaken as NameTaken,
    UnknownName as UnknownName,
)
from .outcomes import (
    Fenced as Fenced,
    MappingFailed as MappingFailed,
    NotifierFailed as NotifierFailed,
    SyncFailed as SyncFailed,
    TooManyMappings as TooManyMappings,
)
from .remote import (
    ConnectionLost as ConnectionLost,
    Disconnected as Disconnected,
    ExitRefused as ExitRefused,
    LeaseRunOut as LeaseRunOut,
    LimitReached as LimitReached,
    MayNotSubscribe as MayNotSubscribe,
    NotProducer as NotProducer,
    Stopping as Stopping,
    StopUnproven as StopUnproven,
    Unreachable as Unreachable,
    WrongLoop as WrongLoop,
)
from .subscribing import (
    BadCapacity as BadCapacity,
    BadContract as BadContract,
    BadHolder as BadHolder,
    CapabilityRefused as CapabilityRefused,
    DemandRefused as DemandRefused,
    EmptyMask as EmptyMask,
    GranuleRefused as GranuleRefused,
    MapAlone as MapAlone,
    MustShare as MustShare,
    OutsideRanges as OutsideRanges,
    SubscribeError as SubscribeError,
    UnknownCapability as UnknownCapability,
)
from .trials import (
    CaseFailed as CaseFailed,
    ConformanceFailed as ConformanceFailed,
    PromiseBroken as PromiseBroken,
    listed as listed,
)
from .wire import (
    BadMessage as BadMessage,
    FeatureRefused as FeatureRefused,
    FrameTooLarge as FrameTooLarge,
    OutOfPlace as OutOfPlace,
    ProtocolError as ProtocolError,
    RemoteError as RemoteError,
    VersionRefused as VersionRefused,
)
