"""Telling people: `notice.tell`, in the log and on the system's channels. The words are made in `notice_words.py`.

The status topic carries the transition itself already.
"""

from collections.abc import Mapping
from datetime import timedelta

import structlog

from machines.model import PlannedStep
from schemas.base import Json
from schemas.system import System
from service.errors import Permanent, Retry
from service.ports import Done, Severity, StepContext, Told
from service.steps.naming import record
from service.steps.notice_words import Occasion, words

CHANNEL_WITHIN = timedelta(seconds=10)
"""How long one channel may take; it delays no other, and all of them fit into the step's own time."""

log = structlog.get_logger("relight.notice")


class Tell:
    """Tells people what is happening to a system.

    Arguments: `severity` (whose channels), `occasion` (about what), `delivery`: `required` means that somebody has to
    be reached, `best_effort` that it is only tried. Twice is safe, and is what at least once means here: no message is
    taken back, and hearing it twice, with the same id of the restart, misleads nobody; not hearing it may.
    """

    name = "notice.tell"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        channels = _channels(system, _severity(step.arguments))
        topic = f"on relight.status ({system.system}.lifecycle.…) and in the log"
        if not channels:
            return f"tell {topic}; no channels.{_severity(step.arguments)} are set"
        must = ", one of which has to be reached" if _required(step.arguments) else ""
        return f"tell {', '.join(channels)}{must}; {topic}"

    async def perform(self, context: StepContext) -> Done:
        """Result: `told`, where it can be read; `deliveries`, one a channel by its reference, never its URL;
        `delivered_at` of the first. Raises Retry when somebody has to be reached and nobody was."""
        row, system, arguments = context.row, context.system, context.row.planned.arguments
        severity = _severity(arguments)
        occasion = Occasion(str(arguments.get("occasion", Occasion.PLANNED)))
        now = context.clock.now()
        title, body = words(occasion, system, row.key.instance, row.state, context.data, now)
        restart = record(context.data, "restart")
        about = {key: restart[key] for key in ("id", "reason", "requested_by", "due") if restart.get(key) is not None}
        where = {"system": row.system, "instance": row.key.instance, "state": row.state, "step": row.key.name}
        log.info("notice.told", **where, **about, title=title)
        told = await self._tell(context, _channels(system, severity), title, body, severity)
        for channel, one in told.items():
            if one.error is not None:
                log.warning("notice.not_delivered", **where, channel=channel, error=one.error)
        if told and _required(arguments) and not any(one.at for one in told.values()):
            raise Retry(
                f"nobody of {system.system} could be told on channels.{severity}: {_failures(told)}. "
                "Mend the channel, or the secret that its reference names"
            )
        return Done(_result(row.system, row.state, told))

    async def _tell(
        self, context: StepContext, channels: tuple[str, ...], title: str, body: str, severity: Severity
    ) -> Mapping[str, Told]:
        """By reference what became of it. A secret that is missing is a channel that failed, and stops no other."""
        urls: dict[str, str] = {}
        missing: dict[str, Told] = {}
        for reference in channels:
            try:
                urls[reference] = context.world.secrets.resolve(reference, context.system.folder)
            except Permanent as error:
                missing[reference] = Told(None, str(error))
        told = await context.world.notifier.tell(urls, title, body, severity, CHANNEL_WITHIN) if urls else {}
        return {reference: missing.get(reference) or told[reference] for reference in channels}

    async def probe(self, context: StepContext) -> Done | None:
        return None


def _severity(arguments: Mapping[str, Json]) -> Severity:
    match arguments.get("severity"):
        case "critical":
            return "critical"
        case "warning":
            return "warning"
        case _:
            return "info"


def _required(arguments: Mapping[str, Json]) -> bool:
    return arguments.get("delivery") == "required"


def _channels(system: System, severity: Severity) -> tuple[str, ...]:
    """The references of a severity, each once."""
    lists = {"info": system.channels.info, "warning": system.channels.warning, "critical": system.channels.critical}
    return tuple(dict.fromkeys(lists[severity]))


def _failures(told: Mapping[str, Told]) -> str:
    return "; ".join(f"{channel}: {one.error}" for channel, one in told.items() if one.error is not None)


def _result(system: str, state: str, told: Mapping[str, Told]) -> dict[str, Json]:
    result: dict[str, Json] = {"told": [f"relight.status {system}.lifecycle.{state}", "log"]}
    if not told:
        return result
    times = [one.at for one in told.values() if one.at is not None]
    failures = _failures(told)
    deliveries: list[Json] = [
        {"channel": channel, "delivered_at": one.at.isoformat() if one.at is not None else None, "error": one.error}
        for channel, one in told.items()
    ]
    result["deliveries"] = deliveries
    result["detail"] = f"told {len(times)}/{len(told)}" + (f"; not {failures}" if failures else "")
    if times:
        result["delivered_at"] = min(times).isoformat()
    return result
