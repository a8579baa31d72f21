"""What the bus says of itself: immutable, and readable by people."""

import pytest

from iommubus import How, MapFailure, Missing, Outcome, SyncReport
from iommubus.errors import SyncFailed
from iommubus.ledger import OldPieces


def test_reports_are_immutable_values() -> None:
    outcome = Outcome("vfio", "vtd0/0", How.ACKNOWLEDGED, 0.5)
    report = SyncReport((outcome,), 0.6)
    assert report == SyncReport((Outcome("vfio", "vtd0/0", How.ACKNOWLEDGED, 0.5),), 0.6)
    with pytest.raises(AttributeError):
        report.seconds = 0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        outcome.how = How.LEFT  # type: ignore[misc]


def test_a_failed_sync_reads_as_a_sentence() -> None:
    """Law 7: who, where, which range in hexadecimal, and why."""
    missing = Missing("vhost", "vtd0/0", "did not acknowledge within 1 s", OldPieces([], [], []))
    failure = MapFailure("vfio", "vtd0/0", 0x1000, 0x1FFF, OSError("no space"))
    text = str(SyncFailed([missing], [failure]))
    assert text.startswith("sync failed: vhost on vtd0/0 did not acknowledge within 1 s")
    assert text.endswith("; vfio on vtd0/0 could not map 0x1000..0x1fff: OSError('no space')")
