"""The small values that are made dozens of times an event: how they are declared, and changed into others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A dataclass with slots, equality and a hash, which the type checker holds for frozen: nobody may change one.

    At run time it is not: a frozen dataclass sets each field through `object.__setattr__`, which was a tenth of what
    deciding an event costs (docs/decisions/0029). What is made once, like the tables of the machines, is frozen indeed.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


def changed(value: T, **others: object) -> T:
    """The record, of two fields or more, with `others` in place of what it holds. Raises KeyError for a field that it
    does not have. `dataclasses.replace` asks each field anew how it is declared, and takes twice as long."""
    cls: Any = type(value)
    held, places = _shape(cls)
    values = list(held(value))
    for name, other in others.items():
        values[places[name]] = other
    made: T = cls(*values)
    return made


@cache
def _shape(cls: type[Any]) -> tuple[Callable[[Any], tuple[Any, ...]], Mapping[str, int]]:
    """What answers all fields of a record at once, and the place of each."""
    names = [one.name for one in fields(cls)]
    return attrgetter(*names), {name: place for place, name in enumerate(names)}
