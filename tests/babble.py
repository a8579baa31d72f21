"""What a client might say that means no good, or nothing: from the vectors of the wire, by a seeded generator."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any, Final

import msgspec.msgpack

from iommubus.wire.messages import Side
from tests.wire.vectors import VECTORS

GREETINGS: Final = (1, 5, 7, 9)
"""Numbers of the messages that begin or end a connection, or belong to another one."""

SOUND: Final = [bytes.fromhex(frame.replace(" ", ""))[4:] for side, _, frame in VECTORS if side is Side.CLIENT]
"""Payloads of messages as they should be."""

WORDS: Final = [payload for payload in SOUND if payload[1] not in GREETINGS]

VALUES: Final[list[Any]] = [
    0, 1, 2, 3, 4, 7, 0xFFF, 0x1000, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -1, 1.5, "", "vtd0", "vtd*",
    "\u202e\x1b[2J", "x" * 255, "\U0001f4a3" * 255, "lease", "exit", True, False, None, [], [[]], {}, {"a": []}, b"",
    b"\xff" * 64, [1, 2, 3], [["vtd0", 1]], [[0, 2**64 - 1]], [[1, 1, 0, 4095]] * 50,
]  # fmt: skip


def framed(payload: bytes) -> bytes:
    """Return a frame around any payload."""
    return len(payload).to_bytes(4, "little") + payload


class Babble:
    """Frames without end.

    Args:
        seed: The same one gives the same frames.
        known: Numbers that the daemon has given: of spaces, subscriptions and so on.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - no secret
        self.known: list[int] = []
        self._ways: list[Callable[[bytes], bytes]] = [
            *[self._other_values] * 6,
            self._flipped,
            self._cut,
            self._swapped,
            self._nested,
            self._noise,
        ]

    def frames(self) -> Iterator[bytes]:
        """Yield frames, some of which are sound."""
        pick = self._random.choice
        while True:
            payload = pick(WORDS)
            if self._random.random() < 0.8:
                payload = pick(self._ways)(payload)
            frame = framed(payload)
            yield from [frame] * pick((1, 1, 1, 1, 2))
            if self._random.random() < 0.01:
                yield self._random.randbytes(7)  # what follows is read at the wrong place

    # -- ways to be wrong --------------------------------------------------------

    def _other_values(self, payload: bytes) -> bytes:
        fields = msgspec.msgpack.decode(payload)
        for _ in range(self._random.choice((1, 1, 2))):
            self._change(fields, 1)
        return msgspec.msgpack.encode(fields)

    def _change(self, fields: list[Any], first: int) -> None:
        if len(fields) <= first:
            return
        at = self._random.randrange(first, len(fields))
        if isinstance(fields[at], list) and self._random.random() < 0.7:
            self._change(fields[at], 0)
        elif self._random.random() < 0.1:
            del fields[at]
        else:
            fields[at] = deepcopy(self._random.choice([*VALUES, *self.known[-8:] * 3]))

    def _flipped(self, payload: bytes) -> bytes:
        wrong = bytearray(payload)
        for _ in range(self._random.randint(1, 3)):
            wrong[self._random.randrange(len(wrong))] ^= 1 << self._random.randrange(8)
        return bytes(wrong)

    def _cut(self, payload: bytes) -> bytes:
        return payload[: self._random.randrange(len(payload))]

    def _swapped(self, payload: bytes) -> bytes:
        wrong = bytearray(payload)
        one, other = self._random.randrange(len(wrong)), self._random.randrange(len(wrong))
        wrong[one], wrong[other] = wrong[other], wrong[one]
        return bytes(wrong)

    def _nested(self, payload: bytes) -> bytes:
        depth = self._random.choice((3, 100, 2000))
        return payload[:2] + self._random.choice((b"\x91", b"\x81\xa1a", b"\x81")) * depth

    def _noise(self, payload: bytes) -> bytes:
        return self._random.randbytes(len(payload))
