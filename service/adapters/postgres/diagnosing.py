"""What is wrong with the database that is to hold Relight's tables, and how to mend it. Changes nothing."""

from datetime import timedelta

from service.adapters.postgres.migrating import check, connected
from service.errors import Misconfigured

OLDEST = 15
"""Major version; migrations and queries use what it brought."""

RIGHTS = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
    current_user AS "user", current_database() AS database, pg_is_in_recovery() AS standby,
    current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    to_regnamespace('relight') IS NOT NULL AS there,
    coalesce(has_schema_privilege(to_regnamespace('relight'), 'USAGE'), false) AS may_use,
    (SELECT coalesce(string_agg(c.relname, ', ' ORDER BY c.relname), '') FROM pg_class c
        WHERE c.relnamespace = to_regnamespace('relight') AND c.relkind IN ('r', 'p')
            AND NOT has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')) AS closed
"""


async def diagnose(dsn: str) -> tuple[str, list[tuple[str, str]]]:
    """(what was found, problems as (what, how to mend it)). Raises Unavailable and Misconfigured (wrong address)."""
    problems: list[tuple[str, str]] = []
    async with connected(dsn, timedelta(seconds=10)) as connection:
        row = await connection.fetchrow(RIGHTS)
        assert row is not None  # noqa: S101  # the query has no FROM: one row, always
        found = f"PostgreSQL {row['version']}, database {row['database']} as {row['user']}"
        if row["major"] < OLDEST:
            problems.append((f"PostgreSQL {row['version']} is too old", f"Relight needs {OLDEST} or newer"))
        if row["standby"]:
            problems.append(("it is a standby, which nobody can write to", "name the primary in RELIGHT_POSTGRES_URL"))
        if row["fsync"] != "on" or row["synchronous_commit"] in ("off", "local"):
            why = f"fsync is {row['fsync']}, synchronous_commit {row['synchronous_commit']}"
            problems.append((f"a commit may be lost in a crash: {why}", "set both to on"))
        if not row["there"] and not row["may_create"]:
            grant = f'GRANT CREATE ON DATABASE "{row["database"]}" TO "{row["user"]}"'
            problems.append(("there is no schema relight, and this user may not create it", f"as its owner: {grant}"))
            return found, problems
        if row["there"] and not row["may_use"]:
            problems.append(
                ("this user may not use the schema relight", "connect as the user who ran `relight migrate`")
            )
            return found, problems
        if row["closed"]:
            why = f"this user may not read and write {row['closed']}"
            problems.append((why, "connect as the user who ran `relight migrate`"))
            return found, problems
        try:
            await check(connection)
        except Misconfigured as error:
            problems += [(problem, "run `relight migrate`") for problem in error.problems]
    return found, problems
