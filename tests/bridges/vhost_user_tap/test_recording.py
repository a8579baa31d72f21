"""What was passed on is written down in the form of recordings of vhost-user."""

import io
import json

from iommubus.abi.vhost_user import Channel
from iommubus.bridges.vhost_user_tap.recording import Recorder
from iommubus.bridges.vhost_user_tap.seen import Gap, Seen


def test_each_message_is_a_line() -> None:
    out = io.StringIO()
    recorder = Recorder(out)
    recorder.write([Seen(1000, Channel.FRONT_END, True, b"\x05\x00", True, 2, [])])
    recorder.write([Gap(), Seen(1250, Channel.BACK_END, False, b"\xff", False, 0, [])])

    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"t_ns": 0, "chan": "main", "dir": "rx", "fds": 2, "hex": "0500"},
        {"lost": True},
        {"t_ns": 250, "chan": "backend", "dir": "tx", "fds": 0, "hex": "ff"},
    ]
