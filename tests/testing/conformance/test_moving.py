"""What is demanded of those who follow an endpoint is missed where it is not so."""

import anyio
import pytest

from iommubus import Bus
from iommubus.errors import PromiseBroken
from iommubus.testing.conformance.moving import demand_holds, demand_place, endpoint_in, join, two_spaces
from iommubus.testing.conformance.scene import Stage
from tests.loops import every_loop


@every_loop
async def test_what_is_held_is_compared_with_the_space_where_the_endpoint_is() -> None:
    async with Bus() as bus, anyio.create_task_group() as tasks:
        stage = Stage(bus, tasks, 10)
        old, new = await two_spaces(stage)
        await endpoint_in(stage, old.space)
        follower = await join(stage)
        await demand_holds(stage, follower, old)
        for wrong in (new, None):
            with pytest.raises(PromiseBroken, match="holds what is mapped where that is"):
                await demand_holds(stage, follower, wrong)
        tasks.cancel_scope.cancel()


@every_loop
async def test_the_spaces_have_a_page_in_common_that_leads_elsewhere() -> None:
    """Who holds the old mapping after a move is found out."""
    async with Bus() as bus, anyio.create_task_group() as tasks:
        scenes = await two_spaces(Stage(bus, tasks, 10))
        first, second = [scene.pages.lookup(0) for scene in scenes]
        assert first is not None
        assert second is not None
        assert first.target != second.target


@every_loop
async def test_where_an_endpoint_is_has_a_name() -> None:
    async with Bus() as bus, anyio.create_task_group() as tasks:
        stage = Stage(bus, tasks, 10)
        old, _ = await two_spaces(stage)
        endpoint = await endpoint_in(stage, old.space)
        demand_place(endpoint, "old")
        demand_place(await endpoint_in(stage, None, "other"), None)
        for wrong in ("new", None):
            with pytest.raises(PromiseBroken, match="knows where it is"):
                demand_place(endpoint, wrong)
