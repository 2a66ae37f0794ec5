"""The real `serve` with one bug in it: `python -m tests.faults.planted BUG serve …`. Only tests start this.

Here are the bugs that need real servers to show: what is wrong with the transaction, the acknowledgement or the SQL.
Those that show in virtual time too are in `tests/simulation/planted.py`.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from service.adapters.postgres import worker
from service.crash import crash_point
from service.engine import records
from service.engine import work as work_module
from service.engine.intake import Intake
from service.engine.outbox import Outbox
from service.engine.work import Work
from service.ports import Batch, Delivery


def ack_before_commit() -> None:
    """Deliveries are acknowledged before their batch is committed."""
    real = Intake._take_in

    async def take_in(self: Intake, deliveries: Sequence[Delivery], *more: Any, **others: Any) -> None:
        if deliveries:
            await self._lanes.ack(deliveries)
        lanes, self._lanes = self._lanes, _Acknowledged()
        try:
            await real(self, deliveries, *more, **others)
        finally:
            self._lanes = lanes

    Intake._take_in = take_in  # type: ignore[method-assign]  # a bug


class _Acknowledged:
    async def ack(self, _: Sequence[Delivery]) -> None:
        """It was done before."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def notifications_outside_of_the_transaction() -> None:
    """What a batch says is written in a second transaction behind the one that moves its instances."""
    real = Work.batch

    def batch(self: Work, *arguments: Any) -> Batch:
        return replace(real(self, *arguments), outbox=())

    real_write = Intake._write

    async def write(self: Intake, work: Work, *more: Any, **others: Any) -> None:
        said = real(work, self._ownership.shard, self._ownership.token, ()).outbox
        await real_write(self, work, *more, **others)
        crash_point("intake.before_commit")
        second = Batch(self._ownership.shard, self._ownership.token, work.now, outbox=said)
        self._outbox.offer(await self._store.commit(second), said)

    Work.batch = batch  # type: ignore[assignment,method-assign]  # a bug
    Intake._write = write  # type: ignore[method-assign]  # a bug


def outbox_row_deleted_before_its_confirm() -> None:
    """Rows of the outbox are deleted before they are published, by the next batch.

    What a kill loses is a transition, of which each has to be told: publishing waits for one, while there are any.
    """
    real = Outbox._publish

    async def publish(self: Outbox) -> None:
        for _ in range(100):
            if any("._" not in row.message.routing_key for row in self._rows):
                break
            await self._clock.sleep(0.005)
        window, _ = self._window()
        ids = {row.id for row in window}
        self._sent.extend(ids)
        while not ids.isdisjoint(self._handed.union(self._sent)):
            await self._clock.sleep(0.005)
        await real(self)

    Outbox._publish = publish  # type: ignore[method-assign]  # a bug


def seq_repeated() -> None:
    """A row of the log gets the number of the one before it, which the table's key does not forbid."""
    real = records.log_row
    done = set()

    def log_row(kind: str, before: Any, after: Any, event: Any, extra: Any) -> Any:
        # In another batch than the row before: the key has the time in it, and a batch has one.
        if after.seq >= 5 and after.instance not in done and before.entered_at < event.at:
            done.add(after.instance)
            after = replace(after, seq=before.seq)
        return real(kind, before, after, event, extra)

    work_module.log_row = log_row  # type: ignore[attr-defined]  # a bug


def claim_of_what_somebody_is_at() -> None:
    """The query that claims steps does not look at the lease of the claim before."""
    steps: Any = vars(worker)["STEPS"]
    wrong = steps["claim"].replace("s.status = 'running' AND s.lease_until <= clock_timestamp()",
                                          "s.status = 'running'")  # fmt: skip
    if wrong == steps["claim"]:
        raise RuntimeError("the query was changed: plant this bug anew")
    vars(worker)["STEPS"] = {**steps, "claim": wrong}


def lease_token_not_checked() -> None:
    """The function `relight.hold_shard` looks at nothing; `SQL` plants it, since it is in the database."""


SQL = {
    lease_token_not_checked.__name__: """
        CREATE OR REPLACE FUNCTION relight.hold_shard(the_shard int, the_token bigint) RETURNS void
        LANGUAGE plpgsql AS $$ BEGIN END $$
    """,
}
"""Bugs that are in the database: the test plants them there."""

BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        ack_before_commit,
        notifications_outside_of_the_transaction,
        outbox_row_deleted_before_its_confirm,
        seq_repeated,
        claim_of_what_somebody_is_at,
        lease_token_not_checked,
    )
}

if __name__ == "__main__":
    from service.cli.main import run

    name = sys.argv.pop(1)
    if name != "none":
        BUGS[name]()
    sys.exit(run())
