from collections.abc import Sequence

from typing_extensions import Buffer

from ..events import Memory, Observed

def pack(events: Sequence[Observed], start: int, /) -> tuple[bytes, list[Memory], int] | None: ...
def unpack(
    data: Buffer, space: str, memories: tuple[Memory, ...], watched: bool, /
) -> list[Observed] | None: ...
