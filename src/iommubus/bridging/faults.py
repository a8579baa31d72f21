"""What ends the work with one peer, out of the groups in which tasks raise it."""

from typing import cast

from ..errors import AbiError, BridgeError

PEER_FAULTS = (BridgeError, AbiError)
"""What a peer causes: it is gone, said what cannot be, or cannot do what is needed."""


def first_fault(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in a group, and in the groups in it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
