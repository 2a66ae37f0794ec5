"""Waiting until no transaction is open in a database any more: `postgres.drain`. It watches and names, no more."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from machines.model import PlannedStep
from schemas.base import Json, format_duration
from schemas.system import System
from service.errors import Permanent, Retry
from service.ports import Done, OpenTransaction, StepContext
from service.steps.naming import process_name

LOOK_AGAIN = 0.5
"""Seconds between two looks at pg_stat_activity: what is over is noticed at once, and one look costs milliseconds."""
LEAST = 0.001
"""Seconds that are worth another look; sums of fractions of seconds hardly ever meet."""
AT_ONCE = timedelta(0)
NAMED = 5
"""Transactions that a message names; of more it says the number."""


class Drain:
    """Waits until no component of the system has a transaction open, nor anybody who wrote when it began. Twice is
    safe: it only looks. What is in the way is named while it waits: each attempt lasts longer than the one before, and
    its end is a message. All attempts together take the time that `restart.limits.drain` allows.
    """

    name = "postgres.drain"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        within = format_duration(step.timeout)
        return f"wait until no transaction is open in {step.arguments.get('database')}, {within} at most; end none"

    async def perform(self, context: StepContext) -> Done:
        """Result: `database`, `open` 0, `waited_for` (lines of what was in the way), `seconds` of this attempt.

        Raises Retry with what is in the way, and Permanent when the time is over or our role may not see it.
        """
        database = str(context.row.planned.arguments.get("database"))
        began, row = context.clock.monotonic(), context.row
        lasts = row.planned.timeout.total_seconds() * _share(row.attempt, row.planned.attempts)
        seen: dict[int | str, str] = {}
        while True:
            try:
                open_ = await open_transactions(context, database, context.clock.monotonic() - began)
            except Retry as away:
                # A server that cannot be asked has the same time to come back as a transaction has to end.
                left = lasts - (context.clock.monotonic() - began)
                if left < LEAST:
                    raise Retry(str(away), AT_ONCE) from away
                await context.clock.sleep(min(LOOK_AGAIN, left))
                continue
            if not open_:
                seconds = round(context.clock.monotonic() - began, 3)
                waited_for: list[Json] = list(seen.values())
                return Done({"database": database, "open": 0, "waited_for": waited_for, "seconds": seconds})
            seen |= {one.pid or one.query: str(one) for one in open_}
            left = lasts - (context.clock.monotonic() - began)
            if left < LEAST:
                raise self._in_the_way(context, database, open_)
            await context.clock.sleep(min(LOOK_AGAIN, left))

    async def probe(self, context: StepContext) -> Done | None:
        return None

    def _in_the_way(self, context: StepContext, database: str, open_: tuple[OpenTransaction, ...]) -> Retry | Permanent:
        row = context.row
        more = f" and {len(open_) - NAMED} more" if len(open_) > NAMED else ""
        brief, named = ("; ".join(form(one) for one in open_[:NAMED]) + more for form in (_brief, str))
        if row.attempt >= row.planned.attempts:
            return Permanent(
                f"transactions are open in {database} after {format_duration(row.planned.timeout)}: {named}. Nothing "
                f"was ended: let it end, or end it yourself ({self._end(open_)}), then ask for the restart again"
            )
        share = sum(_share(number, row.planned.attempts) for number in range(row.attempt + 1, row.planned.attempts + 1))
        at = _local(context.clock.now() + row.planned.timeout * share, context.system)
        # The short form and the outlook first: a line on a terminal may be cut.
        ends = f"; to end it, in {database}: {self._end(open_)}"
        return Retry(f"{brief} blocks; if nobody acts: abort and resume at {at}{ends}; it is {named}", AT_ONCE)

    def _end(self, open_: tuple[OpenTransaction, ...]) -> str:
        pids = [one.pid for one in open_ if one.pid is not None]
        return f"select pg_terminate_backend({pids[0]})" if pids else "rollback prepared '…'"


async def open_transactions(context: StepContext, database: str, watched: float) -> tuple[OpenTransaction, ...]:
    """Those that count: any of the components, which are paused and begin no more; and those of strangers who
    write, as far as they are older than `watched` (seconds), for in a busy database there is always a new one. A
    reader who is no part of the system holds up nothing that a restart does."""
    system = context.system
    dsn = context.world.secrets.resolve(system.databases[database].url, system.folder)
    ours = tuple(process_name(system, component) for component in system.components)
    found = await context.world.databases.transactions(dsn)
    hidden = [one for one in found if one.hidden and one.application in ours]
    if hidden:
        roles = ", ".join(sorted({one.role for one in hidden}))
        raise Permanent(
            f"the role of databases.{database} may not see what {roles} does there, so nobody "
            "can tell whether a transaction is open; grant it pg_read_all_stats"
        )
    return tuple(
        one for one in found if not one.hidden and (one.application in ours or (one.writes and one.seconds >= watched))
    )


def _brief(one: OpenTransaction) -> str:
    return one.brief


def _share(attempt: int, attempts: int) -> float:
    """The share of the limit that an attempt takes: 1, 2, 3, … parts, so that the first message comes early."""
    return attempt / (attempts * (attempts + 1) / 2)


def _local(moment: datetime, system: System) -> str:
    return f"{moment.astimezone(ZoneInfo(system.zone)):%H:%M:%S} {system.zone}"
