"""The systems' own PostgreSQL databases, asked and never changed. Relight's own tables are another room's."""

from service.adapters.databases.postgres import PostgresDatabases

__all__ = ["PostgresDatabases"]
