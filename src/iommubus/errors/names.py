"""Names that are wrong, or taken, or nobody's."""

from .base import IommubusError


class BadName(IommubusError, ValueError):
    """A name that cannot tell a space from a pattern."""

    name: str

    def __str__(self) -> str:
        wrong = "it is empty or has one of the pattern characters *?[]"
        return f"{self.name!r} is no name for a space or an endpoint: {wrong}"


class NameTaken(IommubusError, ValueError):
    """A space or an endpoint of this name exists already."""

    name: str

    def __str__(self) -> str:
        return f"a space or an endpoint named {self.name!r} exists already"


class MemoryNameTaken(NameTaken):
    """A memory of this name exists already."""

    def __str__(self) -> str:
        return f"a memory named {self.name!r} exists already"


class UnknownName(IommubusError, LookupError):
    """No space has this name."""

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        return f"no space is named {self.name!r}; there are {', '.join(self.known) or 'none'}"


class BadMemory(IommubusError, ValueError):
    """A memory that cannot be: its size, or the descriptor that was given."""

    name: str
    size: int
    reason: str

    def __str__(self) -> str:
        return f"a memory {self.name!r} of {self.size:#x} bytes cannot be: {self.reason}"
