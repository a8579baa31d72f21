"""What waits to be looked at is bounded, in order, and says where something was left out."""

from threading import Thread

import anyio
import pytest

from iommubus.abi.vhost_user import Channel, Request
from iommubus.bridges.vhost_user_tap.seen import Backlog, Gap, Seen
from iommubus.bus.soon import soon_in_this_loop
from tests.loops import every_loop
from tests.peers import open_descriptors
from tests.vhost_user_talk import memfd

IOTLB = Request.IOTLB_MSG
KICK = Request.SET_VRING_KICK


def seen(number: int, *fds: int, channel: Channel = Channel.FRONT_END) -> Seen:
    return Seen(number, channel, True, b"", True, len(fds), list(fds))


def backlog(limit: int, spare: int) -> Backlog:
    return Backlog(lambda callback: callback(), limit, spare)


async def taken(waiting: Backlog) -> list[int | Gap]:
    return [each if isinstance(each, Gap) else each.time for each in await waiting.take()]


@every_loop
async def test_a_thread_puts_and_the_loop_takes_in_order() -> None:
    waiting = Backlog(soon_in_this_loop())

    def put_all() -> None:
        for number in range(2_000):
            waiting.put(seen(number), IOTLB)

    thread = Thread(target=put_all)
    thread.start()
    numbers: list[int | Gap] = []
    while len(numbers) < 2_000:
        numbers += await taken(waiting)
    thread.join()

    assert numbers == list(range(2_000))
    assert waiting.lost == 0


@every_loop
async def test_who_waits_is_told_of_the_end() -> None:
    waiting = Backlog(soon_in_this_loop())
    async with anyio.create_task_group() as tasks:

        async def take_to_the_end() -> None:
            assert await waiting.take() == []

        tasks.start_soon(take_to_the_end)
        await anyio.wait_all_tasks_blocked()
        waiting.end()


@pytest.mark.asyncio
async def test_what_came_before_the_end_is_given() -> None:
    waiting = backlog(4, 4)
    waiting.put(seen(1), IOTLB)
    waiting.end()

    assert await taken(waiting) == [1]
    assert await taken(waiting) == []


@pytest.mark.asyncio
async def test_a_gap_stands_where_updates_were_left_out() -> None:
    waiting = backlog(3, 4)
    for number in range(6):
        waiting.put(seen(number), IOTLB)
    waiting.put(seen(6), KICK)
    waiting.put(seen(7), IOTLB)
    waiting.put(seen(8, channel=Channel.BACK_END), KICK)

    assert await taken(waiting) == [0, 1, 2, Gap(), 6, Gap()]
    assert waiting.lost == 5
    waiting.put(seen(9), IOTLB)
    assert await taken(waiting) == [9]


@pytest.mark.asyncio
async def test_nothing_more_comes_behind_the_loss_of_what_gives_the_rest_its_meaning() -> None:
    waiting = backlog(1, 2)
    for number in range(5):
        waiting.put(seen(number), KICK)

    assert await taken(waiting) == [0, 1, 2, Gap(for_good=True)]
    waiting.put(seen(5), KICK)
    waiting.put(seen(6), IOTLB)
    waiting.end()
    assert await taken(waiting) == []
    assert waiting.lost == 4


@pytest.mark.asyncio
async def test_descriptors_that_nobody_takes_are_closed() -> None:
    before = open_descriptors()
    waiting = backlog(1, 0)
    for number in range(3):
        waiting.put(seen(number, memfd()), KICK)
    waiting.close()

    assert open_descriptors() == before
