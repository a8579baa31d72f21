"""The IOMMU of cacher.py in a process of its own: start `iommubus serve`, this, and remote_cacher.py beside it.

But for the line that makes the bus it is what it is in one process.
"""

import anyio
import anyio.to_thread

from iommubus import AddressSpace, Cap, Mapping, Perm, connect

PAGE = 0x1000
PAGE_TABLE = {0x1000: 0x8000_7000, 0x2000: 0x8000_3000, 0x3000: 0x8000_9000}


async def walk(iova: int, perm: Perm) -> Mapping | None:
    """Answer a miss from the guest's page table, wherever the device that missed is."""
    page = iova - iova % PAGE
    print(f"iommu: asked for {page:#x}, {perm.name}")
    target = PAGE_TABLE.get(page)
    return None if target is None else Mapping(page, page + PAGE - 1, target, Perm.RW)


async def reuse(space: AddressSpace) -> None:
    """Wait until nobody uses the page, in whatever process."""
    report = await space.sync()
    print(f"guest: the page is free, {report.outcomes[0].subscriber} {report.outcomes[0].how.value}")


async def main() -> None:
    """Serve a device, and take a page away while it is in use."""
    async with connect() as bus:
        space = await bus.create_space("smmu0", offers=Cap.UNMAP, translate=walk)
        await anyio.to_thread.run_sync(input, "guest: press Enter to unmap 0x3000\n")
        del PAGE_TABLE[0x3000]
        space.unmap(0x3000, PAGE)
        await reuse(space)
        await anyio.to_thread.run_sync(input, "guest: press Enter to power off\n")


if __name__ == "__main__":
    anyio.run(main)
