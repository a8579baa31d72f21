"""What answers any request: that it was done, or why not."""

from typing import Final

from msgspec import Raw, Struct

from .values import U64, Name, Text

NO_VALUES: Final = Raw(b"\x90")
"""The values of an error that has none: an array of nothing."""


class Failure(Struct, frozen=True, array_like=True):
    """What went wrong, as an error of the other end.

    Attributes:
        kind: Name of the error's class, `Overlap` for instance.
        text: Its sentence, for who does not know the class.
        values: An array of its fields, in the order of the class; what a newer class
            has beyond them may follow.  A number that 64 bits do not hold is a string of its digits.
    """

    kind: Name
    text: Text
    values: Raw = NO_VALUES


class Done(Struct, frozen=True, array_like=True, tag=10, gc=False):
    """Answer a request that was done and has nothing to tell.

    Attributes:
        request: Its number.
    """

    request: U64


class Refused(Struct, frozen=True, array_like=True, tag=11):
    """Answer a request that was not done, or failed.

    Attributes:
        request: Its number.
        failure: Why.
    """

    request: U64
    failure: Failure


class Cancel(Struct, frozen=True, array_like=True, tag=12, gc=False):
    """Say that nobody waits for an answer any more.

    What was done stays done.  The daemon may still answer; numbers are never used twice.

    Attributes:
        request: Number of the request.
    """

    request: U64
