"""The parts of ``docs/reference/cli.md`` that are made from the code.

A test holds that they are what is made here.  To write them anew::

    .venv/bin/python -m tests.cli.page
"""

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_args

from msgspec import Struct
from typer.models import ArgumentInfo

from iommubus.caps import Cap
from iommubus.cli.app import COMMANDS
from iommubus.cli.bridge import KINDS
from iommubus.cli.options import PANEL
from iommubus.cli.orders import ORDERS
from iommubus.cli.spaces import spaces

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


class Param(Struct, frozen=True):
    """A parameter of a command, as its function says it.

    Attributes:
        info: What `typer` is told of it.
        kind: The class of its values.
        default: Its value where nothing is said.
        name: Its name in Python.
    """

    info: Any
    kind: Any
    default: Any
    name: str

    @property
    def shared(self) -> bool:
        """Whether it is one of the connection, of which the page tells once."""
        return bool(self.info.rich_help_panel == PANEL)

    @property
    def placeholder(self) -> str:
        """What stands for its value."""
        values = (
            [each.value for each in self.kind] if inspect.isclass(self.kind) and issubclass(self.kind, Enum) else []
        )
        return str(self.info.metavar or "|".join(values))

    @property
    def spelling(self) -> str:
        """How it is written."""
        if isinstance(self.info, ArgumentInfo):
            return f"`{self.placeholder}`"
        names = [name for name in (self.info.default, *(self.info.param_decls or ())) if isinstance(name, str)]
        spelled = ", ".join(f"`{name}`" for name in names or [f"--{self.name.replace('_', '-')}"])
        return spelled if self.kind is bool else f"{spelled} {self.placeholder}"

    @property
    def shown(self) -> str:
        """What holds where nothing is said."""
        if isinstance(self.info.show_default, str):
            return f"`{self.info.show_default}`"
        if self.default in (None, False, inspect.Parameter.empty):
            return ""
        if self.default is Cap.ALL:
            return "all"
        return f"`{getattr(self.default, 'value', self.default)}`"


def all_commands() -> Iterator[str]:
    """Yield every command: how it is written, what it does, and its parameters."""
    for name, command in functions():
        params = list(params_of(command))
        arguments = [param for param in params if isinstance(param.info, ArgumentInfo)]
        words = [
            param.placeholder if param.default is inspect.Parameter.empty else f"[{param.placeholder}]"
            for param in arguments
        ]
        yield from (f"## `iommubus {name}`", "")
        yield from ("```text", " ".join(["iommubus", name, "[OPTIONS]", *words]), "```", "")
        yield from (inspect.getdoc(command) or "", "")
        yield from rows("argument", arguments)
        yield from rows("option", [param for param in params if param not in arguments and not param.shared])


def chapters() -> list[str]:
    """Return how each command is written, in their order; ``bridge`` is one for each kind."""
    kinds = [f"bridge {kind}" for kind in KINDS]
    return [name for command in COMMANDS for name in (kinds if command == "bridge" else [command])]


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the function of each command, and how that is written."""
    for name in chapters():
        path = name.replace("-", "_").replace(" ", ".")
        yield name, getattr(import_module(f"iommubus.cli.{path}"), path.rpartition(".")[2])


def all_connection() -> Iterator[str]:
    """Yield the options of every command that talks to a daemon."""
    yield from rows("option", [param for param in params_of(spaces) if param.shared])


def params_of(command: Callable[..., Any]) -> Iterator[Param]:
    """Yield the parameters of a command."""
    for name, param in inspect.signature(command).parameters.items():
        annotated, info = get_args(param.annotation)
        kind = next(iter(get_args(annotated)), annotated)
        yield Param(info, kind, param.default, name)


def rows(title: str, params: list[Param]) -> Iterator[str]:
    """Yield a table of parameters."""
    if not params:
        return
    yield from (f"| {title} | default | |", "|---|---|---|")
    for param in params:
        variable = f" Variable: `{param.info.envvar}`." if param.info.envvar else ""
        yield f"| {escaped(param.spelling)} | {escaped(param.shown)} | {escaped(param.info.help)}{variable} |"
    yield ""


def escaped(text: str) -> str:
    """Return a text as it stands in a table."""
    return text.replace("|", "\\|")


def all_orders() -> Iterator[str]:
    """Yield the orders that ``iommubus hold`` takes."""
    yield from ("| order | |", "|---|---|")
    for order in ORDERS.values():
        yield f"| `{order.usage}` | {order.about} |"


PARTS: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "connection": all_connection,
    "commands": all_commands,
    "orders": all_orders,
}
"""What is made, by its name in the page."""


def filled(page: str) -> str:
    """Return a page with every part in it made anew."""
    for name, lines in PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = "\n\n".join((before + begin, "\n".join(lines()).strip(), end + after))
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
