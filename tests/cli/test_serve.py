"""``iommubus serve``: flags over the environment over the file, and a daemon that comes of them."""

import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from iommubus.cli.running import WrongUsage
from iommubus.cli.serve import keys_and_values
from iommubus.errors import AddressTaken, UnknownSetting
from iommubus.service.settings.config import Config
from tests.cli.commands import iommubus, read_json
from tests.daemons import PATIENCE, daemon, wait_for_line


class Served:
    """Stands for the daemon, and keeps what it was told."""

    def __init__(self) -> None:
        self.config = Config()
        self.reload: Callable[[], Config] = Config

    async def __call__(self, config: Config, *, reload: Callable[[], Config]) -> None:
        self.config, self.reload = config, reload


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    stand_in = Served()
    monkeypatch.setattr("iommubus.service.serve.serve", stand_in)
    return stand_in


def test_flags_are_over_the_environment_and_that_is_over_the_file(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "iommubus.toml"
    file.write_text(
        'producer_grace = 1\n[log]\nlevel = "error"\nformat = "json"\n[limits]\nspaces = 1\nendpoints = 2\n'
    )
    flags = [
        "--config", str(file), "--listen", "unix:/a", "--listen", "tcp:127.0.0.1:1", "--socket-mode", "600",
        "--state", "/state", "--leases-seconds", "2.5", "--metrics-listen", "unix:/m", "--log-level", "debug",
        "--set", "limits.spaces=16", "--set", "deadlines.hello = 0.5",
    ]  # fmt: skip

    done = iommubus("serve", *flags, IOMMUBUS_LIMITS_SPACES="8", IOMMUBUS_LIMITS_ENDPOINTS="9")

    assert (done.exit_code, done.output) == (0, "")
    config = served.config
    assert config.listen == ("unix:/a", "tcp:127.0.0.1:1")
    assert (config.mode, config.state, config.producer_grace) == (0o600, "/state", 1.0)
    assert (config.leases.seconds, config.metrics.listen, config.deadlines.hello) == (2.5, "unix:/m", 0.5)
    assert (config.log.level, config.log.format) == ("debug", "json")
    assert (config.limits.spaces, config.limits.endpoints) == (16, 9)


def test_the_rules_can_be_read_again(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "iommubus.toml"
    file.write_text("")
    iommubus("serve", "--config", str(file), "--listen", "unix:/a")
    file.write_text('[[rules]]\nuid = 5\nadmin = ["*"]\n')

    assert len(served.reload().rules) == 1
    assert served.reload().listen == ("unix:/a",)
    file.write_text("[[rules]]\nnobody = 5\n")
    with pytest.raises(UnknownSetting, match="nobody"):
        served.reload()


def test_the_environment_names_the_file(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "iommubus.toml"
    file.write_text("producer_grace = 7\n")

    iommubus("serve", IOMMUBUS_CONFIG=str(file))

    assert served.config.producer_grace == 7


@pytest.mark.parametrize(
    ("flags", "status", "reason"),
    [
        (["--listen", "tcp:0.0.0.0:1"], 2, "the command line: listen[0] is 'tcp:0.0.0.0:1'"),
        (["--log-level", "loud"], 2, "log.level is 'loud', accepted: 'debug'"),
        (["--leases-seconds", "-1"], 2, "leases.seconds is '-1', accepted: a number, more than 0"),
        (["--set", "limits.space=1"], 2, "there is no setting limits.space; did you mean limits.spaces?"),
        (["--set", "limits.spaces"], 2, "--set limits.spaces: a setting is KEY=VALUE"),
        (["--config", "/nowhere"], 1, "/nowhere cannot be read: No such file or directory"),
    ],
)
def test_settings_that_cannot_be_are_one_line(served: Served, flags: list[str], status: int, reason: str) -> None:
    del served
    done = iommubus("serve", *flags)

    assert (done.exit_code, done.stdout) == (status, "")
    assert done.stderr.startswith("iommubus serve: ")
    assert reason in done.stderr


def test_counters_without_what_counts_them_are_said_to_need_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        assert name == "prometheus_client"

    monkeypatch.setattr("iommubus.cli.serve.find_spec", nothing)

    assert iommubus("serve").exit_code == 0
    done = iommubus("serve", "--metrics-listen", "unix:/m")

    assert done.exit_code == 1
    assert done.stderr.endswith("install it with: pip install 'iommubus[metrics]'\n")
    assert served.config.metrics.listen is None


def test_what_keeps_a_daemon_from_listening_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def taken(config: Config, *, reload: Callable[[], Config]) -> None:
        del config, reload
        raise AddressTaken("/run/x", 7)

    monkeypatch.setattr("iommubus.service.serve.serve", taken)

    done = iommubus("serve")

    assert (done.exit_code, done.stderr) == (
        1, "iommubus serve: process 7 answers at /run/x; stop that first, or listen elsewhere\n"
    )  # fmt: skip


def test_keys_and_values_may_have_anything_behind_the_first_sign() -> None:
    assert keys_and_values(["a=b=c", "d=", " e = f "]) == {"a": "b=c", "d": "", "e": "f"}
    with pytest.raises(WrongUsage):
        keys_and_values(["a"])


# -- as a process ----------------------------------------------------------------


def test_a_daemon_serves_reads_its_rules_anew_and_ends_when_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "iommubus.toml"
    file.write_text("")
    flags = ["--config", str(file), "--socket-mode", "0600", "--log-format", "json"]
    with daemon(tmp_path, *flags, IOMMUBUS_LEASES_SECONDS="3") as running:
        assert read_json("ping", running.address, "--json")["lease_seconds"] == 3
        path = tmp_path / "bus.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.write_text('[[rules]]\nuid = 5\nadmin = ["*"]\n')
        running.process.send_signal(signal.SIGHUP)
        wait_for_line(running.process, running.log, "there are 1 rules now")

        second = iommubus("serve", "--listen", running.address)

    assert second.exit_code == 1
    assert second.stderr.startswith(f"iommubus serve: process {running.process.pid} ")
    assert running.process.returncode == 0
    assert not path.exists()
    assert '"text":"SIGTERM: stopping"' in running.log.read_text()


def test_control_c_stops_it_as_sigterm_does(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE) == 0
