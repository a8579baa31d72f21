"""Two devices in one domain, one of which leaves it and comes back, and a container of both.

A domain is a space, a device an endpoint.  Whoever follows an endpoint sees the old
mappings go and the new ones come when it moves.
"""

from collections.abc import Mapping

import anyio
from anyio.abc import TaskStatus

from iommubus import Bus, Cap, Mirror, Perm
from iommubus.errors import MustShare


async def vfio(bus: Bus, name: str, *endpoints: str, task_status: TaskStatus[Mirror]) -> None:
    """Keep a copy of what the endpoints see; several are a container, which needs them in one space."""
    async with bus.subscribe(endpoints, Cap.IOTLB, name=name) as events:
        mirror = Mirror(events)
        task_status.started(mirror)
        await mirror.run()


async def show(bus: Bus, what: str, mirrors: Mapping[str, Mirror]) -> None:
    """Wait until everybody has followed, and tell what each one holds."""
    await bus.sync()
    print(what)
    for name, mirror in mirrors.items():
        print(f"  {name}:", ", ".join(map(str, mirror)) or "nothing")


async def main() -> None:
    """Attach, move, come back; then have a container keep both together."""
    async with anyio.create_task_group() as tasks, Bus() as bus:
        domain = await bus.create_space("domain-1", last=2**32 - 1)
        domain.map(0x10_0000, 0x4000, target=0x8000_0000, perm=Perm.RW)
        identity = await bus.create_space("identity", last=2**32 - 1)
        identity.map(0, 2**32, target=0, perm=Perm.RW)

        disk, nic = await bus.create_endpoint("disk"), await bus.create_endpoint("nic")
        mirrors: dict[str, Mirror] = {name: await tasks.start(vfio, bus, name, name) for name in ("disk", "nic")}
        disk.attach(domain)
        nic.attach(domain)
        await show(bus, "both are in one domain:", mirrors)

        nic.attach(identity)
        await show(bus, "the nic is in the identity space:", mirrors)
        nic.attach(domain)
        await show(bus, "the nic is back:", mirrors)

        nic.detach()
        mirrors["container"] = await tasks.start(vfio, bus, "container", "disk", "nic")
        await show(bus, "a container is opened while the nic is nowhere:", mirrors)
        nic.attach(domain)
        await show(bus, "the nic is in its domain again:", mirrors)
        try:
            nic.attach(identity)
        except MustShare as refusal:
            print(f"refused: {refusal}")


if __name__ == "__main__":
    anyio.run(main)
