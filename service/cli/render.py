"""Notifications in, lines out: how a restart reads on a terminal. Pure: no clock, no console, no colour codes.

Steps of one kind are collected on one line while they end; a wait is shown when it has lasted a little.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum

from pydantic import ValidationError

from machines.acts import ways_out
from machines.model import InstanceId
from machines.registry import VERSIONS
from schemas.envelope import CloudEvent
from schemas.events import PREFIX
from schemas.notifications import NOTIFICATIONS, RefusalData, StepData, TransitionData, WaitData
from service.cli.words import LONGEST, by, clock, evidence, reused, short, span, title, verb

Notification = TransitionData | RefusalData | StepData | WaitData

PATIENCE = timedelta(seconds=2)
"""A wait that ends sooner is not worth a line: most participants answer within a second."""

LONGEST_CAUSE = 1500
"""Characters of why a restart was given up or halted."""

RESUMING = "preparing_for_restart.resuming"
PAUSED_FROM = "preparing_for_restart.preserving"
"""From the entry of this state the system does not work: the downtime begins."""
NO_RETURN = "shutting_down"
SAFE_ENDS = frozenset({"operational", "degraded", "halted", "halted.database_lost"})


class Tone(StrEnum):
    """What a line means; a terminal gives it a colour."""

    PLAIN = "plain"
    HEADING = "heading"
    GOOD = "good"
    BAD = "bad"
    WAIT = "wait"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended. `restarted`: the system was stopped, started and is operational again."""

    state: str
    restarted: bool
    reasons: tuple[str, ...] = ()
    downtime: timedelta | None = None


def read(body: bytes) -> Notification | None:
    """A notification from the status topic; None for what this version does not know how to show."""
    try:
        envelope = CloudEvent.model_validate_json(body)
        kind = NOTIFICATIONS.get(envelope.type.removeprefix(PREFIX))
        data = kind.model_validate(envelope.data) if kind is not None else None
    except ValidationError:
        return None
    return data if isinstance(data, TransitionData | RefusalData | StepData | WaitData) else None


@dataclass(slots=True)
class _Group:
    """Steps of one line of the table, in one state entry, shown side by side."""

    entry: int
    verb: str
    parts: dict[str, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    tone: Tone = Tone.PLAIN
    since: datetime | None = None
    """When the last part came."""

    def text(self) -> str:
        return " | ".join(part for part in self.parts.values() if part)


class Story:
    """One system's restart, told line by line as its notifications arrive."""

    def __init__(self, zone: tzinfo, *, limit: timedelta | None = None, request: str | None = None) -> None:
        """`limit` is the promised downtime; `request` the id of the event whose refusal ends the story."""
        self._zone = zone
        self._limit = limit
        self._request = request
        self._status = ""
        self._group: _Group | None = None
        self._waits: dict[str, tuple[datetime, WaitData]] = {}
        self._due: datetime | None = None
        self._paused_at: datetime | None = None
        self._stopped = False
        self._document = ""
        self.ending: Ending | None = None

    @property
    def pending(self) -> str:
        """The line in the making, for a terminal that can show it: `pause  calculator ✓ 0.2s | reporter …`."""
        if self._group is None:
            return ""
        waiting = " ".join(f"{name or ''} …".strip() for name in sorted(self._group.open))
        return f"{self._group.verb:<13}" + " | ".join(part for part in (self._group.text(), waiting) if part)

    def take(self, said: Notification) -> tuple[Line, ...]:
        """The lines that this notification completes."""
        return (*self.tick(said.at), *self._take(said))

    def tick(self, now: datetime) -> tuple[Line, ...]:
        """The waits that have lasted long enough by `now` to be worth a line, and what has ended some time ago."""
        return (*self._settled(now), *self._overdue(now))

    def _settled(self, now: datetime) -> Iterator[Line]:
        group = self._group
        if group is not None and group.since is not None and now - group.since >= PATIENCE:
            yield from self._flush(group.since)

    def _overdue(self, now: datetime) -> Iterator[Line]:
        due = [name for name, (since, _) in self._waits.items() if now - since >= PATIENCE]
        for name in due:
            yield from self._waited(self._waits.pop(name)[1], now)

    def close(self) -> tuple[Line, ...]:
        """What is still in the making, as a line: nothing more will come."""
        return tuple(self._flush(None))

    def _take(self, said: Notification) -> Iterator[Line]:
        match said:
            case TransitionData():
                yield from self._flush(said.at)
                self._waits.clear()
                yield from self._moved(said)
            case RefusalData():
                yield from self._flush(said.at)
                yield self._line(said.at, "REFUSED", f"{'; '.join(said.reasons)}", Tone.BAD)
                if said.event is not None and said.event.id == self._request:
                    self.ending = Ending(said.state or "", restarted=False, reasons=tuple(said.reasons))
            case StepData():
                yield from self._step(said)
            case WaitData() if said.step is None and said.until is not None and said.until == self._due:
                pass  # the heading has said so
            case WaitData():
                self._waits.setdefault(said.step or "", (said.at, said))

    def _moved(self, said: TransitionData) -> Iterator[Line]:
        heading = title(said.status) if said.to != RESUMING else "RESUMING"
        changed, self._status = heading != self._status, heading
        if said.to == PAUSED_FROM:
            self._paused_at = said.at
        elif said.to == NO_RETURN:
            self._stopped = True
            yield Line(" " * 9 + "── point of no return ──", Tone.WAIT)
        if said.to in SAFE_ENDS:
            yield self._ended(said, heading)
            yield from _ways_out(said)
        elif changed:
            yield self._line(said.at, heading, self._about(said), Tone.HEADING)

    def _about(self, said: TransitionData) -> str:
        due = self._due = said.snapshot.dwell_until
        # Why a way was left is what a person has to act on: it is not cut short.
        longest = LONGEST_CAUSE if said.to == RESUMING else LONGEST
        parts = [short(said.reason.removesuffix(": point of no return"), longest)]
        if due is not None and due > said.at:
            parts.append(f"pause at {clock(due, self._zone)}; cancel until shutdown")
        parts.append(by(said.event.user))
        return "   ".join(part for part in parts if part)

    def _ended(self, said: TransitionData, heading: str) -> Line:
        downtime = said.at - self._paused_at if self._paused_at is not None else None
        restarted = self._stopped and said.to == "operational"
        reasons = () if restarted else (said.reason,)
        self.ending = Ending(said.to, restarted, reasons, downtime)
        parts = [] if restarted else [short(said.reason, LONGEST_CAUSE)]
        if downtime is not None:
            of = f" of {span(self._limit)}" if self._limit is not None else ""
            parts.append(f"downtime {span(downtime)}{of}")
        if self._document:
            parts.append(self._document)
        well = said.to == "operational" and (self._limit is None or downtime is None or downtime <= self._limit)
        return self._line(said.at, heading, "   ".join(parts), Tone.GOOD if well else Tone.BAD)

    def _step(self, said: StepData) -> Iterator[Line]:
        what, target = verb(said.step)
        group = self._group
        if group is None or group.verb != what or group.entry != said.entry:
            yield from self._flush(said.at)
            group = self._group = _Group(said.entry, what)
        name = str(said.result.get("title") or target)
        if said.outcome not in ("started", "waiting"):
            group.since = said.at
            group.open.discard(target)
            self._waits.pop(said.step, None)
        if isinstance(said.result.get("url"), str) and what != "backup":
            self._document = f"{'report ' if said.step == 'report' else ''}{said.result['url']}"
        match said.outcome:
            case "started" | "waiting":
                group.open.add(target)
            case "done" if what != "backup" and said.result.get("reused") is True:
                pass  # the line of the backup has said so
            case "done" if told := reused(said.result, self._zone):
                group.parts[target] = _words(name, told, "✓")
            case "done":
                again = f"after {said.attempt} attempts" if said.attempt > 1 else ""
                group.parts[target] = _words(name, _mark(said), _seconds(said), evidence(said.result), again)
                group.tone = group.tone if _mark(said) == "✓" else Tone.BAD
            case "retrying":
                group.parts[target] = _words(name, "✗", short(said.error or ""), f"(attempt {said.attempt}), again")
                group.tone = Tone.WAIT
                yield from self._flush(said.at)
            case "proceeded":
                group.parts[target] = _words(name, "silent", _seconds(said), "→ proceed")
                group.tone = Tone.WAIT
            case "failed" | "unknown":
                unknown = "unknown whether it happened:" if said.outcome == "unknown" else ""
                group.parts[target] = _words(name, "✗", unknown, short(said.error or "no reason was given"))
                group.tone = Tone.BAD
                yield from self._flush(said.at)
            case "cancelled" | "waived":
                group.parts[target] = _words(name, said.outcome)

    def _waited(self, said: WaitData, now: datetime) -> Iterator[Line]:
        yield from self._flush(now)
        what = verb(said.step)[0] if said.step else "waits"
        until = f" at {clock(said.until, self._zone)}" if said.until is not None else ""
        then = f";  if nobody acts: {said.then}{until}" if said.then else ""
        yield self._line(now, what, f"waits for {said.whom}{then}", Tone.WAIT, indent=True)

    def _flush(self, at: datetime | None) -> Iterator[Line]:
        group = self._group
        if group is None:
            return
        if group.text():
            yield self._line(at, group.verb, group.text(), group.tone, indent=True)
        left = {target for target in group.open if target not in group.parts}
        self._group = _Group(group.entry, group.verb, open=left) if left else None

    def _line(self, at: datetime | None, head: str, text: str, tone: Tone, *, indent: bool = False) -> Line:
        time = clock(at, self._zone) if at is not None else " " * 8
        label = f"  {head:<13}" if indent else f"{head:<15}"
        return Line(f"{time} {label}{text}".rstrip(), tone)


def _ways_out(said: TransitionData) -> Iterator[Line]:
    """Where only a person leads on: the commands that do."""
    machine = VERSIONS.get((said.machine, said.machine_version))
    if machine is None:
        return
    for way in ways_out(machine, said.to, {}, said.snapshot.data):
        yield Line(f"{' ' * 11}{way.command(InstanceId(said.instance)):<58}  {way.effect}", Tone.WAIT)


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _mark(said: StepData) -> str:
    """A check that was performed has not therefore passed."""
    return "✗" if said.result.get("passed") is False else "✓"


def _seconds(said: StepData) -> str:
    return span(said.seconds) if said.seconds is not None and said.seconds >= 0.05 else ""


def one_line(said: Notification, zone: tzinfo) -> Line:
    """A notification by itself, as `relight watch` shows it: time, instance, what happened."""
    start = f"{clock(said.at, zone)} {said.instance or said.system:<24}"
    match said:
        case TransitionData():
            text = f"{said.from_} → {said.to}   {short(said.reason)}   {by(said.event.user)}   #{said.seq}"
            return Line(f"{start} {text}", Tone.HEADING)
        case RefusalData():
            who = by(said.event.user if said.event is not None else None)
            what = said.event.type.removeprefix(PREFIX) if said.event is not None else "event"
            return Line(f"{start} refused {what} {who}: {short('; '.join(said.reasons))}", Tone.BAD)
        case StepData():
            more = _words(_seconds(said), reused(said.result, zone), evidence(said.result), short(said.error or ""))
            tone = Tone.BAD if said.outcome in ("failed", "unknown") else Tone.QUIET
            return Line(_words(start, said.step, said.outcome, more), tone)
        case WaitData():
            until = f" at {clock(said.until, zone)}" if said.until is not None else ""
            return Line(f"{start} waits for {said.whom}; if nobody acts: {said.then}{until}", Tone.WAIT)
