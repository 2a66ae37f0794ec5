"""Events: each confirmed one has its outcomes, once, and what they moved or refused stands in a log. Rules only."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.faults.checker.findings import Fault, Finding
from tests.faults.checker.losses import told
from tests.faults.evidence import Evidence, LogRow, Verdict

OUTCOMES = frozenset({"applied", "absorbed", "refused", "dead"})
LOGGED = {"applied": "transition", "refused": "refusal"}
"""Outcomes that leave a row in the instance's log, and of which kind."""
NOTED_FIRST = frozenset({"relight.operator.acted", "relight.step.reported"})
"""Events that may leave two rows, one behind the other: a note of what they say, and the move that follows from it."""


def events_have_outcomes(evidence: Evidence) -> Iterator[Finding]:
    rows = defaultdict(list)
    for row in evidence.inbox:
        rows[row.source, row.id].append(row)
    dead = {(letter.source, letter.event_id) for letter in evidence.dead}
    lost = {key for loss in told(evidence) for key in loss.events}
    for event in evidence.published:
        key = (event.source, event.id)
        found = rows.get(key, [])
        if event.verdict is Verdict.CONFIRMED and not found and key not in dead and key not in lost:
            yield Finding(Fault.LOST_EVENT, f"{key} was confirmed and has neither an outcome nor a dead letter")
        if len(found) > 1:
            yield Finding(Fault.DOUBLED_INBOX_ROW, f"{key} has {len(found)} inbox rows")
        for row in found:
            wrong = [outcome for outcome in row.outcomes.values() if outcome not in OUTCOMES]
            buried = list(row.outcomes.values()) == ["dead"]
            instances = {event.instance, *event.others}
            meant = event.instance is None or buried or set(row.outcomes) == instances
            if wrong or not row.outcomes or not meant:
                yield Finding(Fault.WRONG_OUTCOME, f"{key} means {instances} and has {dict(row.outcomes)}")
            if buried and key not in dead:
                yield Finding(Fault.WRONG_OUTCOME, f"{key} is dead without a dead letter")


def outcomes_and_log_agree(evidence: Evidence) -> Iterator[Finding]:
    sources = {event.source for event in evidence.published}
    known = {(event.source, event.id) for event in evidence.published}
    outcomes = {(row.source, row.id): row.outcomes for row in evidence.inbox}
    logged: dict[tuple[str, str, str], list[LogRow]] = defaultdict(list)
    for log_row in evidence.log:
        logged[log_row.source, log_row.event_id, log_row.instance].append(log_row)
    for (source, event, instance), rows in logged.items():
        key = (source, event)
        if len(rows) > 1 and not _one_behind_the_other(rows):
            yield Finding(Fault.DOUBLED_LOG_ROW, f"{instance} logged {key} as seq {[row.seq for row in rows]}")
        if source not in sources:
            continue
        if key not in known:
            yield Finding(Fault.STRANGE_EVENT, f"{instance} logged {key}, which nobody published")
        expected = LOGGED.get(outcomes.get(key, {}).get(instance, "none"))
        if expected != rows[0].kind:
            said = dict(outcomes.get(key, {}))
            yield Finding(
                Fault.LOG_ROW_WITHOUT_OUTCOME, f"{instance} logged a {rows[0].kind} for {key}, outcomes {said}"
            )
    for key, decided in outcomes.items():
        for instance, outcome in decided.items():
            if key in known and outcome in LOGGED and (*key, instance) not in logged:
                yield Finding(Fault.OUTCOME_WITHOUT_LOG_ROW, f"{key} was {outcome} at {instance}, which logged nothing")


def _one_behind_the_other(rows: Sequence[LogRow]) -> bool:
    two = len(rows) == 2 and rows[1].seq == rows[0].seq + 1
    return two and json.loads(rows[0].record)["event"]["type"] in NOTED_FIRST


def dead_letters_are_told(evidence: Evidence) -> Iterator[Finding]:
    """Of what somebody published, and as far as it could be read: who sent it must be able to find out."""
    told = {
        (note.data["event"]["source"], note.data["event"]["id"])
        for note in evidence.notifications
        if note.type == "refused" and note.data.get("event")
    }
    known = {(event.source, event.id) for event in evidence.published}
    for letter in evidence.dead:
        key = (letter.source, letter.event_id)
        if key in known and key not in told:
            yield Finding(Fault.UNTOLD_DEATH, f"{key} is a dead letter, and nothing was said of it")
