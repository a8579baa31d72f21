"""Whatever the kind of bridge, wrong usage is one line and the status of wrong usage."""

import pytest

from iommubus.cli.bridge import KINDS
from tests.cli.commands import iommubus

NEEDED = {
    "vhost-user-backend": ("--listen", "a.sock", "--space", "space"),
    "vhost-user-frontend": ("--connect", "b.sock", "--space", "space"),
    "vhost-user-tap": ("--listen", "a.sock", "--connect", "b.sock"),
    "vhost": ("--space", "space"),
    "vfio": ("--group", "1", "--space", "space"),
    "vfio-user-server": ("--listen", "a.sock", "--space", "space"),
    "vfio-user-client": ("--connect", "b.sock", "--space", "space"),
}
"""What each kind cannot do without."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_that_cannot_be_is_wrong_usage(kind: str) -> None:
    done = iommubus("bridge", kind, *NEEDED[kind], "--address", "nowhere")

    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"iommubus bridge {kind}: 'nowhere' cannot be used: an address is unix:/PATH, tls:HOST:PORT or tcp:HOST:PORT"
    ]
