"""Commands that are loaded when they are needed: ``iommubus`` has some, and one of those has others."""

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command


class Commands(TyperGroup):
    """Commands; each is a function of its own name in a module of its own name, or a package whose ``app`` has more."""

    names: ClassVar[tuple[str, ...]]
    """Theirs, in the order of their list."""

    package: ClassVar[str]
    """Where their modules are."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._loaded: dict[str, Any] = {}
        self.commands: dict[str, Any] = dict.fromkeys(self.names)  # what a misspelt name is compared with

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        """Return their names."""
        return list(self.names)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]  # noqa: ARG002
        """Return one of them, `None` if there is none of this name."""
        if cmd_name in self.names and cmd_name not in self._loaded:
            self._loaded[cmd_name] = load(self.package, cmd_name)
        return self._loaded.get(cmd_name)


def load(package: str, name: str) -> Any:
    """Import a command, and return it as part of the command line."""
    word = name.replace("-", "_")
    module = import_module(f"{package}.{word}")
    if not hasattr(module, word):
        return get_command(module.app)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(getattr(module, word))
    return get_command(alone)
