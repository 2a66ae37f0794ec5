"""The errors of Relight, each saying what to do. Adapters translate their library's errors into these with `from`."""

from collections.abc import Iterator
from datetime import timedelta


class RelightError(Exception):
    """An error for people: what happened, to which system, what Relight did about it, what to do next."""


class Unavailable(RelightError):
    """A server is away. Nothing was lost; wait with backoff and go on when it is back. `server` names it."""

    def __init__(self, server: str, what: str) -> None:
        super().__init__(f"{server} is away: {what}")
        self.server = server
        self.what = what


class LostLease(RelightError):
    """The token of this owner or worker is no longer the newest: stop at once, write nothing more."""


class Conflict(RelightError):
    """Somebody else wrote first; read again and decide again."""


class Transient(RelightError):
    """The database refused for a passing reason (serialization, deadlock); the same batch may be tried again."""


class Poison(RelightError):
    """The database refused a batch for its content; take it apart until the guilty event stands alone."""


class Misconfigured(RelightError):
    """A file or setting is wrong; `problems` lists all findings, each with file, line and path."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StepError(RelightError):
    """Base of what an action raises; anything else that an action raises counts as `Permanent`."""


class Retry(StepError):
    """The attempt failed and another may succeed. `after`: not before; None leaves it to the backoff."""

    def __init__(self, why: str, after: timedelta | None = None) -> None:
        super().__init__(why)
        self.after = after


class Full(Retry):
    """There is no room where something was to be written. `free`: bytes that ordinary users have left there."""

    def __init__(self, why: str, free: int) -> None:
        super().__init__(why)
        self.free = free


class Permanent(StepError):
    """Trying again would not help."""


class Missing(Permanent):
    """What was to be read is not there."""


class Refrained(Permanent):
    """It would have changed something, and this Relight only looks: nothing was done."""


class Unknown(StepError):
    """Nobody can tell whether the effect happened; a person has to look."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups, in order; one that is no group is its own only leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
