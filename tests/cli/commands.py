"""Commands, called in this process."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from iommubus.cli.app import app


def iommubus(*words: str, **variables: str) -> Result:
    """Run a command, and return how it ended; only what a person can cause may end it early."""
    return CliRunner(env=variables).invoke(app, list(words), catch_exceptions=False)


def read_json(*words: str) -> Any:
    """Run a command that has to succeed, and return the document that it prints."""
    done = iommubus(*words)
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def rows(text: str) -> list[list[str]]:
    """Return the words of each line of a table without its head."""
    return [line.split() for line in text.splitlines()[1:]]
