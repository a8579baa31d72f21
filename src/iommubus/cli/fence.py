"""``iommubus fence``: stop a subscriber for good."""

from typing import Annotated, Any

import typer

from ..errors import UnknownName
from ..wire.messages.syncing import Fence, FenceJudged
from .options import AddressOption, IdentityOption, JsonOption
from .printing import print_document, print_lines
from .running import FAILED, quit_with, run
from .talking import ask, where


def fence(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="Name of the space.")],
    subscriber: Annotated[
        str, typer.Argument(metavar="SUBSCRIBER", help="Name of the subscriber, as `iommubus subscribers` lists it.")
    ],
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a subscriber of a space for good: it is told of nothing more, and may use nothing any more.

    Fails if it is not proven that it has stopped; then every sync of the space fails until it is.
    """

    async def work() -> list[Any]:
        try:
            return await ask(where(address, identity), "fence", lambda request: Fence(request, space, subscriber))
        except UnknownName as unknown:
            if unknown.name != subscriber:
                raise
            quit_with("fence", f"{space!r} has no subscriber {subscriber!r} that lives or may still use something")

    judged: FenceJudged = run("fence", work)[-1]
    if as_json:
        print_document({"space": space, "subscriber": subscriber, "proven": judged.proven})
        raise typer.Exit(0 if judged.proven else FAILED)
    if not judged.proven:
        quit_with(
            "fence",
            f"{subscriber!r} is fenced, and it is not proven that it has stopped: "
            f"until it is, every sync of {space!r} fails",
        )
    print_lines([f"{subscriber} is fenced, and proven stopped"])
