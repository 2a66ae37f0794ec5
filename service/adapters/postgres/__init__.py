"""Relight's own tables in PostgreSQL. asyncpg is imported here and nowhere else; nothing is decided here."""

from service.adapters.postgres.diagnosing import diagnose
from service.adapters.postgres.migrating import Phase, check_schema, migrate
from service.adapters.postgres.store import PostgresStore

__all__ = ["Phase", "PostgresStore", "check_schema", "diagnose", "migrate"]
