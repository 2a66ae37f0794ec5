"""The CloudEvents 1.0 envelope, and reading one from the wire: bytes in, an event or the reasons why not out.

Nothing is raised for bad input and nothing is lost: `read` answers `Rejected` with every reason it found. Source of the
envelope's rules: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md (context attributes, size limits).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError
from pydantic_core import from_json

from schemas.base import NAME_PATTERN, Closed, Json, Moment
from schemas.events import EVENTS, PREFIX, EventType
from schemas.record import record

CONTENT_TYPE = "application/cloudevents+json"
MAX_BYTES = 256 * 1024
"""Larger bodies are refused: a snapshot, a log row and a notification each carry what an event carries."""
MAX_DEPTH = 32
"""Levels of nesting in a body; deeper ones are refused before anything walks them."""
MAX_NAME = 300
"""Characters of a refused body's source, id or type that are worth keeping: longer ones are no names."""
NUL = "\0"
"""The one character that JSON can carry and no text column of PostgreSQL can."""
MAX_CAUSATION = 16
"""Links of a causation chain; machines that chase each other end here."""


class CloudEvent(BaseModel):
    """One event in JSON structured mode. Extension attributes that Relight does not know are allowed and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    specversion: Literal["1.0"]
    id: Annotated[str, Field(min_length=1, max_length=300)]
    source: Annotated[str, Field(min_length=1, max_length=300)]
    type: Annotated[str, Field(min_length=1, max_length=200)]
    subject: Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
    time: Moment | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    traceparent: Annotated[str, Field(max_length=55)] | None = None
    tracestate: Annotated[str, Field(max_length=512)] | None = None
    causationid: Annotated[str, Field(max_length=700)] | None = None
    correlationid: Annotated[str, Field(max_length=700)] | None = None
    causationdepth: Annotated[int, Field(ge=0, le=1000)] = 0
    data: dict[str, SkipValidation[Json]]
    """Its values as they were parsed, and so JSON already: what they must be, the model of the event's type says."""


@record
class Read:
    """A valid event: the envelope, what Relight knows of its type, and its typed data."""

    envelope: CloudEvent
    kind: EventType
    data: Closed


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a body is no event for Relight. `system`, `source`, `id` and `type` as far as they could be read."""

    reasons: tuple[str, ...]
    system: str | None = None
    source: str | None = None
    id: str | None = None
    type: str | None = None


def read(body: bytes, routing_key: str | None = None) -> Read | Rejected:
    """An event from the wire. With `routing_key` (`<system>.<type without prefix>`) both must agree."""
    if len(body) > MAX_BYTES:
        return Rejected((f"the body has {len(body)} bytes; at most {MAX_BYTES} are allowed",))
    try:
        raw = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        try:
            body.decode()
        except UnicodeDecodeError as broken:
            return Rejected((f"the body is not UTF-8: {broken.reason} at byte {broken.start}",))
        return Rejected((f"the body is not JSON: {error}",))
    if not isinstance(raw, dict):
        return Rejected((f"the body is a JSON {type(raw).__name__}, not an object",))
    if _too_deep(body, raw):
        return Rejected((f"the body is nested deeper than {MAX_DEPTH} levels",))
    if b"\\u0000" in body and _holds_nul(raw):
        return Rejected(("the body holds the character U+0000, which cannot be kept",), **_about(raw))
    return _validate(raw, routing_key)


def _validate(raw: dict[str, Json], routing_key: str | None) -> Read | Rejected:
    try:
        envelope = CloudEvent.model_validate(raw)
    except ValidationError as error:
        return Rejected(explain(error), **_about(raw))
    system = envelope.subject
    name = envelope.type.removeprefix(PREFIX)
    kind = EVENTS.get(name) if envelope.type.startswith(PREFIX) else None
    if kind is None:
        return Rejected((f"the type {envelope.type!r} is not known",), **_about(raw))
    if routing_key is not None and routing_key != f"{system}.{name}":
        reason = f"the routing key {routing_key!r} does not agree with subject and type: expected {system}.{name}"
        return Rejected((reason,), **_about(raw))
    if envelope.causationdepth > MAX_CAUSATION:
        reason = f"the causation chain has {envelope.causationdepth} links; at most {MAX_CAUSATION} are allowed"
        return Rejected((reason,), **_about(raw))
    try:
        data = kind.data.model_validate(envelope.data)
    except ValidationError as error:
        return Rejected(explain(error, "data"), **_about(raw))
    return Read(envelope, kind, data)


def explain(error: ValidationError, root: str = "") -> tuple[str, ...]:
    """Each finding of a ValidationError as one line: `data.value: Input should be a valid number (given 'x')`."""
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        path = ".".join([root] * bool(root) + [str(part) for part in item["loc"]]) or "body"
        given = "" if item["type"] in ("missing", "extra_forbidden") else f" (given {str(item['input'])[:80]!r})"
        lines.append(f"{path}: {item['msg']}{given}")
    return tuple(lines)


def _about(raw: dict[str, Json]) -> dict[str, str]:
    """What can be said of a refused body, as arguments of `Rejected`: names that can be kept, and nothing else."""
    return {
        name: value
        for name, key in (("system", "subject"), ("source", "source"), ("id", "id"), ("type", "type"))
        if isinstance(value := raw.get(key), str) and len(value) <= MAX_NAME and NUL not in value
    }


def _holds_nul(value: Json) -> bool:
    if isinstance(value, str):
        return NUL in value
    if isinstance(value, dict):
        return any(NUL in key or _holds_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_holds_nul(inner) for inner in value)


def _too_deep(body: bytes, raw: Json) -> bool:
    # Brackets are counted in C first; only a body that could be too deep is walked.
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    level: list[Json] = [raw]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
