"""What was passed on is counted and shown, until it cannot be followed."""

import pytest

from iommubus import Bus, Cap
from iommubus.abi.vhost_user import Channel
from iommubus.bridges.vhost_user_tap.counting import Counts
from iommubus.bridges.vhost_user_tap.seen import Backlog, Gap, Seen
from iommubus.bridges.vhost_user_tap.showing import Shown
from iommubus.bridges.vhost_user_tap.watching import Troubles, Watch
from iommubus.bridging.memories import PeerMemories
from iommubus.bridging.telling import Notice, Told
from tests.loops import every_loop
from tests.peers import open_descriptors
from tests.vhost_user_talk import Said, features, invalidate, memfd, ram_table, update


def seen(said: Said, *fds: int, to_back: bool = True, channel: Channel = Channel.FRONT_END, whole: bool = True) -> Seen:
    return Seen(0, channel, to_back, said.data, whole, len(fds), list(fds))


class Given(Backlog):
    """Gives what it was given, at once."""

    def __init__(self, passed: list[Seen | Gap]) -> None:
        super().__init__(lambda wake: wake())
        self._passed = [passed, []]

    async def take(self) -> list[Seen | Gap]:
        return self._passed.pop(0)


async def watch(*passed: Seen | Gap) -> tuple[list[str], list[Told], Counts]:
    """Watch what was passed on; return what was published, what was told, and what was counted."""
    told: list[Told] = []
    counts = Counts()
    async with Bus() as bus:
        space = await bus.create_space("s", granule=1, offers=Cap.ALL)
        trouble = Troubles(told.append)
        shown = Shown(space, PeerMemories(bus, "ram"), trouble)
        backlog = Given([*passed])
        async with bus.observe("s") as observer:
            await Watch("peers", shown, counts, tell=told.append, trouble=trouble).run(backlog)
            await space.close()
            kinds = [type(await anext(aiter(observer))).__name__ for _ in range(observer.statistics().lag)]
    return kinds, told, counts


@every_loop
async def test_what_it_means_is_shown() -> None:
    events, _, counts = await watch(seen(ram_table(), memfd()), seen(update(0)), seen(invalidate(0)))

    assert events == ["Map", "Unmap"]
    assert (counts.statistics().updates, counts.statistics().invalidates) == (1, 1)


@every_loop
async def test_everything_goes_where_something_was_left_out_and_is_shown_again_behind() -> None:
    events, told, _ = await watch(seen(update(0)), Gap(), Gap(), seen(invalidate(0)), seen(update(0)))

    assert events == ["Map", "Unmap", "DevIotlbUnmap", "Map", "Unmap"]  # the last as the space is closed
    assert len([one for one in told if isinstance(one, Notice)]) == 1


@every_loop
async def test_nothing_is_shown_behind_a_gap_for_good() -> None:
    events, _, counts = await watch(
        seen(update(0)), Gap(for_good=True), seen(update(0x1000)), seen(ram_table(), memfd())
    )

    assert events == ["Map", "Unmap"]
    assert counts.statistics().updates == 2


@pytest.mark.parametrize(
    ("to_back", "channel", "shown"),
    [(True, Channel.FRONT_END, 2), (False, Channel.FRONT_END, 3), (True, Channel.BACK_END, 3)],
)
@every_loop
async def test_only_a_front_end_that_cannot_be_followed_ends_it(to_back: bool, channel: Channel, shown: int) -> None:
    """What the back end says changes nothing, and the front end is still read."""
    strange = seen(Said(b"strange"), memfd(), to_back=to_back, channel=channel, whole=False)
    events, told, counts = await watch(seen(update(0)), strange, seen(update(0x1000)))

    assert len(events) == shown
    assert len(told) == 1
    assert counts.unread == 1


@every_loop
async def test_no_descriptor_is_left_whatever_happens() -> None:
    before = set(open_descriptors().values())
    wrong = ram_table()._replace(data=ram_table().data[:-1])
    await watch(
        seen(wrong, memfd()), seen(features(0), memfd()), seen(ram_table(), memfd(), memfd()),
        seen(ram_table(), memfd(), to_back=False),
    )  # fmt: skip

    assert {path for path in open_descriptors().values() if "memfd:test" in path} <= before
