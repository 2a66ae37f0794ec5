"""How well this process is, as values. Nothing here asks a server; who builds it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Health:
    """`checks` by name (`postgres`, `consuming`, `publishing`, `shards`, …): None when well, else why not, for people.

    `alive` is None while the process does its work; a text when only ending it helps (a supervisor then does).
    """

    checks: Mapping[str, str | None] = field(default_factory=dict)
    alive: str | None = None

    @property
    def ready(self) -> bool:
        """Whether this process takes events in and says what came of them."""
        return self.alive is None and not any(self.checks.values())

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not ready: `postgres: connection refused; waiting since 01:45`."""
        found = tuple(f"{name}: {why}" for name, why in self.checks.items() if why)
        return found if self.alive is None else (self.alive, *found)
