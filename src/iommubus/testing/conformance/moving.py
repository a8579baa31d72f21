"""Endpoints that are moved between two spaces, and those who follow them."""

from collections.abc import Iterable
from typing import Any, Final

from ...bus.abc import AddressSpace, Endpoint
from ...caps import Cap
from .demands import demand
from .follower import Follower
from .scene import Scene, Stage

SPACES: Final = ("old", "new")
"""Names of the two spaces that endpoints move between."""


async def two_spaces(stage: Stage, **options: Any) -> tuple[Scene, Scene]:
    """Make two spaces that have a page in common, which leads elsewhere, and each a mapping of its own."""
    old, new = [await stage.scene(name, **options) for name in SPACES]
    for scene, page in ((old, 8), (new, 16)):
        scene.map(0)
        scene.map(page, 2)
    return old, new


async def endpoint_in(stage: Stage, space: AddressSpace | None, name: str = "device") -> Endpoint:
    """Make an endpoint that is attached to a space."""
    endpoint = await stage.bus.create_endpoint(name)
    if space is not None:
        endpoint.attach(space)
    return endpoint


async def join(
    stage: Stage, endpoint: str | Iterable[str] = "device", caps: Cap = Cap.IOTLB, **options: Any
) -> Follower:
    """Have somebody follow an endpoint, who is current when this returns."""
    follower = await stage.follow(endpoint, caps, SPACES, **options)
    await follower.events.wait_current()
    await stage.sync()
    return follower


async def demand_holds(stage: Stage, follower: Follower, scene: Scene | None) -> None:
    """Demand that after a sync somebody holds what is mapped in a space, or nothing."""
    await stage.sync()
    wanted = [] if scene is None else scene.pages.mappings()
    demand("who follows an endpoint holds what is mapped where that is", follower.holds(), wanted)


def demand_place(endpoint: Endpoint, name: str | None) -> None:
    """Demand that an endpoint is in the space of a name, or in none."""
    space = endpoint.space
    demand("an endpoint knows where it is", None if space is None else space.name, name)
