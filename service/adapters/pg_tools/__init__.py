"""PostgreSQL's own tools, and what is needed around them: dumps, and scratch servers in which dumps are tried."""

from service.adapters.pg_tools.dumps import PostgresDumps

__all__ = ["PostgresDumps"]
