"""A file, the environment over it, flags over both; what is wrong is named with its place and what would be right."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from iommubus.compiled import PURE
from iommubus.errors import BadSetting, ConfigError, ConfigUnreadable, UnknownSetting
from iommubus.service.settings.config import Config
from iommubus.service.settings.sources import CONFIG_VARIABLE, LEAVES, accepted, load, variable_of
from iommubus.transport.address import ADDRESS_VARIABLE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "iommubus.toml"


def test_the_environment_is_over_the_file_and_flags_are_over_both(file: Path) -> None:
    file.write_text("[limits]\nframe = 5000\nspaces = 5\nmemories = 5", encoding="utf-8")
    environ = {"IOMMUBUS_LIMITS_SPACES": "6", "IOMMUBUS_LIMITS_MEMORIES": "6", "PATH": "/bin"}
    limits = load(file, environ, {"limits.memories": 7}).limits
    assert (limits.frame, limits.spaces, limits.memories) == (5000, 6, 7)
    assert limits.connections == Config().limits.connections


def test_without_anything_everything_is_the_default() -> None:
    assert load() == load(None, {}, {}) == Config()


def test_the_variable_of_clients_is_no_setting_and_no_mistake() -> None:
    assert load(None, {ADDRESS_VARIABLE: "unix:/elsewhere", PURE: "1"}) == Config()


def test_the_environment_names_the_file_unless_somebody_does(file: Path) -> None:
    file.write_text("[limits]\nspaces = 5", encoding="utf-8")
    assert load(None, {CONFIG_VARIABLE: str(file)}).limits.spaces == 5
    assert load(None, {CONFIG_VARIABLE: ""}) == Config()
    assert load(file, {CONFIG_VARIABLE: "/nowhere"}).limits.spaces == 5


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("listen", "unix:/a, unix:/b,", ("unix:/a", "unix:/b")),
        ("listen", "", ()),
        ("state", "5", "5"),
        ("producer_grace", "1.5", 1.5),
        ("limits.frame", "8192", 8192),
        ("leases.seconds", "2", 2.0),
        ("log.format", "json", "json"),
    ],
)
def test_a_text_is_read_as_what_the_setting_is(key: str, text: str, value: object) -> None:
    for config in load(None, {variable_of(key): text}), load(None, None, {key: text}):
        found: Any = config
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value
        assert type(found) is type(value)


def test_a_table_that_lacks_something_is_completed_from_the_environment(file: Path) -> None:
    file.write_text('[tls]\ncertificate = "c"\nauthority = "a"', encoding="utf-8")
    tls = load(file, {"IOMMUBUS_TLS_KEY": "k"}).tls
    assert tls is not None
    assert tls.key == "k"


def test_no_two_settings_have_one_variable() -> None:
    assert len({variable_of(key) for key in LEAVES}) == len(LEAVES) > 20
    assert CONFIG_VARIABLE not in {variable_of(key) for key in LEAVES}
    assert not any(key.startswith("rules") for key in LEAVES)


@pytest.mark.parametrize(
    ("text", "key", "value", "wanted"),
    [
        ('[limits]\nframe = "a"', "limits.frame", "'a'", "a whole number, 4096 to 67108864"),
        ("[limits]\nframe = 1.5", "limits.frame", "1.5", "a whole number"),
        ("[limits]\nframe = true", "limits.frame", "True", "a whole number"),
        ("[limits]\nspaces = 0", "limits.spaces", "0", "a whole number, 1 to 2147483647"),
        ("[leases]\nseconds = 0", "leases.seconds", "0", "a number, more than 0 to 86400"),
        ("[leases]\nseconds = nan", "leases.seconds", "nan", "a number"),
        ("[leases]\nseconds = inf", "leases.seconds", "inf", "a number"),
        ("producer_grace = -1", "producer_grace", "-1", "a number, 0 to 86400"),
        ('[log]\nformat = "xml"', "log.format", "'xml'", "'json' or 'text'"),
        ('socket_mode = "99"', "socket_mode", "'99'", "a text like"),
        ("listen = 'unix:/a'", "listen", "'unix:/a'", "a list, each a text"),
        ("listen = ['unix:/a', 1]", "listen[1]", "1", "a text"),
        ("limits = 3", "limits", "3", "a table of frame, connections"),
        ("tls = 3", "tls", "3", "a table of certificate, key, authority"),
        ("[tls]\nkey = 'k'", "tls.certificate", "not set", "a text"),
        ("rules = 3", "rules", "3", "a list, each a table of uid"),
        ("rules = [3]", "rules[0]", "3", "a table of uid"),
        ("[[rules]]\nuid = 1\n[[rules]]\nuid = 'root'", "rules[1].uid", "'root'", "a whole number, 0 to 4294967294"),
        ("[[rules]]\nuid = 1\npublish = ['a', 1]", "rules[0].publish[1]", "1", "a text"),
        ("[[rules]]\nanybody = 1", "rules[0].anybody", "1", "true or false"),
        ("[[rules]]\npublish = ['a']", "rules[0]", "about nobody, or about two things", "at least one of uid"),
        ("listen = ['tls:h:1']", "listen[0]", "'tls:h:1'", "tls.certificate"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_could(
    file: Path, text: str, key: str, value: str, wanted: str
) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadSetting) as bad:
        load(file)
    assert (bad.value.source, bad.value.key, bad.value.value) == (str(file), key, value)
    assert wanted in bad.value.accepted


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("lisen = []", "lisen", "listen"),
        ("xyzzy = 1", "xyzzy", ""),
        ("[limits]\nframes = 1", "limits.frames", "limits.frame"),
        ("[limit]\nframe = 1", "limit", "limits"),
        ("[tls]\ncert = 'c'", "tls.cert", ""),
        ("[[rules]]\nuid = 1\n[[rules]]\npublishes = []", "rules[1].publishes", "rules[1].publish"),
    ],
)
def test_a_setting_that_does_not_exist_is_named_with_the_nearest(file: Path, text: str, key: str, nearest: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UnknownSetting) as unknown:
        load(file)
    assert (unknown.value.source, unknown.value.key) == (str(file), key)
    assert unknown.value.nearest in {nearest, "tls.certificate"}


def test_the_environment_and_the_command_line_are_blamed_for_what_they_gave() -> None:
    with pytest.raises(BadSetting, match=r"^the environment, IOMMUBUS_LIMITS_FRAME: limits\.frame is 'x'"):
        load(None, {"IOMMUBUS_LIMITS_FRAME": "x"})
    with pytest.raises(BadSetting, match=r"^the command line: log\.format is 'xml', accepted: 'json' or 'text'"):
        load(None, {}, {"log.format": "xml"})
    with pytest.raises(BadSetting, match=r"^the environment, IOMMUBUS_LISTEN: listen\[0\] is 'x'"):
        load(None, {"IOMMUBUS_LISTEN": "x"})
    with pytest.raises(BadSetting, match=r"^the command line: leases\.seconds is 100"):
        load(None, {"IOMMUBUS_LEASES_SECONDS": "1"}, {"leases.seconds": 100})
    with pytest.raises(UnknownSetting) as unknown:
        load(None, {"IOMMUBUS_LIMIT_FRAME": "1"})
    assert (unknown.value.key, unknown.value.nearest) == ("IOMMUBUS_LIMIT_FRAME", "IOMMUBUS_LIMITS_FRAME")
    with pytest.raises(UnknownSetting) as unknown:
        load(None, {}, {"limits.frames": 1})
    assert (unknown.value.key, unknown.value.nearest) == ("limits.frames", "limits.frame")


def test_a_file_that_is_no_toml_says_where(file: Path) -> None:
    file.write_text("a = 1\nb = =", encoding="utf-8")
    with pytest.raises(ConfigUnreadable, match="line 2"):
        load(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigUnreadable, match="utf-8"):
        load(file)
    with pytest.raises(ConfigUnreadable, match="No such file"):
        load(file.with_name("other"))


def test_every_setting_says_what_it_may_be() -> None:
    assert all(accepted(leaf.kind) for leaf in LEAVES.values())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["frame", "uid", "key", "x"]), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(LEAVES)), VALUES)
def test_whatever_a_flag_is_it_is_taken_or_refused(key: str, value: object) -> None:
    """Nothing else is raised, and what is taken is as it should be."""
    with suppress(ConfigError):
        config = load(None, {}, {key: value})
        assert msgspec.convert(msgspec.to_builtins(config), Config) == config
