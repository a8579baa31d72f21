"""What is said into a pipe comes out at its other end, and its end is noticed."""

import socket

import anyio
import pytest

from iommubus.caps import Perm
from iommubus.demo.pipe import QUESTIONS, Consume, Ended, Failed, Order, Pipe, Question, Serve, Started
from iommubus.mapping import Mapping
from tests.loops import every_loop


async def pair() -> tuple[Pipe, Pipe]:
    one, other = socket.socketpair()
    return await Pipe.over(one), await Pipe.over(other)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Serve("unix:/a"), Order),
        (Consume("unix:/a", "m", "K", ["s", 4096]), Order),
        (Question("miss", [2**64 - 1]), Question),
        (Started(), Started | Failed),
        (Failed("because"), Started | Failed),
        (Mapping(0, 2**64 - 1, 2**64 - 1, Perm.RW), QUESTIONS["miss"]),
        (None, QUESTIONS["miss"]),
        ({2**63: (2**64 - 1, 3)}, QUESTIONS["table"]),
        ({page: (page, 1) for page in range(100_000)}, QUESTIONS["table"]),
    ],
)
@every_loop
async def test_everything_that_is_said_arrives(said: object, kind: object) -> None:
    """Also what is longer than the kernel takes at once."""
    one, other = await pair()
    heard: list[object] = []

    async def listen() -> None:
        heard.append(await other.receive(kind))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await one.send(said)

    assert heard == [said]
    await one.close()
    await other.close()


@every_loop
async def test_the_end_of_a_pipe_is_noticed() -> None:
    """By who listens and by who speaks."""
    one, other = await pair()
    await one.close()

    with pytest.raises(Ended):
        await other.receive(Question)
    with pytest.raises(Ended):
        await other.send(Started())
    await other.close()
