"""What a check finds: a name for the kind of fault, where it is, and what to do about it. No check lives here."""

from dataclasses import dataclass

FATAL = frozenset({"unknown_state", "duplicate_name", "unknown_limit"})
"""Faults with which a table cannot even be walked through."""


@dataclass(frozen=True, slots=True)
class Violation:
    """`kind` in `where`: `what` says what is wrong and what to do."""

    kind: str
    where: str
    what: str

    @property
    def fatal(self) -> bool:
        return self.kind in FATAL

    def __str__(self) -> str:
        return f"{self.kind} in {self.where}: {self.what}"
