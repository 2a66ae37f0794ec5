"""What every model that crosses a border shares: names, durations, and strictness. No model of its own lives here."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic import JsonValue as Json

__all__ = [
    "INSTANCE_PATTERN",
    "NAME_PATTERN",
    "Closed",
    "Duration",
    "Instance",
    "Json",
    "Moment",
    "Name",
    "Open",
    "Text",
    "findings",
]

NAME_PATTERN = r"[a-z][a-z0-9_-]{0,62}"
"""Names of systems, machines and components; at most 63 characters, so that a routing key stays far below 255."""

INSTANCE_PATTERN = rf"{NAME_PATTERN}(/[A-Za-z0-9_.-]{{1,63}}){{1,2}}"
"""`lifecycle/metrics`, `alert/metrics/memory`, `database_failure/metrics/01J…`: machine, system, and one more."""

Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
Instance = Annotated[str, Field(pattern=rf"^{INSTANCE_PATTERN}$")]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Moment = AwareDatetime

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(value: object) -> timedelta:
    """`90s`, `1h30m`, `500ms` as a timedelta; a bare number is seconds. Raises ValueError on anything else."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if parts and "".join(number + unit for number, unit in parts) == value:
            return sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())
    raise ValueError(f"{value!r} is not a duration; write it like 30s, 5m, 1h30m")


def format_duration(value: timedelta) -> str:
    """The inverse of `parse_duration`, largest units first: `1h30m`, `250ms`, `0s`."""
    rest = round(value.total_seconds() * 1000)
    out = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        out += f"{count}{unit}" if count else ""
    return out or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration, json_schema_input_type=str | float),
    PlainSerializer(format_duration, return_type=str),
]


def findings(error: ValidationError) -> str:
    """What is wrong and where, for people. Pydantic's own words repeat parts of what was given, which may be secret."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'as a whole'}: {one['msg']}" for one in found)


class Closed(BaseModel):
    """A frozen model that refuses fields it does not know: a misspelt field is an error, never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Open(BaseModel):
    """A frozen model whose readers ignore fields they do not know: what Relight says grows without breaking them."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
