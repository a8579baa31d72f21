"""The frame of the commands: each is loaded when it is needed, and told of."""

import subprocess
import sys

import pytest
import typer
from typer.main import get_command

from iommubus.cli.app import COMMANDS, app
from iommubus.cli.groups import Commands
from tests.cli.commands import iommubus
from tests.daemons import environment


def loaded_by(*words: str) -> set[str]:
    """Return the modules that a process has loaded when a command is over."""
    probe = f"""
import sys
from iommubus.cli.app import app
try:
    app({list(words)!r}, prog_name="iommubus")
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment(), check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_help_names_every_command() -> None:
    done = iommubus("--help")

    assert done.exit_code == 0
    shown = [line.replace("│", "").split()[0] for line in done.stdout.splitlines() if line.startswith("│ ")]
    assert [word for word in shown if word in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_what_it_does(name: str) -> None:
    done = iommubus(name, "--help")

    assert done.exit_code == 0
    assert f"iommubus {name} " in done.stdout


def test_a_misspelt_command_is_corrected() -> None:
    done = iommubus("spacs")

    assert done.exit_code == 2
    assert "Did you mean 'spaces'?" in " ".join(done.stderr.split())


def test_a_command_is_made_once() -> None:
    group = get_command(app)
    assert isinstance(group, Commands)
    context = typer.Context(group)

    assert group.get_command(context, "ping") is group.get_command(context, "ping")
    assert group.get_command(context, "pong") is None
    assert group.list_commands(context) == list(COMMANDS)


def test_a_command_loads_what_it_needs() -> None:
    version = loaded_by("--version")
    assert version.isdisjoint({"uvloop", "ssl", "iommubus.client", "iommubus.service", "iommubus.cli.demo"})

    config = loaded_by("check-config", "/nowhere")
    assert "iommubus.service.settings.sources" in config
    assert config.isdisjoint({"uvloop", "rich.table", "iommubus.client", "iommubus.service.serve"})

    ping = loaded_by("ping", "unix:/nowhere")
    assert "iommubus.client.channel" in ping
    assert ping.isdisjoint({"rich.table", "iommubus.service.daemon", "iommubus.demo"})


@pytest.mark.parametrize(
    ("shell", "words", "expected"), [("bash", "iommubus sp", "spaces"), ("zsh", "iommubus che", "check-config")]
)
def test_the_shell_completes_commands(
    shell: str, words: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_IOMMUBUS_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setattr(sys, "argv", ["iommubus"])

    with pytest.raises(SystemExit) as done:
        app(prog_name="iommubus")

    assert done.value.code == 0
    assert expected in capsys.readouterr().out
