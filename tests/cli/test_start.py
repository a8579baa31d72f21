"""The way in, when what the command needs is there and when it is not."""

import sys

import pytest

from iommubus.cli import main


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_what_is_not_installed_is_named_with_the_way_to_get_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    monkeypatch.setattr("importlib.import_module", nothing)

    with pytest.raises(SystemExit, match=r"pip install 'iommubus\[cli\]'"):
        main()


def test_what_is_broken_is_not_mistaken_for_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'iommubus.cli.gone'", name="iommubus.cli.gone")

    monkeypatch.setattr("importlib.import_module", broken)

    with pytest.raises(ModuleNotFoundError):
        main()


def test_the_command_line_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["iommubus", "--version"])

    with pytest.raises(SystemExit) as done:
        main()

    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("iommubus ")
