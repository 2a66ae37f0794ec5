"""The gate: what was taken in leaves it once and in order, what was refused never does. Rules only."""

from collections.abc import Iterator, Mapping, Sequence

from tests.faults.checker.findings import Fault, Finding
from tests.faults.evidence import Evidence, Operation

Key = tuple[str, str]
"""Source and id of an event."""


def operations_leave_once_and_in_order(evidence: Evidence) -> Iterator[Finding]:
    if evidence.operations is None:
        return
    orders = {(event.source, event.id): event.order for event in evidence.published if event.order is not None}
    released = list(dict.fromkeys((one.source, one.id) for one in evidence.operations))
    yield from _once(evidence.operations, {key: place for place, key in enumerate(released)})
    yield from _those_taken_in(evidence, orders, released)
    newest, last = -1, None
    for key in released:
        order = orders.get(key, newest)
        if order < newest:
            yield Finding(Fault.SWAPPED_OPERATIONS, f"{key} was released after {last}, which was taken in later")
        else:
            newest, last = order, key


def _once(operations: Sequence[Operation], places: Mapping[Key, int]) -> Iterator[Finding]:
    """After a doubt the outbox goes on from its oldest row, so that a known id may come again, and then whatever
    followed it. A known id that comes again by itself has left the gate twice."""
    bodies: dict[Key, str] = {}
    before = -1
    for one in operations:
        key = (one.source, one.id)
        if bodies.setdefault(key, one.body) != one.body:
            yield Finding(Fault.ALTERED_OPERATION, f"{key} was released twice with different words")
        if places[key] > before + 1:
            yield Finding(Fault.DOUBLED_OPERATION, f"what came before {key} was no repetition: it was released again")
        before = places[key]


def _those_taken_in(evidence: Evidence, orders: Mapping[Key, int], released: Sequence[Key]) -> Iterator[Finding]:
    outcomes = {(row.source, row.id): set(row.outcomes.values()) for row in evidence.inbox}
    for key in orders.keys() - set(released):
        if outcomes.get(key) == {"absorbed"}:
            yield Finding(Fault.LOST_OPERATION, f"{key} was taken in, and neither released nor refused")
    for key in released:
        if key not in orders:
            yield Finding(Fault.INVENTED_OPERATION, f"{key} was released, and nobody asked for it")
        elif outcomes.get(key) != {"absorbed"}:
            yield Finding(Fault.INVENTED_OPERATION, f"{key} was released, and its outcome is {outcomes.get(key)}")
