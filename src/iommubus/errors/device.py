"""What a device may not do, or cannot be told."""

from .base import IommubusError, span


class TranslationFault(IommubusError):
    """A device used an address in a way it may not."""


class NotMapped(TranslationFault):
    """Nothing is mapped at the address."""

    iova: int

    def __str__(self) -> str:
        return f"nothing is mapped at {self.iova:#x}"


class AccessDenied(TranslationFault):
    """The mapping at the address does not allow this access."""

    iova: int
    wanted: int
    granted: int

    def __str__(self) -> str:
        return f"{self.iova:#x} allows {self.granted:#x}, the access needs {self.wanted:#x}"


class NoTranslator(TranslationFault):
    """A pull space keeps no table, and its producer answers no questions."""

    space: str
    iova: int

    def __str__(self) -> str:
        return f"{self.space} keeps no table, so {self.iova:#x} cannot be translated"


class NoAnswer(TranslationFault):
    """The producer of a pull space did not answer in time."""

    space: str
    iova: int
    seconds: float

    def __str__(self) -> str:
        return f"the producer of {self.space} did not say within {self.seconds:g} s where {self.iova:#x} leads"


class TranslatorFailed(TranslationFault):
    """The producer of a pull space gave an answer that cannot be, or raised."""

    space: str
    iova: int
    reason: str

    def __str__(self) -> str:
        return f"the producer of {self.space} could not say where {self.iova:#x} leads: {self.reason}"


class NotContiguous(TranslationFault):
    """A range that does not lead to one piece of one memory.

    Attributes:
        end: Last address up to which it does.
    """

    first: int
    last: int
    end: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} leads to one piece of memory only up to {self.end:#x}"


class NoBacking(TranslationFault):
    """A mapping to a bare address: there is no memory to look at."""

    iova: int
    target: int

    def __str__(self) -> str:
        return f"{self.iova:#x} leads to the bare address {self.target:#x}, not into a memory"
