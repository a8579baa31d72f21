"""``iommubus check-config``: what the daemon would be told."""

import json
from pathlib import Path

import msgspec
import pytest

from iommubus.cli.check_config import settings
from iommubus.service.settings.config import Config
from iommubus.service.settings.sources import LEAVES
from tests.cli.commands import iommubus, read_json, rows

SHIPPED = Path(__file__).parents[2] / "packaging" / "iommubus.toml"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "iommubus.toml"
    path.write_text(
        'listen = ["unix:/run/a", "tcp:127.0.0.1:1"]\n[leases]\nseconds = 3\n[[rules]]\nuid = 5\nadmin = ["*"]\n'
    )
    return str(path)


def test_every_setting_is_told_with_where_it_comes_from(file: str) -> None:
    done = iommubus("check-config", file, IOMMUBUS_LIMITS_SPACES="7")

    first, *table = done.stdout.splitlines()
    assert (done.exit_code, done.stderr) == (0, "")
    assert first == f"ok: {file}, 1 settings of the environment, 1 rules; listens at unix:/run/a tcp:127.0.0.1:1"
    assert [row.split()[0] for row in table[1:-1]] == list(LEAVES)
    told = {row[0]: row[1:] for row in rows(done.stdout)}
    assert told["leases.seconds"] == ["3.0", file]
    assert told["limits.spaces"] == ["7", "the", "environment,", "IOMMUBUS_LIMITS_SPACES"]
    assert told["leases.longest"] == ["60.0", "default"]
    assert told["state"] == ["-", "default"]
    assert table[-1].startswith("rules[0]: {")
    assert json.loads(table[-1].removeprefix("rules[0]: "))["uid"] == 5


def test_json_is_the_whole_configuration(file: str) -> None:
    told = read_json("check-config", file, "--json")

    assert msgspec.convert(told, Config).leases.seconds == 3
    assert told["rules"][0]["admin"] == ["*"]


def test_the_environment_names_the_file(file: str) -> None:
    assert iommubus("check-config", IOMMUBUS_CONFIG=file).stdout.startswith(f"ok: {file}")


def test_without_a_file_there_are_the_defaults_and_the_clients_variable_is_left_alone() -> None:
    done = iommubus("check-config", IOMMUBUS_ADDRESS="unix:/elsewhere")

    assert done.exit_code == 0
    assert done.stdout.startswith(
        "ok: no file, 0 settings of the environment, 0 rules; listens at unix:/run/iommubus/bus.sock\n"
    )


def test_the_shipped_file_will_do() -> None:
    assert read_json("check-config", str(SHIPPED), "--json") == json.loads(msgspec.json.encode(Config()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[leases]\nsecond = 1", "there is no setting leases.second; did you mean leases.seconds?"),
        ("socket_mode = '9'", "socket_mode is '9', accepted: a text like"),
        ("x = ", "cannot be read"),
    ],
)
def test_what_would_not_do_is_one_line(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)

    done = iommubus("check-config", str(path))

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"iommubus check-config: {path}")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_settings_are_written_as_they_would_be_in_the_file() -> None:
    written = dict(settings(Config(listen=("unix:/a",))))

    assert (written["listen"], written["socket_mode"], written["producer_grace"]) == ('["unix:/a"]', '"0660"', "0.0")
