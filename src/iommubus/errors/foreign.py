"""Other people's bytes that are not what they have to be."""

from .base import IommubusError


class AbiError(IommubusError, ValueError):
    """A message of another system's interface that cannot be; nothing of it was used.

    Decoding blames who sent the bytes; encoding, who made the value.
    """


class BadLength(AbiError):
    """A message, or a part of one, that is too short or too long for what it is.

    Attributes:
        message: Name of the message or structure, as its specification has it.
        length: How many bytes there are.
        least: How many there have to be at least.
        most: And at most.
    """

    message: str
    length: int
    least: int
    most: int

    def __str__(self) -> str:
        allowed = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{self.message} has {allowed} bytes, got {self.length}"


class TooLong(AbiError):
    """A header that announces more bytes than anybody has to send; none were waited for."""

    message: str
    length: int
    limit: int

    def __str__(self) -> str:
        return f"{self.message} announces {self.length} bytes, at most {self.limit} are taken"


class BadField(AbiError):
    """A field with a value that it cannot have.

    Attributes:
        field: Name of the field, as its specification has it.
        allowed: What it may hold.
    """

    message: str
    field: str
    value: int | bytes
    allowed: str

    def __str__(self) -> str:
        value = self.value.hex(" ") if isinstance(self.value, bytes) else f"{self.value:#x}"
        return f"{self.field} of {self.message} is {value}, allowed: {self.allowed}"


class BadDescriptors(AbiError):
    """A message that came with fewer or more file descriptors than belong to it."""

    message: str
    count: int
    least: int
    most: int

    def __str__(self) -> str:
        allowed = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{self.message} comes with {allowed} descriptors, got {self.count}"


class TraceError(IommubusError, ValueError):
    """A line of a recorded trace that cannot be read.

    Attributes:
        line: Number of the line, from 1.
        text: The line as it stands in the file.
    """

    path: str
    line: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}: {self.text!r}"
