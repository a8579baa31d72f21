"""``iommubus bridge vhost-user-frontend``, in a process of its own, between a daemon's space and a back end."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from iommubus.bridges.vhost_user_frontend import Ring
from iommubus.caps import Perm
from iommubus.cli.bridge.vhost_user_frontend import ring
from tests.bridges.vhost_user_backends import PATIENCE, Backend
from tests.cli.commands import iommubus
from tests.daemons import bus_at, command, environment


def line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().rstrip()


def test_a_page_goes_to_the_back_end_and_comes_back(tmp_path: Path, address: str) -> None:
    sock = tmp_path / "vu.sock"
    words = (
        "bridge",
        "vhost-user-frontend",
        "--connect",
        str(sock),
        "--space",
        "vuf/a",
        "--name",
        "dpdk",
        "-a",
        address,
    )
    with bus_at(address) as (portal, bus), Backend(sock) as end:
        assert end.hear() == "ready"
        space = portal.call(bus.create_space, "vuf/a")
        memory = portal.call(bus.add_memory, "vuf", 0x4000)
        with subprocess.Popen(command(*words), stdout=subprocess.PIPE, env=environment()) as bridge:
            try:
                agreed = "PROTOCOL_FEATURES, VERSION_1, ACCESS_PLATFORM, REPLY_ACK, BACKEND_REQ"
                assert line(bridge) == f"the back end at {sock}: agreed on {agreed}"
                assert line(bridge).startswith("  no CONFIGURE_MEM_SLOTS: ")
                portal.call(lambda: space.map(0x1000, 0x1000, 0, Perm.RW, memory=memory))
                assert end.do("miss 0x1000") == "has 00000000"
                portal.call(lambda: space.unmap(0x1000, 0x1000))
                report = portal.call(space.sync)
                assert [outcome.subscriber for outcome in report.outcomes] == ["dpdk"]
                assert end.do("wait 0x1000") == "gone"

                bridge.send_signal(signal.SIGTERM)
                assert bridge.wait(PATIENCE) == 0
                portal.call(lambda: space.map(0x2000, 0x1000, 0, Perm.RW, memory=memory))
                portal.call(lambda: space.unmap(0x2000, 0x1000))
                assert portal.call(space.sync).outcomes == ()
            finally:
                bridge.kill()
        portal.call(space.close)


def test_what_it_says_can_be_read_by_programs(tmp_path: Path, address: str) -> None:
    words = ("bridge", "vhost-user-frontend", "--connect", str(tmp_path / "no"), "--space", "vuf/b", "--json")
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, env=environment(IOMMUBUS_ADDRESS=address)) as bridge:
        try:
            said = json.loads(line(bridge))
            bridge.send_signal(signal.SIGINT)
            assert bridge.wait(PATIENCE) == 0
        finally:
            bridge.kill()

    assert said["trouble"] is False
    assert said["notice"].startswith(f"waits for a back end at {tmp_path / 'no'}: ")


def test_a_back_end_that_will_not_do_is_said_and_ends_it(tmp_path: Path, address: str) -> None:
    sock = tmp_path / "vu.sock"
    with Backend(sock, "--plain") as end:
        assert end.hear() == "ready"
        done = iommubus("bridge", "vhost-user-frontend", "--connect", str(sock), "--space", "vuf/c", "-a", address)

    assert done.exit_code == 1
    assert f"the back end at {sock} has no ACCESS_PLATFORM: " in done.stderr


def test_a_ring_is_its_size_and_three_addresses() -> None:
    assert ring("256:0x1000:0x2000:12288") == Ring(0, 256, 0x1000, 0x2000, 0x3000, base=None)


@pytest.mark.parametrize("text", ["256:0x1000:0x2000", "100:0:0:0", "0:0:0:0", "65536:0:0:0", "256:x:0:0", ""])
def test_what_is_no_ring_is_wrong_usage(text: str) -> None:
    done = iommubus("bridge", "vhost-user-frontend", "--connect", "x", "--space", "y", "--ring", text)

    assert done.exit_code == 2
