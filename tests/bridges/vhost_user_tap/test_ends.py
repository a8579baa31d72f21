"""Who connects is taken; who is not there yet is tried again."""

import socket
from pathlib import Path

import anyio
import pytest

from iommubus.bridges.vhost_user_tap.ends import accept, reach
from tests.loops import every_loop


@every_loop
async def test_who_connects_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.setblocking(False)
        async with anyio.create_task_group() as tasks:

            async def take() -> None:
                (await accept(listening)).close()

            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            (await reach(path, 0)).close()


@every_loop
async def test_who_is_not_there_yet_is_tried_again(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listening:
        async with anyio.create_task_group() as tasks:

            async def find() -> None:
                (await reach(path, 20)).close()

            tasks.start_soon(find)
            await anyio.wait_all_tasks_blocked()
            listening.bind(path)
            listening.listen()


@every_loop
async def test_nobody_is_waited_for_for_ever(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await reach(str(tmp_path / "sock"), 0)
