"""The base of everything that iommubus raises on purpose."""

from typing import ClassVar, cast, dataclass_transform


def span(first: int, last: int) -> str:
    """Return a range as people read it, both ends inclusive."""
    return f"{first:#x}..{last:#x}"


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors in a group, and in the groups in it."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    parts = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return [leaf for part in parts for leaf in leaves(part)]


@dataclass_transform(eq_default=False)
class IommubusError(Exception):
    """Base of everything iommubus raises on purpose.

    What a class annotates are its fields: they are given in that order or by
    name, and an error made of them survives pickling.  (Dataclasses do the same,
    and take longer to import than all the rest of this package.)
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields += tuple(vars(cls).get("__annotations__", ()))

    def __init__(self, *values: object, **named: object) -> None:
        if self._fields:
            values += tuple(named.pop(name) for name in self._fields[len(values) :] if name in named)
            if named or len(values) != len(self._fields):
                raise TypeError(f"{type(self).__name__} takes {', '.join(self._fields)}")
            self.__dict__.update(zip(self._fields, values, strict=True))
        super().__init__(*values)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={vars(self)[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({fields})"
