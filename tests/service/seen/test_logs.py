"""Log lines: for people or as JSON, and one line each, whatever is in them."""

import io
import json
import logging
import sys
from collections.abc import Generator
from typing import Any, Literal

import pytest
from hypothesis import given, strategies as st

from iommubus.bus.logs import Lines
from iommubus.service.seen.logs import JsonFormatter, TextFormatter, configure
from iommubus.service.settings.config import Log

EVIL = "vtd0\nERROR all is lost\x1b[2J\u2028"


@pytest.fixture
def logger() -> Generator[logging.Logger]:
    """Give the package's logger, and leave it as it was."""
    logger = logging.getLogger("iommubus")
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def record(who: str, /, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("iommubus", logging.WARNING, "file", 1, "%s: left", (who,), None)
    made.created = 1_700_000_000.25
    vars(made).update(extra)
    return made


def test_a_line_for_people() -> None:
    line = TextFormatter().format(record("vfio", pid=7, peer="uid 1"))
    assert line == "2023-11-14T22:13:20.250Z warning vfio: left pid=7 peer=uid 1"


def test_a_line_for_programs() -> None:
    assert json.loads(JsonFormatter().format(record("vfio", pid=7, peer=ValueError("x"), text="lost"))) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "iommubus",
        "text": "vfio: left",
        "pid": 7,
        "peer": "x",
    }


@given(st.text())
def test_a_record_is_one_line_whatever_is_in_it(text: str) -> None:
    """A name cannot forge a line, nor do anything to a terminal."""
    for name in text, EVIL:
        assert TextFormatter().format(record(name, who=name)).isprintable()
        line = JsonFormatter().format(record(name, who=name))
        assert "\n" not in line
        line.encode()
        assert json.loads(line)["text"] == name.encode("utf-8", "backslashreplace").decode() + ": left"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_an_exception_stays_in_the_line(formatter: logging.Formatter) -> None:
    made = record("vfio")
    try:
        int("boom")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = formatter.format(made)
    assert "ValueError: invalid literal for int() with base 10: 'boom'" in line
    assert "\n" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_of_the_bus_go_where_they_were_sent(logger: logging.Logger, form: Literal["text", "json"]) -> None:
    """Once, also when it was said twice; and those below the level nowhere."""
    before = list(logger.handlers)
    configure(Log(form, "debug"), io.StringIO())
    stream = io.StringIO()
    configure(Log(form, "warning"), stream)
    assert len(logger.handlers) == len(before) + 1
    Lines().warn("kind", "vfio", "left")
    Lines().info("kind", "vfio", "came")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "vfio: left" in lines[0]
    if form == "json":
        parsed: dict[str, Any] = json.loads(lines[0])
        assert parsed["level"] == "warning"
