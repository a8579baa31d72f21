"""Rings and their device: what has to be served is started, what has not is stopped.

Stopping may take time, in which messages go on coming.  So a ring is not told what to
do by each message; what was said of it is kept, and whenever something has changed, or
a stop is through, it is looked at once more what should be.
"""

from collections.abc import Callable
from functools import partial

import anyio

from ...abi.vhost_user import Features, VringState
from ...errors import BadField
from .answers import Answer
from .device import Device
from .line import Work
from .rings import Slot


class Serving:
    """The rings of one front end.

    Args:
        device: What serves them.
        start: Starts what waits for one to stop.

    Attributes:
        features: What was agreed upon with the guest's driver.
    """

    def __init__(self, device: Device, start: Callable[[Work], object]) -> None:
        self._device = device
        self._start = start
        self._slots: dict[int, Slot] = {}
        self._stopping: dict[int, list[Answer]] = {}  # and who waits for it
        self.features = 0

    def change(self, index: int, change: Callable[[Slot], object]) -> None:
        """Change what was said of a ring, and start or stop it accordingly.

        Args:
            index: The ring.
            change: Makes the change.

        Raises:
            BadField: The device has no such ring, or the change cannot be.
        """
        slot = self._slot(index)
        change(slot)
        self._review(slot)

    def review(self) -> None:
        """Look at all rings again: features have changed."""
        for slot in self._slots.values():
            self._review(slot)

    def stop(self, index: int, answer: Answer) -> None:
        """Stop a ring until it gets a kick descriptor again, and answer with where it was; raises as `change`."""
        slot = self._slot(index)
        slot.set_kick(None)
        answer.postpone()
        self._review(slot)
        if index in self._stopping:
            self._stopping[index].append(answer)
        else:
            answer.body(VringState(index, slot.base))

    async def end(self) -> None:
        """Stop all, and close their descriptors; nothing else runs any more."""
        for slot in self._slots.values():
            slot.reset()
            if slot.live is not None:
                slot.stopped(await self._device.ring_stopped(slot.index))
            slot.close_retired()

    # -- inside ----------------------------------------------------------------

    def _slot(self, index: int) -> Slot:
        if index >= self._device.rings:
            raise BadField("vring", "index", index, f"less than {self._device.rings:#x}")
        return self._slots.setdefault(index, Slot(index))

    def _review(self, slot: Slot) -> None:
        if slot.index in self._stopping:
            return
        wanted = None
        if self.features & Features.ACCESS_PLATFORM:  # without it addresses are the front end's own
            wanted = slot.wanted(self.features, enabled=not self.features & Features.PROTOCOL_FEATURES)
        if slot.live is None:
            slot.close_retired()
            slot.live = wanted
            if wanted is not None:
                self._device.ring_started(wanted)
        elif slot.live != wanted:
            self._stopping[slot.index] = []
            self._start(partial(self._stop, slot))

    async def _stop(self, slot: Slot) -> None:
        with anyio.CancelScope(shield=True):
            base = await self._device.ring_stopped(slot.index)
        slot.stopped(base)
        for answer in self._stopping.pop(slot.index):
            answer.body(VringState(slot.index, base))
        self._review(slot)
