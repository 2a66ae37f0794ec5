"""What Relight wrote down, in memory, for a world without an engine: rows that a test puts there."""

from machines.model import InstanceId
from service.ports import LogRow, StepRow


class MemoryChronicle:
    """The Protocol `Chronicle`. A world with an engine has the engine's own store in its place."""

    def __init__(self) -> None:
        self.rows: list[LogRow] = []
        self.performed: list[StepRow] = []

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]:
        return tuple([row for row in self.rows if row.instance == instance and row.seq > after_seq][:limit])

    async def steps(self, instance: InstanceId, first_entry: int = 0) -> tuple[StepRow, ...]:
        return tuple(row for row in self.performed if row.key.instance == instance and row.key.entry >= first_entry)
