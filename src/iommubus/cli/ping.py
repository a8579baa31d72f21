"""``iommubus ping``: whether a daemon is there, and how it is."""

from typing import Annotated, Any

import anyio
import typer

from ..errors import Disconnected
from ..wire.messages.greeting import Feature
from ..wire.negotiation import FEATURES
from . import words
from .options import SECONDS, AddressOption, IdentityOption, JsonOption
from .printing import print_document, print_facts
from .running import run
from .talking import Where, asking, where


def ping(
    target: Annotated[str | None, typer.Argument(metavar="ADDRESS", help="The same as --address.")] = None,
    timeout: Annotated[
        float, typer.Option(parser=SECONDS, metavar="SECONDS", help="How long to wait for an answer.")
    ] = 5.0,
    address: AddressOption = None,
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the daemon for a sign of life: fails, with the reason, if nobody answers.

    Tells how long the answer took, which version of the protocol is spoken, and how the daemon is.
    """

    async def work() -> dict[str, Any]:
        return await _ping(where(target or address, identity), timeout)

    found = run("ping", work)
    if as_json:
        print_document(found)
        return
    print_facts(
        (
            ("address", found["address"]),
            ("answered in", words.seconds_text(found["seconds"])),
            ("protocol", f"version {found['protocol']}, with {', '.join(found['features']) or 'no extras'}"),
            ("daemon", found["daemon"]),
            ("lease", "none" if found["lease_seconds"] is None else f"{found['lease_seconds']:g} s"),
            ("health", found["health"]),
        )
    )


async def _ping(place: Where, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109 - it says what it was
    try:
        with anyio.fail_after(timeout):
            async with asking(place, "ping", features=FEATURES) as channel:
                took = await channel.ping()
                welcome, draining = channel.welcome, channel.draining
    except TimeoutError:
        raise Disconnected(str(place.address), f"it did not answer within {timeout:g} s") from None
    return {
        "address": str(place.address),
        "seconds": took,
        "protocol": welcome.version,
        "features": [str(feature.name).lower() for feature in Feature if welcome.features & feature],
        "daemon": f"{welcome.daemon:#x}",
        "lease_seconds": welcome.lease_us / 1e6 if welcome.lease_us else None,
        "health": f"stops soon: {draining}" if draining else "ok",
    }
