"""Cases for a bus: an acknowledgement means drained; what is in use holds it back (laws 1 and 8)."""

from typing import Final

from ...caps import Cap, Perm
from ...consumers.iotlb import Iotlb
from ...consumers.mirror import Mirror
from ...errors import Fenced
from .demands import demand, demand_raised, until
from .failures import failure_of
from .keeping import keep
from .scene import PAGE, Stage


async def a_pin_of_a_cache_holds_back_the_acknowledgement(stage: Stage) -> None:
    """Law 1: a cache has dropped the entry, and whoever copies from the old page is waited for and named."""
    scene = await stage.scene()
    old = scene.map(0)
    scene.map(4)
    cache = await keep(stage, Iotlb, Cap.UNMAP, name="vhost")
    pin = await cache.pin(5)
    demand("a pin is on where the address leads", (pin.mapping, pin.revoked), (old, False))
    scene.unmap(0)
    await until(lambda: pin.revoked)
    demand("nobody new gets what is gone", cache.lookup(5), None)
    scene.unmap(4)
    failure = await failure_of(scene.space.sync)
    demand("who uses what is gone is missing", [entry.subscriber for entry in failure.missing], ["vhost"])
    pieces = failure.missing[0].pieces
    demand("what it uses is named", pieces.truncated or old in pieces, wanted=True)
    pin.release()
    pin.release()
    await scene.sync()


async def a_pin_of_a_copy_holds_back_the_acknowledgement(stage: Stage) -> None:
    """Law 1: the same for one who was told of the MAP; the pin on another page holds back nothing."""
    scene = await stage.scene()
    copy = await keep(stage, Mirror, Cap.IOTLB, name="vfio")
    old = scene.map(0)
    scene.map(4)
    await scene.sync()
    with copy.pin(4 * PAGE) as other:
        with copy.pin(0) as pin:
            scene.unmap(0)
            await until(lambda: pin.revoked)
            (await failure_of(scene.space.sync)).demand_missing("vfio", old)
        await scene.sync()
        demand("what is still mapped is not taken away", other.revoked, wanted=False)


async def what_came_after_the_removal_is_pinned_freely(stage: Stage) -> None:
    """Law 1: what was pinned once the UNMAP had been applied holds back nothing of before, nor what goes elsewhere."""
    scene = await stage.scene()
    scene.map(0)
    scene.map(4)
    cache = await keep(stage, Iotlb, Cap.UNMAP)
    await cache.translate(0)
    scene.remap(0)
    await until(lambda: len(cache) == 0)
    with await cache.pin(0) as pin:
        demand("what is pinned is new", pin.mapping, scene.pages.lookup(0))
        await scene.sync()
        scene.unmap(4)
        await scene.sync()
        demand("it is not taken away", pin.revoked, wanted=False)


async def one_that_is_fenced_with_a_pin_is_missing_until_it_is_released(stage: Stage) -> None:
    """Law 8: a lease proves that nothing new is used; what is pinned has to end besides."""
    scene = await stage.scene()
    old = scene.map(0)
    cache = await keep(stage, Iotlb, Cap.UNMAP, name="vhost")
    pin = await cache.pin(0)
    demand("what is pinned is not proven stopped", await scene.space.fence("vhost"), wanted=False)
    with demand_raised(Fenced, subscription="vhost"):
        cache.lookup(0)
    scene.unmap(0)
    for _ in range(2):
        (await failure_of(scene.space.sync)).demand_missing("vhost", old)
    pin.release()
    await scene.sync()
    demand("once it was released it is forgotten", (await scene.sync()).outcomes, ())


async def what_is_left_of_a_view_holds_back_the_acknowledgement(stage: Stage) -> None:
    """Law 1: a slice that outlives its view reads on, so that it is waited for."""
    scene = await stage.scene()
    ram = await stage.bus.add_memory("ram", PAGE)
    copy = await keep(stage, Mirror, Cap.IOTLB, name="vfio")
    scene.space.map(0, PAGE, 0, Perm.RW, memory=ram)
    await scene.sync()
    slices = [copy.view(0)[8:16]]
    scene.space.unmap(0, PAGE)
    await until(lambda: len(copy) == 0)
    failure = await failure_of(scene.space.sync)
    demand("who reads what is gone is missing", [entry.subscriber for entry in failure.missing], ["vfio"])
    slices.clear()
    await scene.sync()


CASES: Final = (
    a_pin_of_a_cache_holds_back_the_acknowledgement,
    a_pin_of_a_copy_holds_back_the_acknowledgement,
    what_came_after_the_removal_is_pinned_freely,
    one_that_is_fenced_with_a_pin_is_missing_until_it_is_released,
    what_is_left_of_a_view_holds_back_the_acknowledgement,
)
