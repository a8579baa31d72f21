"""What a bridge says of itself can be read, and what somebody should look at is a warning."""

import logging

import pytest

from iommubus.bridging.telling import Lack, Negotiated, Notice, Told, log


@pytest.mark.parametrize(
    ("told", "level", "text"),
    [
        (Notice("a front end came"), logging.INFO, "a front end came"),
        (Notice("it went", trouble=True), logging.WARNING, "it went"),
        (Negotiated("QEMU", ("MQ", "REPLY_ACK")), logging.INFO, "QEMU: agreed on MQ, REPLY_ACK"),
        (
            Negotiated("QEMU", (), (Lack("REPLY_ACK", "it offers none, so the guest does not wait"),)),
            logging.WARNING,
            "QEMU: agreed on nothing; no REPLY_ACK: it offers none, so the guest does not wait",
        ),
    ],
)
def test_what_is_told_is_logged(told: Told, level: int, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "iommubus.bridges"):
        log(told)

    assert caplog.record_tuples == [("iommubus.bridges", level, text)]
