"""What machines are watched for while they are explored: which transitions were taken, and who looks at the history.

Nothing is decided here, and what is watched decides as it would unwatched.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from machines.model import Facts, Machine, Transition
from schemas.base import Json

HISTORY = frozenset({"last_restart", "last_abort"})
"""What is remembered for people alone: no guard and no change reads it, and `Memory` finds one that does.

Configurations that differ in nothing else make the same course, which leaves a quarter of them to explore."""


class Taken:
    """The machine with a last change on every transition that notes that it was taken: `indexes` of its transitions."""

    def __init__(self, machine: Machine) -> None:
        self.indexes: set[int] = set()
        self.machine = replace(
            machine, transitions=tuple(self._watched(i, t) for i, t in enumerate(machine.transitions))
        )

    def _watched(self, index: int, transition: Transition) -> Transition:
        changes = transition.changes

        def noting(facts: Facts) -> Mapping[str, Json]:
            self.indexes.add(index)
            return changes(facts) if changes is not None else {}

        return replace(transition, changes=noting)


class Memory(Mapping[str, Json]):
    """An instance's data as guards and changes see it; `history_read` tells whether one looked at the history, or at
    everything."""

    __slots__ = ("_data", "history_read")

    def __init__(self, data: Mapping[str, Json]) -> None:
        self._data = data
        self.history_read = False

    def __getitem__(self, name: str) -> Json:
        if name in HISTORY:
            self.history_read = True
        return self._data[name]

    def __contains__(self, name: object) -> bool:
        if name in HISTORY:
            self.history_read = True
        return name in self._data

    def __iter__(self) -> Iterator[str]:
        self.history_read = True
        return iter(self._data)

    def __len__(self) -> int:
        self.history_read = True
        return len(self._data)
