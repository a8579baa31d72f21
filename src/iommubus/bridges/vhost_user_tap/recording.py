"""What was passed on, written down: one JSON object a line, as recordings of vhost-user are kept.

``t_ns`` is the time since the first, in nanoseconds; ``chan`` is ``main`` or ``backend``;
``dir`` is ``rx`` or ``tx``, seen from the back end; ``fds`` is how many descriptors went with
it; ``hex`` is the whole message.  Where some could not be written down, a line says so
with ``lost``.
"""

from collections.abc import Iterable
from typing import Final, TextIO

import msgspec

from ...abi.vhost_user import Channel
from .seen import Gap, Seen

CHANNELS: Final = {Channel.FRONT_END: "main", Channel.BACK_END: "backend"}


class Recorder:
    """Writes to a file.

    Args:
        out: The file; it stays the caller's.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begun: int | None = None

    def write(self, passed: Iterable[Seen | Gap]) -> None:
        """Write lines; this may block.

        Raises:
            OSError: They cannot be written.
        """
        self._out.write("".join(map(self._line, passed)))
        self._out.flush()

    def _line(self, passed: Seen | Gap) -> str:
        if isinstance(passed, Gap):
            return '{"lost":true}\n'
        if self._begun is None:
            self._begun = passed.time
        fields = {
            "t_ns": passed.time - self._begun,
            "chan": CHANNELS[passed.channel],
            "dir": "rx" if passed.to_back else "tx",
            "fds": passed.count,
            "hex": passed.data.hex(),
        }
        return msgspec.json.encode(fields).decode() + "\n"
