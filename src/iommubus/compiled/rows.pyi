from collections.abc import Sequence

from ..events import Memory, Observed
from typing_extensions import Buffer

def pack(events: Sequence[Observed], start: int, /) -> tuple[bytes, list[Memory], int] | None: ...
def unpack(
    data: Buffer, space: str, memories: tuple[Memory, ...], watched: bool, /
) -> list[Observed] | None: ...
