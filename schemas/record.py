"""The decorator of the small values that are made dozens of times an event. Nothing else lives here."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A dataclass with slots, equality and a hash, which the type checker holds for frozen: nobody may change one.

    At run time it is not: a frozen dataclass sets each field through `object.__setattr__`, which was a tenth of what
    deciding an event costs (docs/decisions/0029). What is made once, like the tables of the machines, is frozen indeed.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
