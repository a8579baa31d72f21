"""What ends the work with one peer, out of the groups in which tasks raise it."""

from typing import Final, cast

from ..errors import AbiError, BridgeError

PEER_FAULTS: Final = (BridgeError, AbiError)
"""What a peer causes: it is gone, said what cannot be, or cannot do what is needed."""


def first_fault(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in a group, and in the groups in it."""
    inner = group.exceptions[0]
    if isinstance(inner, BaseExceptionGroup):
        return first_fault(cast("BaseExceptionGroup[BaseException]", inner))
    return inner
