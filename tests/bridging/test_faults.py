"""What a peer causes is found in the groups in which tasks raise it."""

from iommubus.bridging.faults import PEER_FAULTS, first_fault
from iommubus.errors import AbiError, BadLength, BusClosed, PeerLeft


def test_the_first_error_is_found_however_deep_it_is() -> None:
    fault = PeerLeft("the server", "it closed the connection")
    other = BadLength("a message", 1, 2, 2)

    assert first_fault(BaseExceptionGroup("", [fault, other])) is fault
    assert first_fault(BaseExceptionGroup("", [BaseExceptionGroup("", [other]), fault])) is other


def test_what_the_bus_raises_is_no_fault_of_a_peer() -> None:
    assert issubclass(AbiError, PEER_FAULTS)
    assert issubclass(PeerLeft, PEER_FAULTS)
    assert not issubclass(BusClosed, PEER_FAULTS)
