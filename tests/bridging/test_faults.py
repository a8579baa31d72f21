"""What a peer causes is told apart from what the bus raises."""

from iommubus.bridging.faults import PEER_FAULTS
from iommubus.errors import AbiError, BusClosed, PeerLeft


def test_what_the_bus_raises_is_no_fault_of_a_peer() -> None:
    assert issubclass(AbiError, PEER_FAULTS)
    assert issubclass(PeerLeft, PEER_FAULTS)
    assert not issubclass(BusClosed, PEER_FAULTS)
