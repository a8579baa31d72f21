"""How the daemon's log lines look: for people, or one JSON object a line.

A line is one line, whatever a peer has put into a name: characters that are no
part of a text are written as escapes.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

from ..settings.config import Log

#: what a record has without anybody's doing; what it has beyond that was given as ``extra``
OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class TextFormatter(logging.Formatter):
    """Writes ``time level text key=value``, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = [f"{key}={one_line(str(value))}" for key, value in extra(record).items()]
        trouble = [one_line(text) for text in [self._trouble(record)] if text]
        words = [moment(record), record.levelname.lower(), one_line(record.getMessage()), *fields, *trouble]
        return " ".join(words)

    def _trouble(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(TextFormatter):
    """Writes an object with ``time``, ``level``, ``logger``, ``text``, what was given beside, and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        trouble = self._trouble(record)
        line: dict[str, object] = {key: plain(value) for key, value in extra(record).items()}
        line |= {"time": moment(record), "level": record.levelname.lower(), "logger": record.name}
        line["text"] = printable(record.getMessage())
        if trouble:
            line["exception"] = trouble
        return msgspec.json.encode(line).decode()


FORMATS: Final[Mapping[str, type[TextFormatter]]] = {"text": TextFormatter, "json": JsonFormatter}
"""What writes lines, by the value of ``log.format``."""


def configure(log: Log, stream: TextIO) -> logging.Handler:
    """Have the lines of this package written to ``stream``; return what writes them.

    The handler that an earlier call returned is replaced.
    """
    logger = logging.getLogger("iommubus")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FORMATS[log.format]())
    for earlier in logger.handlers[:]:
        if isinstance(earlier.formatter, TextFormatter):
            logger.removeHandler(earlier)
    logger.addHandler(handler)
    logger.setLevel(log.level.upper())
    return handler


def extra(record: logging.LogRecord) -> dict[str, object]:
    """Return what was given beside the text."""
    return {key: value for key, value in vars(record).items() if key not in OWN}


def moment(record: logging.LogRecord) -> str:
    """Return when a record was made, in UTC, to the millisecond."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def one_line(text: str) -> str:
    """Return a text with escapes for what would break its line, or the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable(text: str) -> str:
    """Return a text without lone surrogates, which no UTF-8 has."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: object) -> object:
    """Return a value as JSON has it: what it does not know, as a text."""
    return value if isinstance(value, int | float | bool) or value is None else printable(str(value))
