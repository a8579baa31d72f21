"""What a peer causes, to those who end the work with it and go on."""

from typing import Final

from ..errors import AbiError, BridgeError

PEER_FAULTS: Final = (BridgeError, AbiError)
"""It is gone, said what cannot be, or cannot do what is needed."""
