"""The how-tos: what can be followed here is followed."""

import re
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal

from tests.docs.blocks import Paste, Run, Screen, Typed, blocks, paste
from tests.docs.terminals import Desk
from tests.guests import PAGE, Driver, guest

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = sorted(HOWTO.glob("*.md"))


def free_port() -> str:
    with socket.create_server(("localhost", 0)) as listening:
        return str(listening.getsockname()[1])


def follow(page: Path, folder: Path) -> None:
    """Do what a page says, but for what is typed into a shell that has QEMU or DPDK."""
    with Desk(folder) as desk:
        for block in blocks(page):
            match block:
                case Paste():
                    paste(block, folder)
                case Screen():
                    desk.follow(block.terminal, block.command, block.lines)
                case Typed():
                    pass
                case Run():
                    raise AssertionError(block)


@pytest.mark.timeout(60)
def test_tls_is_used_as_the_page_says(tmp_path: Path) -> None:
    """
    With the port and the directory of the state put where nobody else has theirs.
    """
    page = tmp_path / "tls.md"
    text = (HOWTO / "tls.md").read_text(encoding="utf-8")
    page.write_text(text.replace("7411", free_port()).replace("/var/lib/iommubus", str(tmp_path)), encoding="utf-8")

    follow(page, tmp_path)


@pytest.mark.timeout(60)
def test_vfio_user_is_used_as_the_page_says(tmp_path: Path) -> None:
    """
    Both bridges, a producer and somebody who watches, each in a terminal of its own.
    """
    follow(HOWTO / "vfio-user.md", tmp_path)


@pytest.mark.timeout(60)
def test_a_front_end_is_connected_as_the_page_says(tmp_path: Path) -> None:
    """
    With a scripted front end in the place of QEMU, whose guest sends packets to the end.
    """
    page = HOWTO / "vhost-user-backend.md"
    with ExitStack() as stack:
        desk = stack.enter_context(Desk(tmp_path))
        for block in blocks(page):
            match block:
                case Screen():
                    desk.follow(block.terminal, block.command, block.lines)
                case Typed():
                    assert block.text.startswith("qemu-system-x86_64")
                    stack.enter_context(sending_guest(str(tmp_path / "vhost.sock")))
                case Run() | Paste():
                    raise AssertionError(block)


@contextmanager
def sending_guest(path: str) -> Generator[None]:
    """Have a guest send packets as long as the block lasts, or somebody takes them."""

    async def run(*, task_status: TaskStatus[None]) -> None:
        async with guest(path) as qemu:
            await qemu.begin()
            driver = Driver(qemu, 1, place=0, iova=0x10_0000)
            await driver.start()
            task_status.started()
            while not qemu.left.is_set():
                qemu.map(0x20_0000, 8 * PAGE)
                driver.send(bytes(60), iova=0x20_0000, place=8 * PAGE)
                await driver.used()
                await qemu.unmap(0x20_0000).came.wait()

    with start_blocking_portal() as portal:
        future, _ = portal.start_task(run)
        yield
        future.cancel()


@pytest.mark.timeout(60)
def test_a_device_is_watched_as_the_page_says(tmp_path: Path) -> None:
    """
    Without QEMU and DPDK, which `make field` has.
    """
    follow(HOWTO / "vhost-user-tap.md", tmp_path)


@pytest.mark.timeout(60)
def test_a_back_end_is_driven_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    follow(HOWTO / "vhost-user-frontend.md", tmp_path)
    compile((tmp_path / "embedded.py").read_text(encoding="utf-8"), "embedded.py", "exec")


def test_only_what_needs_root_is_not_followed() -> None:
    """
    A service is not installed by a test, nor is QEMU; and what has a kernel's devices is followed by the
    field tests, in a guest.
    """
    kinds = {page.name: {type(block) for block in blocks(page)} for page in PAGES}

    assert kinds == {
        "systemd.md": {Typed},
        "tls.md": {Paste, Screen},
        "vhost-user-backend.md": {Screen, Typed},
        "vhost-user-tap.md": {Paste, Screen, Typed},
        "vhost-user-frontend.md": {Paste, Screen, Typed},
        "vfio-user.md": {Paste, Screen},
        "vfio.md": {Typed, Paste, Run},
        "vhost.md": {Paste, Run},
    }


def test_links_and_files_lead_somewhere() -> None:
    """
    Also those that are named in commands.
    """
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (HOWTO / link).exists()] == []
        assert [file for file in re.findall(r"packaging/[\w.]+", text) if not (HOWTO.parents[1] / file).exists()] == []
