"""``iommubus bridge vhost-user-tap``: run by somebody, watched by somebody else."""

import json
import signal
import socket
import subprocess
from pathlib import Path

from iommubus.transport.descriptors import close_all
from tests.cli.commands import iommubus
from tests.daemons import PATIENCE, command, environment, wait_for_line
from tests.vhost_user_talk import Talker, memfd, ram_table, reply, update


def test_it_says_what_happens_and_ends_when_it_is_told_to(address: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    words = ["--listen", f"{tmp_path}/front", "--connect", f"{tmp_path}/back", "--record", f"{tmp_path}/record"]
    with said.open("wb") as out, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/back")
        listening.listen()
        process = subprocess.Popen(
            command("bridge", "vhost-user-tap", *words, "--space", "tap/a", "--json", "--address", address),
            stdout=out,
            stderr=out,
            env=environment(),
        )
        try:
            wait_for_line(process, said, "waiting for a front end")
            speak(tmp_path, listening)
            wait_for_line(process, said, "is gone")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
    notices = [json.loads(line) for line in said.read_text().splitlines()]
    assert [sorted(notice) for notice in notices] == [
        ["notice", "trouble"], ["agreed", "lacks", "peer"], ["notice", "trouble"],
    ]  # fmt: skip
    record = [json.loads(line)["hex"] for line in (tmp_path / "record").read_text().splitlines()]
    assert record == [ram_table().data.hex(), reply(5).hex(), update(0x1000).data.hex()]


def speak(place: Path, listening: socket.socket) -> None:
    """Be a front end and a back end that say a little."""
    with Talker(socket.socket(socket.AF_UNIX)) as front:
        front.sock.connect(f"{place}/front")
        with Talker(listening.accept()[0]) as back:
            front.say(ram_table(), memfd())
            data, fds = back.hear()
            close_all(fds)
            assert (data, len(fds)) == (ram_table().data, 1)
            back.say(reply(5))
            assert front.hear_data() == reply(5)
            front.say(update(0x1000))
            assert back.hear_data() == update(0x1000).data


def test_both_sockets_have_to_be_named(address: str) -> None:
    done = iommubus("bridge", "vhost-user-tap", "--listen", "/nowhere", "--address", address)

    assert done.exit_code == 2
    assert "Missing option '--connect'" in done.stderr


def test_a_place_where_nobody_can_listen_is_told_in_one_line(address: str, tmp_path: Path) -> None:
    (tmp_path / "front").write_text("in the way")
    done = iommubus(
        "bridge", "vhost-user-tap", "--listen", f"{tmp_path}/front", "--connect", f"{tmp_path}/back", "-a", address
    )

    assert done.exit_code == 1
    assert (
        done.stderr
        == f"iommubus bridge vhost-user-tap: {tmp_path}/front is there and is no socket; it was left as it is\n"
    )
