"""Failures on demand for a memory double: the next call of a method fails before or after it took effect."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from service.errors import RelightError

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound="Doors")


@dataclass(frozen=True, slots=True)
class Fault:
    """`after`: the effect happened and the answer was lost."""

    error: RelightError
    after: bool


class Doors:
    """Keeps the failures that were asked for, by method name, in order."""

    def __init__(self) -> None:
        self._faults: dict[str, list[Fault]] = {}

    def fail_next(self, method: str, error: RelightError, *, after: bool = False) -> None:
        """The next call of `method` raises `error`; asked for twice, the next two do. AttributeError if unknown."""
        getattr(self, method)
        self._faults.setdefault(method, []).append(Fault(error, after))

    def take_fault(self, method: str) -> Fault | None:
        """The failure that the call of `method` that begins now has to suffer."""
        waiting = self._faults.get(method)
        return waiting.pop(0) if waiting else None


def door(
    method: Callable[Concatenate[D, P], Awaitable[R]],
) -> Callable[Concatenate[D, P], Coroutine[Any, Any, R]]:
    """Others may run before the method does, as with a real server; then it is whole, or fails as it was asked to."""

    @wraps(method)
    async def call(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        fault = self.take_fault(method.__name__)
        await asyncio.sleep(0)
        if fault is not None and not fault.after:
            raise fault.error
        result = await method(self, *args, **kwargs)
        if fault is not None:
            raise fault.error
        return result

    return call
