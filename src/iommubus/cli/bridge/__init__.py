"""``iommubus bridge``: real programs and kernels on the bus; one module a kind."""

from typing import Final

import typer

from ..groups import Commands

KINDS: Final[tuple[str, ...]] = (
    "vhost-user-backend",
    "vhost-user-frontend",
    "vhost-user-tap",
    "vhost",
    "vfio",
    "vfio-user-server",
    "vfio-user-client",
)
"""The kinds, in the order of their list: sockets of vhost-user, the kernel, sockets of vfio-user."""


class Kinds(Commands):
    """The kinds of bridge."""

    names = KINDS
    package = __package__ or ""


app = typer.Typer(
    name="bridge",
    help="Connect a real program or a kernel with the bus.",
    cls=Kinds,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def frame() -> None:
    """Connect a real program or a kernel with the bus."""
