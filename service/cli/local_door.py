"""The local door: what a person asks for at this machine, as a signal in Relight's own tables, and what became of it.

Prints nothing, and decides nothing: who may, and whether now, is said where every event is taken in.
"""

import getpass
import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from machines.model import InstanceId, Snapshot
from schemas.envelope import Rejected, read
from service.cli.publish import compose
from service.clock import SystemClock
from service.errors import RelightError
from service.ports import NewSignal, Reader

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore

TAKEN_IN_WITHIN = timedelta(seconds=15)
"""How long a request waits for its answer: longer than a lease, so that a take-over may lie between."""


@dataclass(frozen=True, slots=True)
class Request:
    """An event for a system, in an envelope that can be read. `body` is its JSON."""

    event_id: str
    system: str
    body: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reasons`: why it was refused; empty when it was applied. `state`: where the instance stood right after it."""

    state: str
    reason: str
    reasons: tuple[str, ...] = ()


def request(name: str, system: str, data: dict[str, Any], undone: str) -> Request:
    """The event `name` (without the prefix) with an id of its own. Raises RelightError, which begins with what stays
    `undone`, when Relight could not read it."""
    event = compose(name, system, data, str(uuid.uuid4()))
    body = json.dumps(event)
    found = read(body.encode())
    if isinstance(found, Rejected):
        raise RelightError(f"{undone}, for Relight would refuse it:\n  " + "\n  ".join(found.reasons))
    return Request(event["id"], system, body)


def system_of(instance: str) -> str:
    """The system in the name of an instance; empty when there is none."""
    return instance.split("/")[1] if instance.count("/") else ""


async def standing(opened: Reader, instance: InstanceId, undone: str) -> Snapshot:
    """The instance as it stands. Raises RelightError, which names those there are and ends with what stays `undone`."""
    views = await opened.instances()
    for view in views:
        if view.snapshot.instance == instance:
            return view.snapshot
    known = ", ".join(view.snapshot.instance for view in views) or "none yet"
    raise RelightError(f"there is no instance {instance!r}; there are: {known}. {undone}.")


async def put(opened: "PostgresStore", asked: Request) -> None:
    """Stores the request, as asked for by this account; whoever decides for the system takes it in."""
    await opened.signal([NewSignal(asked.system, asked.body, user=getpass.getuser(), local=True)])


async def taken_in(opened: Reader, asked: Request, instance: InstanceId, seq: int, what: str, then: str) -> Outcome:
    """The log's word on the request, looked for after `seq`. Raises RelightError when nobody took it in within
    `TAKEN_IN_WITHIN`: `what` was stored, and the next one that decides takes it in `then`."""
    clock = SystemClock()
    until = clock.monotonic() + TAKEN_IN_WITHIN.total_seconds()
    while clock.monotonic() < until:
        for row in await opened.history(instance, seq):
            if row.event.id == asked.event_id:
                record = json.loads(row.record)
                refused = tuple(record["reasons"]) if row.kind == "refusal" else ()
                return Outcome(row.state_to, str(record.get("reason", "")), refused)
        await clock.sleep(0.1)
    raise RelightError(
        f"{what} was stored, but nobody took it in within {TAKEN_IN_WITHIN.seconds} s: no `relight serve` decides for "
        f"{asked.system}.\nIt is kept: the next one that starts takes it in{then}."
    )
