"""Spaces, endpoints and memories: what a producer makes, and takes away."""

from typing import Literal

from msgspec import Struct

from .values import U64, MemoryName, Name, Ranges


class CreateSpace(Struct, frozen=True, array_like=True, tag=20):
    """Make a space and an endpoint of its name, or go on with one; `SpaceCreated` answers.

    Attributes:
        request: Number of the request.
        space: Its name.
        granule: Smallest unit of mapping, in bytes.
        last: Highest address.
        reserved: Ranges that can never be mapped.
        offers: The kinds of event that it can deliver: UNMAP=1, MAP=2, DEVIOTLB_UNMAP=4.
        straddle: What an UNMAP does that cuts a mapping.
        asks_demand: Whether the producer may refuse a registration (`DemandChanged`).
        answers: Whether the producer answers misses (`Ask`).
        answer_us: Time that it has for an answer, in microseconds.
        epoch: That of the space which the producer had before its connection was lost; 0 for a new one.
    """

    request: U64
    space: Name
    granule: U64
    last: U64
    reserved: Ranges
    offers: U64
    straddle: Literal["refuse", "split"] = "refuse"
    asks_demand: bool = False
    answers: bool = False
    answer_us: U64 = 1_000_000
    epoch: U64 = 0


class SpaceCreated(Struct, frozen=True, array_like=True, tag=21, gc=False):
    """Answer `CreateSpace`.

    Attributes:
        request: Its number.
        epoch: Incarnation of the space, which every message about it names; what an older one says is refused.
        resumed: Whether the space still has what the producer published before: a
            `BeginResume` has to be the first that is said of it.
    """

    request: U64
    epoch: U64
    resumed: bool = False


class CloseSpace(Struct, frozen=True, array_like=True, tag=22):
    """Remove everything and end the streams of a space; `Done` answers.

    Attributes:
        request: Number of the request.
        space: Name of the space.
        epoch: Its epoch.
    """

    request: U64
    space: Name
    epoch: U64


class CreateEndpoint(Struct, frozen=True, array_like=True, tag=23):
    """Make an endpoint that is attached to nothing; `Done` answers.

    Attributes:
        request: Number of the request.
        endpoint: Its name.
        resume: Whether the producer had it before its connection was lost; then it
            is taken over as it is, if it is still there.
    """

    request: U64
    endpoint: Name
    resume: bool = False


class CloseEndpoint(Struct, frozen=True, array_like=True, tag=24):
    """Detach an endpoint and end the streams of its subscribers; `Done` answers.

    Attributes:
        request: Number of the request.
        endpoint: Its name.
    """

    request: U64
    endpoint: Name


class Attach(Struct, frozen=True, array_like=True, tag=25):
    """Move an endpoint to a space, from none or from another; `Done` answers.

    Attributes:
        request: Number of the request.
        endpoint: Name of the endpoint.
        space: Name of the space.
        epoch: Epoch of the space.
    """

    request: U64
    endpoint: Name
    space: Name
    epoch: U64


class Detach(Struct, frozen=True, array_like=True, tag=26):
    """Move an endpoint out of its space; `Done` answers.

    Attributes:
        request: Number of the request.
        endpoint: Its name.
    """

    request: U64
    endpoint: Name


class AddMemory(Struct, frozen=True, array_like=True, tag=27):
    """Add a memory that mappings may lead into; `MemoryAdded` answers.

    Attributes:
        request: Number of the request.
        name: Its name.
        size: Length in bytes.
        descriptor: Whether its descriptor will come on the second connection.
        generation: The one that it had before the connection was lost; 0 for a new memory.
    """

    request: U64
    name: Name
    size: U64
    descriptor: bool = False
    generation: U64 = 0


class MemoryAdded(Struct, frozen=True, array_like=True, tag=28, gc=False):
    """Answer `AddMemory`.

    Attributes:
        request: Its number.
        generation: The generation by which the memory is named from now on.
    """

    request: U64
    generation: U64


class RemoveMemory(Struct, frozen=True, array_like=True, tag=29):
    """Remove a memory; `Done` answers.

    Attributes:
        request: Number of the request.
        memory: Which memory.
    """

    request: U64
    memory: MemoryName


class MemoryRemoved(Struct, frozen=True, array_like=True, tag=30):
    """Tell a client that was given a descriptor that the memory was removed.

    Attributes:
        memory: Which memory.
    """

    memory: MemoryName
