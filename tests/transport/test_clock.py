from pathlib import Path

from iommubus.transport.clock import boot_clock


def test_the_clock_of_leases_is_the_machines_uptime() -> None:
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    assert uptime <= boot_clock() + 0.01  # which has two digits behind the point
    assert boot_clock() <= boot_clock()
