"""asyncpg's and PostgreSQL's errors in Relight's words. Nothing is retried or decided here."""

import asyncpg

from service.errors import Conflict, LostLease, Poison, RelightError, Transient, Unavailable

SERVER = "PostgreSQL"

LOST_LEASE = "RL001"
WROTE_FIRST = "RL002"
"""Raised by our own functions, see migrations/."""

PASSING = frozenset({"40001", "40P01", "0A000"})
"""Serialization failure, deadlock, and a cached plan of a table that was just altered."""

AWAY_CLASSES = frozenset({"08", "28", "53", "57", "58", "XX"})
"""Connection, authorization, resources, operator intervention (shutdown, cancelled by a timeout), system, internal."""

AWAY = frozenset({"55P03", "25P03", "25P04", "25006", "3D000", "3F000", "42501", "42P01", "42883"})
"""Lock timeout, idle transaction ended, a standby instead of the primary; a database, schema, right, table or function
that is missing: while somebody restores it, waiting is right."""

CONTENT_CLASSES = frozenset({"22", "23", "54"})
"""Data that no column takes, constraints, and sizes beyond what a row or an index holds."""

ENDS_CONNECTION = frozenset({"08", "57", "XX"})
"""Internal errors too: a statement that was prepared before the schema was restored in place looks for types that are
gone, for as long as its connection lasts."""


def translate(error: BaseException) -> RelightError | None:
    """What `error` means for Relight; None: it is a bug, and stays what it is."""
    match error:
        case asyncpg.PostgresError(sqlstate=str(state)):
            return _by_state(error, state)
        case asyncpg.OutdatedSchemaCacheError():
            return Transient(f"{SERVER}'s tables were altered: {error}")
        case TimeoutError():
            return Unavailable(SERVER, "it did not answer in time")
        case OSError() | asyncpg.InterfaceError() | asyncpg.InternalClientError() | EOFError():
            return Unavailable(SERVER, str(error) or type(error).__name__)
    return None


def _by_state(error: asyncpg.PostgresError, state: str) -> RelightError | None:
    text = str(error)
    if state == LOST_LEASE:
        return LostLease(text)
    if state == WROTE_FIRST:
        return Conflict(text)
    if state == "23505" and str(getattr(error, "table_name", "")).startswith("inbox_"):
        return Conflict(f"an event of the batch has its outcome already: {text}")
    if state in PASSING:
        return Transient(f"{SERVER} refused for a passing reason: {text}")
    if state in AWAY or state[:2] in AWAY_CLASSES:
        return Unavailable(SERVER, text)
    if state[:2] in CONTENT_CLASSES:
        return Poison(f"{SERVER} refused the batch for what is in it: {text}")
    return None
