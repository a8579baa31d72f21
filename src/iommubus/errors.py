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
        * `BadContract`, `GranuleRefused`, `MustShare`
    * `BadName`, `NameTaken`, `MemoryNameTaken` (also `ValueError`),
      `UnknownName` (also `LookupError`) -- a name is wrong
    * `BadMemory` (also `ValueError`) -- a *descriptor* or a size that can be no
      memory
    * `StateError` (also `RuntimeError`) -- right call, wrong moment or place
        * `BusClosed`, `SpaceClosed`, `EndpointClosed`, `SubscriptionClosed`
        * `NotEntered`
        * `AlreadyIterated`, `WrongThread`, `WrongMode`, `ForeignBatch`
        * `MemoryInUse`
        * `PublisherClosed`, `LoopThread`
    * `Fenced` -- this subscription was fenced; what it holds must not be used
    * `MappingFailed` -- this subscriber could not apply part of its first replay
    * `TooManyMappings` -- this *subscriber* said that it has room for no more
    * `SyncFailed` -- *subscribers* did not finish in time, or could not
    * `TranslationFault` -- the *device* used an address it may not use
        * `NotMapped`, `AccessDenied`, `NoTranslator`
        * `NoAnswer`, `TranslatorFailed` -- the *producer* gave none, or a wrong one
        * `NotContiguous`, `NoBacking`
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
    * `LeasesUnreadable`, `LeasesUnwritable` -- the *disk* does not give, or
      take, the record of who may still hold something

Catch `IommubusError` to catch them all.  Cancellation is never wrapped.
Addresses are printed in hexadecimal, ranges with both ends inclusive.
"""

from collections.abc import Sequence
from typing import ClassVar, cast, dataclass_transform


def span(first: int, last: int) -> str:
    """Return a range as people read it, both ends inclusive."""
    return f"{first:#x}..{last:#x}"


@dataclass_transform(eq_default=False)
class IommubusError(Exception):
    """Base of everything iommubus raises on purpose.

    What a class annotates are its fields: they are given in that order or by
    name, and an error made of them survives pickling.  (Dataclasses do the same,
    and take longer to import than all the rest of this package.)
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields += tuple(vars(cls).get("__annotations__", ()))

    def __init__(self, *values: object, **named: object) -> None:
        if self._fields:
            values += tuple(named.pop(name) for name in self._fields[len(values) :] if name in named)
            if named or len(values) != len(self._fields):
                raise TypeError(f"{type(self).__name__} takes {', '.join(self._fields)}")
            self.__dict__.update(zip(self._fields, values, strict=True))
        super().__init__(*values)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={vars(self)[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({fields})"


# -- the producer's requests -------------------------------------------------


class MappingError(IommubusError, ValueError):
    """A change that a page table cannot hold; nothing was changed."""


class EmptyRange(MappingError):
    """A range of no bytes; size 0 never means "everything" here."""

    iova: int
    size: int

    def __str__(self) -> str:
        return f"a range has at least one byte, got iova {self.iova:#x} size {self.size:#x}"


class RangeWraps(MappingError):
    """A range that leaves 0..2^64-1."""

    iova: int
    size: int

    def __str__(self) -> str:
        return f"iova {self.iova:#x} size {self.size:#x} leaves 0..2^64-1"


class InvertedRange(MappingError):
    """A range whose first address lies behind its last one."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"first {self.first:#x} is greater than last {self.last:#x}"


class Misaligned(MappingError):
    """An address or a size that is no multiple of the granule.

    Attributes:
        what: Which value: ``"iova"``, ``"size"`` or ``"target"``.
    """

    what: str
    value: int
    granule: int

    def __str__(self) -> str:
        return f"{self.what} {self.value:#x} is no multiple of the granule {self.granule:#x}"


class OutsideSpace(MappingError):
    """A range that ends behind the last address of the space."""

    first: int
    last: int
    space_last: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} ends behind {self.space_last:#x}, the last address of the space"


class InReserved(MappingError):
    """A MAP that touches a reserved range (an MSI window, for instance)."""

    first: int
    last: int
    reserved_first: int
    reserved_last: int

    def __str__(self) -> str:
        reserved = span(self.reserved_first, self.reserved_last)
        return f"{span(self.first, self.last)} touches the reserved range {reserved}"


class BadPermission(MappingError):
    """A MAP that allows neither reading nor writing, or has unknown bits."""

    perm: int

    def __str__(self) -> str:
        return f"a mapping allows R (1), W (2) or both (3), got {self.perm:#x}"


class BadTarget(MappingError):
    """A MAP whose targets leave 0..2^64-1."""

    target: int
    size: int

    def __str__(self) -> str:
        return f"target {self.target:#x} size {self.size:#x} leaves 0..2^64-1"


class BadShape(MappingError):
    """A space that cannot be: its granule, last address or reserved ranges clash."""

    granule: int
    last: int
    reason: str

    def __str__(self) -> str:
        return f"a space with granule {self.granule:#x} and last address {self.last:#x} cannot be: {self.reason}"


class Overlap(MappingError):
    """A MAP over a live mapping; unmap first, or use `remap`."""

    first: int
    last: int
    held_first: int
    held_last: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} overlaps the live mapping {span(self.held_first, self.held_last)}"


class Straddle(MappingError):
    """An UNMAP whose edge cuts a mapping, in a space that refuses to cut."""

    first: int
    last: int
    held_first: int
    held_last: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} cuts the mapping {span(self.held_first, self.held_last)}"


class NotOffered(MappingError):
    """An event of a kind that the space said it does not publish."""

    kind: str

    def __str__(self) -> str:
        return f"the space does not offer {self.kind}"


class PastMemory(MappingError):
    """A MAP that ends behind the memory that it leads into."""

    target: int
    size: int
    memory: str
    memory_size: int

    def __str__(self) -> str:
        return f"target {self.target:#x} size {self.size:#x} ends behind {self.memory}, of {self.memory_size:#x} bytes"


class UnknownMemory(MappingError, LookupError):
    """A memory that was not added to this bus, or was removed since.

    Attributes:
        present: Generation that the bus has of this name, 0 if it has none.
    """

    memory: str
    generation: int
    present: int

    def __str__(self) -> str:
        instead = f"{self.memory}@{self.present}" if self.present else "none of this name"
        return f"the bus has no memory {self.memory}@{self.generation} that is this one; it has {instead}"


# -- the consumer's requests -------------------------------------------------


class SubscribeError(IommubusError, ValueError):
    """A subscription that cannot be had; nothing was registered."""


class EmptyMask(SubscribeError):
    """A capability mask of 0 asks for nothing."""

    caps: int

    def __str__(self) -> str:
        return f"the capability mask {self.caps:#x} asks for nothing"


class MapAlone(SubscribeError):
    """MAP without UNMAP: who is never told to let go may not hold."""

    caps: int

    def __str__(self) -> str:
        return f"the capability mask {self.caps:#x} has MAP without UNMAP: who is never told to let go may not hold"


class UnknownCapability(SubscribeError):
    """Bits in the mask that are no capability."""

    caps: int
    known: int

    def __str__(self) -> str:
        return f"the capability mask {self.caps:#x} has unknown bits {self.caps & ~self.known:#x}"


class CapabilityRefused(SubscribeError):
    """The space cannot deliver what the mask asks for."""

    space: str
    caps: int
    offers: int
    reason: str

    def __str__(self) -> str:
        return f"{self.space} offers the mask {self.offers:#x}, not {self.caps:#x}: {self.reason}"


class DemandRefused(SubscribeError):
    """The producer's demand callback refused; its reason is the cause."""

    space: str
    old: int
    new: int
    reason: str

    def __str__(self) -> str:
        return f"the producer of {self.space} refused the demand {self.new:#x} (it was {self.old:#x}): {self.reason}"


class OutsideRanges(SubscribeError):
    """None of the ranges asked for lies inside the space."""

    space: str
    ranges: tuple[tuple[int, int], ...]
    reason: str

    def __str__(self) -> str:
        ranges = ", ".join(span(*edges) for edges in self.ranges)
        return f"the ranges {ranges or '(none)'} cannot be subscribed on {self.space}: {self.reason}"


class BadCapacity(SubscribeError):
    """A mailbox that holds nothing."""

    capacity: int

    def __str__(self) -> str:
        return f"a mailbox holds at least one event, got a capacity of {self.capacity}"


class BadContract(SubscribeError):
    """A contract that cannot be, or makes no sense for the mask."""

    what: str
    value: int
    reason: str

    def __str__(self) -> str:
        return f"a subscription cannot have {self.what} with {self.value:#x}: {self.reason}"


class GranuleRefused(SubscribeError):
    """A shadower whose smallest unit is larger than the space's."""

    space: str
    granule: int
    space_granule: int

    def __str__(self) -> str:
        return f"{self.space} maps as little as {self.space_granule:#x}, who copies it cannot need {self.granule:#x}"


class MustShare(SubscribeError):
    """Endpoints of one subscription that would not share a space.

    Attributes:
        subscription: Who needs them to.
        endpoint: The endpoint that is to be in ``space``, or is.
        other: Another of its endpoints, which is in ``other_space``.
    """

    subscription: str
    endpoint: str
    space: str
    other: str
    other_space: str

    def __str__(self) -> str:
        return (
            f"{self.subscription} needs its endpoints in one space, "
            f"but {self.endpoint} in {self.space} contradicts {self.other} in {self.other_space}"
        )


# -- names -------------------------------------------------------------------


class BadName(IommubusError, ValueError):
    """A name that cannot tell a space from a pattern."""

    name: str

    def __str__(self) -> str:
        wrong = "it is empty or has one of the pattern characters *?[]"
        return f"{self.name!r} is no name for a space or an endpoint: {wrong}"


class NameTaken(IommubusError, ValueError):
    """A space or an endpoint of this name exists already."""

    name: str

    def __str__(self) -> str:
        return f"a space or an endpoint named {self.name!r} exists already"


class MemoryNameTaken(NameTaken):
    """A memory of this name exists already."""

    def __str__(self) -> str:
        return f"a memory named {self.name!r} exists already"


class UnknownName(IommubusError, LookupError):
    """No space has this name."""

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        return f"no space is named {self.name!r}; there are {', '.join(self.known) or 'none'}"


# -- memory ------------------------------------------------------------------


class BadMemory(IommubusError, ValueError):
    """A memory that cannot be: its size, or the descriptor that was given."""

    name: str
    size: int
    reason: str

    def __str__(self) -> str:
        return f"a memory {self.name!r} of {self.size:#x} bytes cannot be: {self.reason}"


# -- the wrong moment --------------------------------------------------------


class StateError(IommubusError, RuntimeError):
    """Right call, wrong moment or wrong place."""


class BusClosed(StateError):
    """The bus is closed, or was never entered."""

    def __str__(self) -> str:
        return "the bus is not open; use it inside `async with Bus() as bus`"


class SpaceClosed(StateError):
    """The space is closed; its mappings are gone."""

    space: str

    def __str__(self) -> str:
        return f"the space {self.space!r} is closed"


class EndpointClosed(StateError):
    """The endpoint is closed, or its producer has not made it yet."""

    endpoint: str

    def __str__(self) -> str:
        return f"the endpoint {self.endpoint!r} is closed"


class SubscriptionClosed(StateError):
    """The subscription was left or closed; nothing more comes from it."""

    subscription: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is closed"


class NotEntered(StateError):
    """The subscription is registered by `async with`, which was not done."""

    subscription: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is not registered yet; enter it with `async with`"


class AlreadyIterated(StateError):
    """Somebody is iterating the subscription; it has one consumer.

    Asking for the next event acknowledges the one before, so a second asker
    would vouch for work it has not seen.
    """

    subscription: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is being iterated already; it has one consumer"


class WrongThread(StateError):
    """A call from another thread than the one that runs the bus."""

    owner: int
    caller: int

    def __str__(self) -> str:
        return f"the bus belongs to thread {self.owner}, it was called from thread {self.caller}"


class PublisherClosed(StateError):
    """A call by another thread, and the block that serves threads has ended, or was never entered."""

    def __str__(self) -> str:
        return "the publisher for threads is not open; threads can use it inside `async with bus.in_thread()`"


class LoopThread(StateError):
    """A call made for other threads, from the thread of the bus, which would wait for itself."""

    owner: int

    def __str__(self) -> str:
        return f"thread {self.owner} runs the bus and would wait for itself; call the space or the bus directly there"


class WrongMode(StateError):
    """A call that does not fit the way this subscription acknowledges."""

    subscription: str
    mode: str
    reason: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} acknowledges by {self.mode!r}: {self.reason}"


class ForeignBatch(StateError):
    """A batch that another subscription handed over.

    Attributes:
        number: Number of the batch, in the subscription that it came from.
    """

    subscription: str
    number: int

    def __str__(self) -> str:
        return f"batch {self.number} was handed over by another subscription than {self.subscription!r}"


class MemoryInUse(StateError):
    """A memory that a mapping leads into; unmap that first."""

    memory: str
    space: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.memory} is in use: the space {self.space!r} maps {span(self.first, self.last)} to it"


# -- what happened to somebody -----------------------------------------------


class Fenced(IommubusError):
    """The subscription was fenced: nothing it holds may be used any more."""

    subscription: str
    reason: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is fenced: {self.reason}"


class MappingFailed(IommubusError):
    """Mappings of the first replay that the subscriber itself could not apply."""

    failures: Sequence[object]

    def __str__(self) -> str:
        return "; ".join(map(str, self.failures))


class TooManyMappings(IommubusError):
    """A MAP past the number of mappings that a subscriber can hold."""

    subscription: str
    limit: int

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} can hold {self.limit} mappings and has no room for another"


class SyncFailed(IommubusError):
    """A `sync` that cannot promise that old translations are out of use.

    Attributes:
        missing: The subscribers that may still use what was unmapped, each with
            the removed pieces and their old targets.  Keep those pages out of use.
        failures: MAPs that a subscriber could not apply, with the cause.
    """

    missing: Sequence[object]
    failures: Sequence[object]

    def __str__(self) -> str:
        parts = [str(entry) for entry in (*self.missing, *self.failures)]
        return "sync failed: " + "; ".join(parts)


# -- the device --------------------------------------------------------------


class TranslationFault(IommubusError):
    """A device used an address in a way it may not."""


class NotMapped(TranslationFault):
    """Nothing is mapped at the address."""

    iova: int

    def __str__(self) -> str:
        return f"nothing is mapped at {self.iova:#x}"


class AccessDenied(TranslationFault):
    """The mapping at the address does not allow this access."""

    iova: int
    wanted: int
    granted: int

    def __str__(self) -> str:
        return f"{self.iova:#x} allows {self.granted:#x}, the access needs {self.wanted:#x}"


class NoTranslator(TranslationFault):
    """A pull space keeps no table, and its producer answers no questions."""

    space: str
    iova: int

    def __str__(self) -> str:
        return f"{self.space} keeps no table, so {self.iova:#x} cannot be translated"


class NoAnswer(TranslationFault):
    """The producer of a pull space did not answer in time."""

    space: str
    iova: int
    seconds: float

    def __str__(self) -> str:
        return f"the producer of {self.space} did not say within {self.seconds:g} s where {self.iova:#x} leads"


class TranslatorFailed(TranslationFault):
    """The producer of a pull space gave an answer that cannot be, or raised."""

    space: str
    iova: int
    reason: str

    def __str__(self) -> str:
        return f"the producer of {self.space} could not say where {self.iova:#x} leads: {self.reason}"


class NotContiguous(TranslationFault):
    """A range that does not lead to one piece of one memory.

    Attributes:
        end: Last address up to which it does.
    """

    first: int
    last: int
    end: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} leads to one piece of memory only up to {self.end:#x}"


class NoBacking(TranslationFault):
    """A mapping to a bare address: there is no memory to look at."""

    iova: int
    target: int

    def __str__(self) -> str:
        return f"{self.iova:#x} leads to the bare address {self.target:#x}, not into a memory"


class NotifierFailed(IommubusError, ExceptionGroup[Exception]):
    """Notifiers raised; the event is published and the others have run."""

    def __init__(self, message: str, excs: Sequence[Exception], /) -> None:
        super().__init__(message, excs)

    def derive(self, excs: Sequence[Exception], /) -> "NotifierFailed":  # type: ignore[override]
        """Return a group of the same kind around ``excs``, which `split` takes from this one."""
        return NotifierFailed(self.message, excs)


# -- other people's bytes ----------------------------------------------------


class AbiError(IommubusError, ValueError):
    """A message of another system's interface that cannot be; nothing of it was used.

    Decoding blames who sent the bytes; encoding, who made the value.
    """


class BadLength(AbiError):
    """A message, or a part of one, that is too short or too long for what it is.

    Attributes:
        message: Name of the message or structure, as its specification has it.
        length: How many bytes there are.
        least: How many there have to be at least.
        most: And at most.
    """

    message: str
    length: int
    least: int
    most: int

    def __str__(self) -> str:
        allowed = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{self.message} has {allowed} bytes, got {self.length}"


class TooLong(AbiError):
    """A header that announces more bytes than anybody has to send; none were waited for."""

    message: str
    length: int
    limit: int

    def __str__(self) -> str:
        return f"{self.message} announces {self.length} bytes, at most {self.limit} are taken"


class BadField(AbiError):
    """A field with a value that it cannot have.

    Attributes:
        field: Name of the field, as its specification has it.
        allowed: What it may hold.
    """

    message: str
    field: str
    value: int | bytes
    allowed: str

    def __str__(self) -> str:
        value = self.value.hex(" ") if isinstance(self.value, bytes) else f"{self.value:#x}"
        return f"{self.field} of {self.message} is {value}, allowed: {self.allowed}"


class BadDescriptors(AbiError):
    """A message that came with fewer or more file descriptors than belong to it."""

    message: str
    count: int
    least: int
    most: int

    def __str__(self) -> str:
        allowed = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{self.message} comes with {allowed} descriptors, got {self.count}"


# -- the wire ----------------------------------------------------------------


class ProtocolError(IommubusError):
    """Bytes that the wire protocol does not have; nothing of the message was applied.

    Receiving blames the peer, and nothing more is read from it; sending, who made
    the message, and nothing was sent.
    """


class FrameTooLarge(ProtocolError):
    """A frame longer than its reader takes; none of it was waited for.

    Attributes:
        size: Length of the payload, in bytes.
        limit: Most that is taken.
    """

    size: int
    limit: int

    def __str__(self) -> str:
        return f"a frame of {self.size} bytes, at most {self.limit} are taken"


class BadMessage(ProtocolError):
    """A message that cannot be.

    Attributes:
        message: What it is, as far as that is known.
        field: Which of its fields is wrong, with the place inside it.
        value: What the field holds, as people read it.
    """

    message: str
    field: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field} of {self.message} is {self.value}: {self.reason}"


class OutOfPlace(ProtocolError):
    """A message that may not be said now, or not by this side."""

    message: str
    side: str
    state: str

    def __str__(self) -> str:
        return f"the {self.side} may not say {self.message} while the connection is {self.state}"


class VersionRefused(ProtocolError):
    """Two ends that have no version of the protocol in common.

    Attributes:
        least: Oldest version that the other end speaks.
        most: Newest version that it speaks.
        known_least: Oldest version that is spoken here.
        known_most: Newest version that is spoken here.
    """

    least: int
    most: int
    known_least: int
    known_most: int

    def __str__(self) -> str:
        theirs, ours = f"{self.least} to {self.most}", f"{self.known_least} to {self.known_most}"
        return f"the other end speaks versions {theirs} of the protocol, this one {ours}"


class FeatureRefused(ProtocolError):
    """Features that one end requires and the other does not offer.

    Attributes:
        required: The features that one requires, as bits.
        offered: The features that the other offers.
    """

    required: int
    offered: int

    def __str__(self) -> str:
        missing = self.required & ~self.offered
        return f"the features {self.required:#x} are required, {self.offered:#x} are offered: {missing:#x} are missing"


class RemoteError(IommubusError):
    """What went wrong at the other end of a connection, where its class is not known here.

    Attributes:
        kind: Name of the class there.
        text: Its sentence.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


# -- recorded traces ---------------------------------------------------------


class TraceError(IommubusError, ValueError):
    """A line of a recorded trace that cannot be read.

    Attributes:
        line: Number of the line, from 1.
        text: The line as it stands in the file.
    """

    path: str
    line: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}: {self.text!r}"


# -- implementations under test ------------------------------------------------


class PromiseBroken(IommubusError, AssertionError):
    """Something is not as it has to be.

    Attributes:
        promise: What has to be so, in words.
        wanted: What was expected.
        found: What there is instead.
    """

    promise: str
    wanted: object
    found: object

    def __str__(self) -> str:
        return f"{self.promise}: expected {listed(self.wanted)}, found {listed(self.found)}"


def listed(value: object) -> str:
    """Return a value as people read it, a sequence by what it contains."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, cast("Sequence[object]", value))) or "nothing"
    return str(value)


class CaseFailed(IommubusError):
    """A case of a conformance suite that failed; the cause has the details.

    Attributes:
        case: Name of the case.
        law: What it checks, in one sentence.
        reason: What was found.
    """

    case: str
    law: str
    reason: str

    def __str__(self) -> str:
        return f"{self.case}: {self.reason} [{self.law}]"


class ConformanceFailed(IommubusError, ExceptionGroup[CaseFailed]):
    """Cases of a conformance suite failed; all have run."""

    def __init__(self, message: str, excs: Sequence[CaseFailed], /) -> None:
        super().__init__(message, excs)

    def derive(self, excs: Sequence[CaseFailed], /) -> "ConformanceFailed":  # type: ignore[override]
        """Return a group of the same kind around ``excs``, which `split` takes from this one."""
        return ConformanceFailed(self.message, excs)

    @property
    def cases(self) -> tuple[str, ...]:
        """Return the names of the cases that failed."""
        return tuple(failed.case for failed in self.exceptions if isinstance(failed, CaseFailed))

    def __str__(self) -> str:
        return "; ".join([self.message, *map(str, self.exceptions)])


# -- addresses and listeners -------------------------------------------------


class AddressError(IommubusError, ValueError):
    """A text that is no address of a daemon, or an address that cannot be used so."""

    address: str
    reason: str

    def __str__(self) -> str:
        return f"{self.address!r} cannot be used: {self.reason}"


class ListenError(IommubusError):
    """A place at which this host lets no daemon listen."""


class AddressTaken(ListenError):
    """Somebody answers there already.

    Attributes:
        pid: Who, 0 if that cannot be seen.
    """

    path: str
    pid: int

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "somebody"
        return f"{who} answers at {self.path}; stop that first, or listen elsewhere"


class LockTaken(ListenError):
    """Another process holds the lock of something that only one may use.

    Attributes:
        pid: Who, 0 if it did not say.
    """

    path: str
    pid: int

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "another process"
        return f"{who} holds the lock {self.path}; two daemons cannot share what it guards"


class NotSocket(ListenError):
    """A file that is in the way, and is no socket that could be stale."""

    path: str

    def __str__(self) -> str:
        return f"{self.path} is there and is no socket; it was left as it is"


class CannotListen(ListenError):
    """An address at which the system refuses to listen, and why."""

    address: str
    reason: str

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.reason}"


class BadActivation(ListenError):
    """Sockets handed over by the service manager that cannot be used."""

    reason: str

    def __str__(self) -> str:
        return f"the service manager handed over sockets that cannot be used: {self.reason}"


class BadCertificate(ListenError):
    """A certificate, key or authority that cannot be loaded."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be loaded: {self.reason}"


# -- who is at the other end -------------------------------------------------


class PeerError(IommubusError):
    """Something about the other end of a connection."""


class NoCredentials(PeerError):
    """The system does not say who the peer is."""

    reason: str

    def __str__(self) -> str:
        return f"it cannot be known who the peer is: {self.reason}"


class PeerGone(PeerError):
    """The process that connected has ended; its number may be another's by now."""

    pid: int

    def __str__(self) -> str:
        return f"process {self.pid}, which connected, has ended"


class DescriptorsRefused(PeerError):
    """A message with descriptors that was cut, or has more than are taken; none were kept."""

    reason: str

    def __str__(self) -> str:
        return f"a message with descriptors was refused: {self.reason}"


class TokenRefused(PeerError):
    """A token that was not given out, was used, or was given to somebody else."""

    def __str__(self) -> str:
        return "the token is none that was given to this peer and not used yet"


# -- the administrator -------------------------------------------------------


class ConfigError(IommubusError, ValueError):
    """Something in the configuration that cannot be."""


class UnknownSetting(ConfigError):
    """A setting that does not exist.

    Attributes:
        source: Where it stands: a file, a variable of the environment, a flag.
        key: Its dotted path.
        nearest: The setting that was probably meant, or "".
    """

    source: str
    key: str
    nearest: str

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"{self.source}: there is no setting {self.key}{hint}"


class BadSetting(ConfigError):
    """A setting with a value that it cannot have.

    Attributes:
        source: Where it stands: a file, a variable of the environment, a flag.
        key: Its dotted path.
        value: The value, as it was written.
        accepted: What it may be.
    """

    source: str
    key: str
    value: str
    accepted: str

    def __str__(self) -> str:
        return f"{self.source}: {self.key} is {self.value}, accepted: {self.accepted}"


class ConfigUnreadable(ConfigError):
    """A configuration file that cannot be read, or is no TOML."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.reason}"


class RuleMissing(IommubusError):
    """A peer asked for what no rule allows it.

    Attributes:
        peer: Who, in words.
        action: What it wanted to do: the key of a rule.
        name: The name of the space or endpoint that it wanted to do it to.
        rule: The rule that would allow it, as it would stand in the file.
    """

    peer: str
    action: str
    name: str
    rule: str

    def __str__(self) -> str:
        return f"{self.peer} may not {self.action} {self.name!r}: it would take the rule {self.rule}"


# -- what has to outlive the daemon ------------------------------------------


class LeasesUnreadable(IommubusError):
    """The record of who may still hold something is there and cannot be read."""

    path: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be read: {self.reason}. It says who may still use what an earlier daemon handed out, "
            "so nothing is served without it. When all subscribers of that daemon have ended, delete the file and "
            "start again; a reboot ends them too"
        )


class LeasesUnwritable(IommubusError):
    """The record of who may still hold something cannot be written; nothing was granted."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be written: {self.reason}; nothing was granted"
