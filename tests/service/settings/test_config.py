"""What can be set: the example shows all of it, and settings that contradict each other are found."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from iommubus.errors import BadSetting
from iommubus.service.settings.config import Config, Leases, Limits, Metrics, problems
from iommubus.service.settings.rules import Rule
from iommubus.service.settings.sources import LEAVES, load
from iommubus.transport.address import TcpAddress, TlsAddress, UnixAddress
from iommubus.transport.tls import Identity

EXAMPLE = Path(__file__).parents[3] / "packaging" / "iommubus.toml"
TLS = Identity("c", "k", "a")


def uncommented() -> str:
    """Return the example with its settings in force; a comment for people has a space behind its sign."""
    return re.sub(r"(?m)^#(?=[a-z\[])", "", EXAMPLE.read_text(encoding="utf-8"))


def test_the_example_changes_nothing() -> None:
    assert load(EXAMPLE) == Config()


def test_the_example_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    """And what it shows for those without one can be used."""
    path = tmp_path / "all.toml"
    path.write_text(uncommented(), encoding="utf-8")
    shown = tomllib.loads(uncommented())
    config = load(path)

    assert {key for key in LEAVES if not has(shown, key)} == set()
    for part in "limits", "leases", "deadlines", "log", "producer_grace", "socket_mode":
        assert getattr(config, part) == getattr(Config(), part)
    assert config.state == Config().state_path((UnixAddress("/run/iommubus/bus.sock"),))
    assert [rule.wrong for rule in config.rules] == ["", "", ""]


def has(tree: dict[str, Any], key: str) -> bool:
    first, _, rest = key.partition(".")
    return first in tree and (not rest or has(tree[first], rest))


def test_nothing_is_granted_by_default() -> None:
    config = Config()
    assert (config.rules, config.tls, config.metrics.listen, config.producer_grace) == ((), None, None, 0.0)
    assert [type(address) for address in config.addresses] == [UnixAddress]
    assert config.mode == 0o660


def test_addresses_are_read() -> None:
    config = Config(listen=("unix:/a", "tls:h:1", "tcp:[::1]:2"), tls=TLS, socket_mode="600")
    assert config.addresses == (UnixAddress("/a"), TlsAddress("h", 1), TcpAddress("::1", 2))
    assert config.mode == 0o600
    assert problems(config) == []


WRONG = [
    (Config(listen=("unix:/a", "b")), "listen[1]", "'b'", "unix:/PATH"),
    (Config(listen=("tcp:192.0.2.1:1",)), "listen[0]", "'tcp:192.0.2.1:1'", "loopback"),
    (Config(listen=("tls:h:1",)), "listen[0]", "'tls:h:1'", "tls.certificate"),
    (Config(metrics=Metrics("tls:h:1"), tls=TLS), "metrics.listen", "'tls:h:1'", "tcp: on loopback, or unix:"),
    (Config(metrics=Metrics("tcp:192.0.2.1:1")), "metrics.listen", "'tcp:192.0.2.1:1'", "loopback"),
    (Config(metrics=Metrics("x")), "metrics.listen", "'x'", "unix:"),
    (Config(rules=(Rule(uid=1), Rule())), "rules[1]", "about nobody", "at least one"),
    (Config(leases=Leases(seconds=61.0)), "leases.seconds", "61", "leases.longest, which is 60"),
    (Config(limits=Limits(frame=2**23)), "limits.unacknowledged", "4194304", "limits.frame, which is 8388608"),
]


@pytest.mark.parametrize(("config", "key", "value", "accepted"), WRONG)
def test_settings_that_contradict_each_other_are_found(config: Config, key: str, value: str, accepted: str) -> None:
    found = problems(config)
    assert len(found) == 1
    assert found[0][0] == key
    assert value in found[0][1]
    assert accepted in found[0][2]


@pytest.mark.parametrize("listen", [None, "unix:/a", "tcp:127.0.0.1:1", "tcp:localhost:1"])
def test_counters_may_be_read_on_this_machine(listen: str | None) -> None:
    assert problems(Config(metrics=Metrics(listen))) == []


def test_the_state_is_beside_the_first_unix_socket() -> None:
    addresses = (TlsAddress("h", 1), UnixAddress("/a"), UnixAddress("/b"))
    assert Config().state_path(addresses) == "/a.leases"
    assert Config(state="/s").state_path(addresses) == "/s"
    with pytest.raises(BadSetting, match="state"):
        Config().state_path((TlsAddress("h", 1),))


def test_a_configuration_is_a_value() -> None:
    """It can be compared with the one after a reload, and shown."""
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()
