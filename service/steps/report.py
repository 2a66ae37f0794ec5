"""The report of one restart: its log and steps as one page of Markdown. Pure: rows in, text out."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from machines.checklist import DAILY_RESTART, Moved, Run, Seen, checked
from machines.model import StepStatus
from schemas.base import Json, format_duration
from service.ports import LogRow, StepRow

NOT_WORKING_FROM = "preparing_for_restart.preserving"
"""From the pause on the system does not work: its downtime counts from here."""
UNSHOWN = frozenset({"passed", "title", "value", "expected", "at", "seconds", "deliveries", "told", "detail"})
"""Parts of a step's result that have a column or a section of their own."""
REMARKABLE = frozenset({StepStatus.DONE, StepStatus.FAILED, StepStatus.UNKNOWN, StepStatus.PROCEEDED})
"""Steps that were performed: what was cancelled with its state, or never came to its turn, is no issue by itself."""
LONGEST = 300
"""Characters of one cell: a page is read, the log has everything."""


def run_of(rows: Sequence[LogRow], steps: Iterable[StepRow], wanted: str | None = None) -> Run | None:
    """The restart called `wanted`, or the newest one, from the log of its instance; None when there is none."""
    records = [(row, json.loads(row.record)) for row in rows]
    # By the rows in which it was under way: whoever was given up since the last one that ended well is the newest.
    wanted = wanted or next((found for _, record in reversed(records) if (found := _under_way(record))), None)
    mine: list[tuple[LogRow, dict[str, Any]]] = []
    ended = None
    for row, record in records:
        if _under_way(record) == wanted:
            mine.append((row, record))
        elif mine and ended is None:
            mine.append((row, record))
            ended = row.at
    if wanted is None or not mine:
        return None
    data = [record["snapshot"]["data"] for _, record in mine]
    first, last = mine[0][1]["snapshot"]["entry"], mine[-1][1]["snapshot"]["entry"]
    about: dict[str, Json] = {}
    waivers: dict[str, Json] = {}
    for one in data:
        for key in ("restart", "last_abort", "last_restart"):
            found = one.get(key)
            if isinstance(found, dict) and found.get("id") == wanted:
                about |= found
        about |= {key: one[key] for key in ("failure", "down_since", "verified", "system_snapshot") if key in one}
        waivers |= one.get("waivers") or {}
    signatures: dict[str, Json] = {}
    for _, record in records:  # also those that came when it was over
        signed = record["snapshot"]["data"].get("signatures")
        if isinstance(signed, dict) and signed.get("restart") == wanted:
            signatures |= signed.get("items") or {}
    return Run(
        id=wanted,
        moves=tuple(_moved(row, record) for row, record in mine),
        steps=tuple(_seen(step) for step in steps if first <= step.key.entry <= last),
        about=about,
        waivers=waivers,
        ended=ended,
        signatures=signatures,
    )


def _under_way(record: Mapping[str, Any]) -> str | None:
    """The id of the restart that was under way after this row."""
    restart = record["snapshot"]["data"].get("restart")
    return str(restart["id"]) if isinstance(restart, dict) and "id" in restart else None


def _moved(row: LogRow, record: Mapping[str, Any]) -> Moved:
    refused = row.kind == "refusal"
    reason = "; ".join(record.get("reasons", [])) if refused else str(record.get("reason", ""))
    return Moved(row.at, row.state_from, row.state_to, reason, row.event_type, row.user, refused)


def _seen(step: StepRow) -> Seen:
    return Seen(
        step.key.entry, step.state, step.key.name, step.status, step.attempt, step.result, step.error
    )  # fmt: skip


def markdown(run: Run, system: str, instance: str, limit: timedelta | None, now: datetime) -> str:
    """The page. `limit` is the promised downtime (None: not known any more); `now` is what ages count to."""
    lines = [
        f"# Restart of {system}: {_verdict(run)}",
        "",
        f"Instance {instance}, restart {run.id}; times in UTC.",
        "",
        *_about(run, limit, now),
        *_section("Checklist", _checklist(run)),
        *_section("Timeline", _timeline(run)),
        *_section("Evidence", _evidence(run, run.ended or now)),
        *_section("Deliveries", _deliveries(run)),
        *_section("Backups", _backups(run)),
        *_section("Waivers", _waivers(run)),
        *_section("Issues", _issues(run)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def downtime(run: Run, now: datetime) -> timedelta | None:
    """From the pause until the system worked again, or until now; None when it was never paused."""
    began = run.entered(NOT_WORKING_FROM)
    return None if began is None else (run.ended or now) - began


def _verdict(run: Run) -> str:
    stopped = run.entered("shutting_down") is not None
    if run.writing:
        return "done, if the system comes to rest now" if stopped else "given up"
    if run.ended is None:
        return f"under way ({run.state})"
    if run.state == "operational":
        return "done" if stopped else "given up, nothing was stopped"
    return f"ended {run.state}"


def _about(run: Run, limit: timedelta | None, now: datetime) -> Iterator[str]:
    about = run.about
    down = downtime(run, now)
    rows = [
        ("Reason", about.get("reason")),
        ("Asked for by", f"{about.get('requested_by') or 'nobody by name'} at {_time(about.get('requested_at'))}"),
        (
            "Approved by",
            f"{about['approved_by']} at {_time(about.get('approved_at'))}" if "approved_by" in about else None,
        ),
        ("Pause announced for", _time(about.get("due"))),
        ("Downtime", _against(down, limit) if down is not None else "none: it was never paused"),
        ("Freeze overridden", about.get("freeze_overridden")),
        ("System snapshot", _snapshot(about.get("system_snapshot"))),
    ]
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {_cell(value)} |" for name, value in rows if value)


def _against(down: timedelta, limit: timedelta | None) -> str:
    shown = format_duration(timedelta(seconds=round(down.total_seconds(), 1)))
    if limit is None:
        return f"{shown} (its limit is not known any more)"
    return f"{shown} of {format_duration(limit)}: {'within its limit' if down <= limit else 'LONGER THAN PROMISED'}"


def _snapshot(value: Json) -> str | None:
    return f"{value.get('url')}, SHA-256 {value.get('sha256')}" if isinstance(value, dict) else None


def _section(title: str, body: Iterable[str]) -> Iterator[str]:
    lines = list(body)
    if lines:
        yield from ("", f"## {title}", "", *lines)


def _checklist(run: Run) -> Iterator[str]:
    for item, proof in checked(DAILY_RESTART, run):
        yield f"- [{'x' if proof.proven else ' '}] {item.text}: {'✓' if proof.proven else '✗'} {_cell(proof.words)}"


def _timeline(run: Run) -> Iterator[str]:
    yield from ("| at | from | to | why | by |", "|---|---|---|---|---|")
    for move in run.moves:
        to = "refused" if move.refused else move.to
        by = move.user or move.event.removeprefix("relight.")
        yield f"| {_time(move.at)} | {move.source} | {to} | {_cell(move.reason)} | {_cell(by)} |"


def _evidence(run: Run, until: datetime) -> Iterator[str]:
    yield from ("| step | outcome | attempts | value | age |", "|---|---|---|---|---|")
    for step in run.steps:
        if step.line == "report" and run.writing:
            continue
        failed = step.status is StepStatus.DONE and step.result.get("passed") is False
        outcome = "not passed" if failed else step.status.value
        cells = (step.name, outcome, str(step.attempts), _cell(_value(step)), _age(step.result.get("at"), until))
        yield f"| {' | '.join(cells)} |"


def _value(step: Seen) -> str:
    result = step.result
    parts = [f"{result['title']}:"] if "title" in result else []
    if "value" in result:
        parts.append(_plain(result["value"]))
    if "expected" in result:
        parts.append(f"(expected {_plain(result['expected'])})")
    parts += [str(result["detail"])] if result.get("detail") else []
    parts += [
        f"{key} {_plain(value)}" for key, value in result.items() if key not in UNSHOWN and value not in ("", None)
    ]
    if step.error and step.status is not StepStatus.DONE:
        parts.append(step.error)
    return " ".join(parts)


def _plain(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _age(at: Json, until: datetime) -> str:
    if not isinstance(at, str):
        return ""
    seconds = max(0.0, round((until - datetime.fromisoformat(at)).total_seconds(), 1))
    return format_duration(timedelta(seconds=seconds))


def _deliveries(run: Run) -> Iterator[str]:
    for step in run.steps:
        deliveries = step.result.get("deliveries")
        for one in deliveries if isinstance(deliveries, list) else []:
            if isinstance(one, dict):
                said = f"at {_time(one.get('delivered_at'))}" if one.get("delivered_at") else f"✗ {one.get('error')}"
                yield f"- {step.name} to {_cell(one.get('channel'))}: {_cell(said)}"


def _backups(run: Run) -> Iterator[str]:
    for step in run.steps:
        if step.line in ("backup", "verify_backup", "restore_test", "prune"):
            yield f"- {step.name} {step.status.value}: {_cell(_value(step))}"


def _waivers(run: Run) -> Iterator[str]:
    for name, about in run.waivers.items():
        note = about if isinstance(about, dict) else {}
        yield f"- {name} by {_cell(note.get('by'))} until {_time(note.get('until'))}: {_cell(note.get('reason'))}"


def _issues(run: Run) -> Iterator[str]:
    found = [
        f"{step.name}: {step.error or 'did not pass'}"
        for step in run.steps
        if step.problem is not None and step.status in REMARKABLE
    ]
    found += [f"refused at {_time(move.at)}: {move.reason}" for move in run.moves if move.refused]
    failure = run.about.get("failure")
    if isinstance(failure, dict):
        found.append(f"left its way in {failure.get('state')} by {failure.get('by')}: {failure.get('reason') or ''}")
    yield from (f"- {_cell(one)}" for one in found) if found else ("None.",)


def _time(moment: Json | datetime) -> str:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return f"{moment:%Y-%m-%d %H:%M:%S}" if isinstance(moment, datetime) else "an unknown time"


def _cell(value: Json) -> str:
    """One line of text that no character of it can break out of: what arrived from outside may hold anything."""
    text = " ".join(str(value).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    for mark in "\\`|<[*":
        text = text.replace(mark, f"\\{mark}")
    return text
