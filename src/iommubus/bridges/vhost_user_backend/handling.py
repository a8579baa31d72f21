"""What is done with each request of a front end."""

from collections.abc import Awaitable, Callable, Mapping as Table
from typing import Any

from ...abi.vhost import range_of
from ...abi.vhost_user import (
    U64,
    Config,
    Empty,
    IotlbMsg,
    IotlbType,
    MemRegion,
    MemTable,
    ProtocolFeatures,
    Request,
    VringAddr,
    VringFd,
    VringState,
)
from ...bridging.regions import SLOTS, Backed
from ...bridging.telling import Negotiated, Notice
from ...caps import Perm
from ...mapping import Mapping
from ...ranges import LAST
from .answers import REFUSED, Answer
from .asking import Asking
from .line import Line, Surroundings
from .memory import GuestMemory
from .offers import agreed, features, lacks, protocol_features
from .rings import signal
from .serving import Serving

Handler = Callable[[Any, list[int], Answer], Awaitable[None] | None]


class Handling:
    """What one front end has said.

    Args:
        line: The connection.
        asking: Its misses.
        around: What it shares with those before and behind it.

    Attributes:
        by_request: What takes each request: its body, its descriptors, of which it removes those that it keeps,
            and the place of its answer.
    """

    def __init__(self, line: Line, asking: Asking, around: Surroundings) -> None:
        self._line = line
        self._asking = asking
        self._around = around
        self._memory = GuestMemory(around.bus, f"{around.space.name}.ram", around.numbers)
        self._serving = Serving(around.device, line.start)
        self._protocol = 0
        self._told: Negotiated | None = None
        self._refused = False
        self.by_request: Table[int, Handler] = {
            Request.GET_FEATURES: self._get_features,
            Request.SET_FEATURES: self._set_features,
            Request.SET_OWNER: self._nothing,
            Request.RESET_OWNER: self._nothing,
            Request.SET_MEM_TABLE: self._set_mem_table,
            Request.SET_VRING_NUM: self._set_vring_num,
            Request.SET_VRING_ADDR: self._set_vring_addr,
            Request.SET_VRING_BASE: self._set_vring_base,
            Request.GET_VRING_BASE: self._get_vring_base,
            Request.SET_VRING_KICK: self._set_vring_kick,
            Request.SET_VRING_CALL: self._set_vring_call,
            Request.SET_VRING_ERR: self._nothing,
            Request.GET_PROTOCOL_FEATURES: self._get_protocol_features,
            Request.SET_PROTOCOL_FEATURES: self._set_protocol_features,
            Request.GET_QUEUE_NUM: self._get_queue_num,
            Request.SET_VRING_ENABLE: self._set_vring_enable,
            Request.SET_BACKEND_REQ_FD: self._set_backend_req_fd,
            Request.IOTLB_MSG: self._iotlb,
            Request.GET_CONFIG: self._get_config,
            Request.SET_CONFIG: self._set_config,
            Request.GET_MAX_MEM_SLOTS: self._get_max_mem_slots,
            Request.ADD_MEM_REG: self._add_mem_reg,
            Request.REM_MEM_REG: self._rem_mem_reg,
        }

    @property
    def acknowledged(self) -> bool:
        """Whether acknowledgements were agreed upon."""
        return bool(self._protocol & ProtocolFeatures.REPLY_ACK)

    async def stop(self) -> None:
        """Stop all rings."""
        await self._serving.end()

    def clear(self) -> None:
        """Remove its memory, of which nothing is in use."""
        self._memory.clear()

    # -- what was agreed upon ------------------------------------------------------

    def _get_features(self, _: object, __: list[int], answer: Answer) -> None:
        answer.body(U64(features(self._around.device)))

    def _set_features(self, body: U64, _: list[int], __: Answer) -> None:
        self._check_offered("SET_FEATURES", body.value, features(self._around.device))
        self._serving.features = body.value
        self._say_agreed()
        self._serving.review()

    def _get_protocol_features(self, _: object, __: list[int], answer: Answer) -> None:
        answer.body(U64(protocol_features(self._around.device)))

    def _set_protocol_features(self, body: U64, _: list[int], __: Answer) -> None:
        self._check_offered("SET_PROTOCOL_FEATURES", body.value, protocol_features(self._around.device))
        if self._asking.possible and body.value != self._protocol:  # QEMU says the same for each pair of queues
            raise self._line.broke("other SET_PROTOCOL_FEATURES behind SET_BACKEND_REQ_FD")
        self._protocol = body.value

    def _set_backend_req_fd(self, _: object, fds: list[int], __: Answer) -> None:
        if self._asking.possible:
            raise self._line.broke("a second SET_BACKEND_REQ_FD")
        if not self._protocol & ProtocolFeatures.BACKEND_REQ:
            raise self._line.broke("SET_BACKEND_REQ_FD without the protocol feature BACKEND_REQ")
        self._asking.begin(fds[0], replied=self.acknowledged)
        fds.clear()

    def _check_offered(self, what: str, taken: int, offered: int) -> None:
        if taken & ~offered:
            raise self._line.broke(f"{what} takes {taken & ~offered:#x}, which was not offered")

    def _say_agreed(self) -> None:
        taken, protocol = self._serving.features, self._protocol
        missing = tuple(lacks(taken, protocol, channel=self._asking.possible))
        told = Negotiated(self._line.name, agreed(taken, protocol), missing)
        if told != self._told:
            self._told = told
            self._around.tell(told)

    # -- translations ----------------------------------------------------------------

    def _iotlb(self, body: IotlbMsg, _: list[int], answer: Answer) -> None:
        if body.type is IotlbType.INVALIDATE:
            self._invalidate(body, answer)
        elif body.type is IotlbType.UPDATE:
            self._update(body, answer)
        else:
            answer.status(REFUSED)

    def _invalidate(self, body: IotlbMsg, answer: Answer) -> None:
        where = range_of(body)
        mask = self._around.granule - 1
        first, last = where.first & ~mask, where.last | mask
        self._around.counts["invalidations"] += 1
        self._around.space.unmap(first, last - first + 1)
        answer.postpone()
        self._around.barrier.settle(answer.status)

    def _update(self, body: IotlbMsg, answer: Answer) -> None:
        self._around.counts["updates"] += 1
        granule = self._around.granule
        found = self._memory.regions.find(body.uaddr, body.size)
        if found is None or (found[1] - body.iova) & (granule - 1):
            self._refuse(body, answer)
            return
        memory, offset = found
        mapping = Mapping(body.iova, body.iova + body.size - 1, offset, Perm(body.perm), memory)
        whole = whole_granules(mapping, granule)
        if whole is None or not self._asking.update(whole):
            self._around.counts["unasked"] += 1  # a pull space keeps no table

    def _refuse(self, body: IotlbMsg, answer: Answer) -> None:
        """Refuse an UPDATE, as DPDK does."""
        answer.status(REFUSED)
        self._around.counts["refused"] += 1
        if not self._refused:
            self._refused = True
            where = f"{body.size:#x} bytes at {body.uaddr:#x}"
            text = f"{self._line.name}: an UPDATE leads to {where}, which its memory table does not have so; refused"
            self._around.tell(Notice(text, trouble=True))

    # -- memory ----------------------------------------------------------------------

    async def _set_mem_table(self, body: MemTable, fds: list[int], answer: Answer) -> None:
        gone = await self._memory.replace(body, fds)
        if gone:
            self._let_go_later(gone, answer)

    async def _add_mem_reg(self, body: MemRegion, fds: list[int], _: Answer) -> None:
        await self._memory.add(body, fds)

    def _rem_mem_reg(self, body: MemRegion, _: list[int], answer: Answer) -> None:
        self._let_go_later(self._memory.remove(body), answer)

    def _let_go_later(self, gone: list[Backed], answer: Answer) -> None:
        """Take away all that may lead there, and let go of memories once that is settled."""
        memory = self._memory

        def settled() -> None:
            if self._line.there:  # else all of them are removed together
                memory.let_go(gone)
            answer.status()

        self._around.space.unmap(0, LAST + 1)
        answer.postpone()
        self._around.barrier.settle(settled)

    def _get_max_mem_slots(self, _: object, __: list[int], answer: Answer) -> None:
        answer.body(U64(SLOTS))

    # -- the device ------------------------------------------------------------------

    def _nothing(self, _: object, __: list[int], ___: Answer) -> None:
        """Take what changes nothing here."""

    def _get_queue_num(self, _: object, __: list[int], answer: Answer) -> None:
        answer.body(U64(self._around.device.queues))

    def _set_vring_num(self, body: VringState, _: list[int], __: Answer) -> None:
        self._serving.change(body.index, lambda slot: slot.resize(body.num))

    def _set_vring_addr(self, body: VringAddr, _: list[int], __: Answer) -> None:
        self._serving.change(body.index, lambda slot: setattr(slot, "addr", body))

    def _set_vring_base(self, body: VringState, _: list[int], __: Answer) -> None:
        self._serving.change(body.index, lambda slot: slot.rebase(body.num))

    def _get_vring_base(self, body: VringState, _: list[int], answer: Answer) -> None:
        self._serving.stop(body.index, answer)

    def _set_vring_kick(self, body: VringFd, fds: list[int], _: Answer) -> None:
        fd = signal(fds[0]) if fds else None
        self._serving.change(body.index, lambda slot: slot.set_kick(fd))
        fds.clear()
        if fd is None:
            self._around.tell(Notice(f"{self._line.name}: ring {body.index} has no kick descriptor, and is not served"))

    def _set_vring_call(self, body: VringFd, fds: list[int], _: Answer) -> None:
        fd = signal(fds[0]) if fds else None
        self._serving.change(body.index, lambda slot: slot.set_call(fd))
        fds.clear()

    def _set_vring_enable(self, body: VringState, _: list[int], __: Answer) -> None:
        self._serving.change(body.index, lambda slot: setattr(slot, "enabled", body.num != 0))

    def _get_config(self, body: Config, _: list[int], answer: Answer) -> None:
        data = self._around.device.config[body.offset : body.offset + len(body.data)]
        fits = len(data) == len(body.data)
        answer.body(Config(body.offset, body.flags, data) if fits else Empty())

    def _set_config(self, body: Config, _: list[int], answer: Answer) -> None:
        device = self._around.device
        inside = body.offset + len(body.data) <= len(device.config)
        if not (inside and device.write_config(body.offset, body.data)):
            answer.status(REFUSED)


def whole_granules(mapping: Mapping, granule: int) -> Mapping | None:
    """Return what of a mapping lies in whole granules; `None` if nothing does."""
    first = -(-mapping.first // granule) * granule
    last = (mapping.last + 1) // granule * granule - 1
    return mapping.clip(first, last) if first <= last else None
