"""Names of spaces, and patterns of them, as a peer sends them: compiled once a message.

The standard library's `fnmatch` keeps what it compiled of the last few hundred patterns; a
message may have a thousand, of which each would be compiled again for every space.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Final

from ...bus.bus import PATTERN_CHARACTERS
from ...errors import LimitReached

COMPILED: Final = 1024
"""Most characters in the patterns of one message, which has no such limit for names: to
compile them takes up to 50 microseconds each, and nobody else is served meanwhile."""


def is_plain(name: str) -> bool:
    """Say whether this is a name, and no pattern of names."""
    return not PATTERN_CHARACTERS & set(name)


class Globs:
    """What some names and patterns match; everything, if there are none.

    Args:
        patterns: The names and patterns.

    Raises:
        LimitReached: There is more to compile than is done for one message.
    """

    __slots__ = ("_everything", "_names", "_wild")

    def __init__(self, patterns: Sequence[str]) -> None:
        self._everything = not patterns
        self._names = frozenset(filter(is_plain, patterns))
        wild = [pattern for pattern in patterns if not is_plain(pattern)]
        if sum(map(len, wild)) > COMPILED:
            raise LimitReached("characters in the patterns of one message", COMPILED)
        self._wild = [re.compile(translate(pattern)).match for pattern in wild]

    def match(self, name: str) -> bool:
        """Say whether a name is one of these, or matches one."""
        return self._everything or name in self._names or any(match(name) is not None for match in self._wild)
