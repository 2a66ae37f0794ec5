"""A witness inside of the database: triggers that note who writes under which token. Installed by tests, no judging.

Relight does not know of it. It sees each write at the moment when it happens, and which token was given last then; a
dump at the end shows only the last writer.
"""

import asyncpg

SCRIPT = """
CREATE SCHEMA witness;
CREATE TABLE witness.writes (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what text NOT NULL,
    key text NOT NULL,
    token bigint NOT NULL,
    held bigint NOT NULL
);

-- An owner may write while its token is that of a shard's row: acquiring a shard waits for whoever commits under it.
CREATE FUNCTION witness.snapshot() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witness.writes (what, key, token, held)
        SELECT 'snapshot', NEW.instance, NEW.token,
            CASE WHEN bool_or(s.token = NEW.token) THEN NEW.token ELSE coalesce(max(s.token), 0) END
        FROM relight.shards s;
    RETURN NULL;
END $$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON relight.instances
    FOR EACH ROW EXECUTE FUNCTION witness.snapshot();

-- A worker's report carries the token of its claim as the last part of its id.
CREATE FUNCTION witness.record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    body jsonb := NEW.body::jsonb;
BEGIN
    IF body ->> 'type' = 'relight.step.reported' AND body ->> 'source' = 'relight/runner' THEN
        INSERT INTO witness.writes (what, key, token, held)
            SELECT 'record', concat_ws(':', s.instance, s.entry, s.name),
                regexp_replace(body ->> 'id', '^.*:', '')::bigint, coalesce(s.token, 0)
            FROM relight.steps s
            WHERE s.instance = body #>> '{data,instance}' AND s.entry = (body #>> '{data,entry}')::bigint
                AND s.name = body #>> '{data,step}';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER witness AFTER INSERT ON relight.signals FOR EACH ROW EXECUTE FUNCTION witness.record();

CREATE FUNCTION witness.claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witness.writes (what, key, token, held)
        VALUES ('claim', concat_ws(':', NEW.instance, NEW.entry, NEW.name), NEW.token,
            CASE WHEN OLD.status = 'running' AND OLD.lease_until > clock_timestamp() THEN OLD.token ELSE 0 END);
    RETURN NULL;
END $$;
CREATE TRIGGER witness AFTER UPDATE ON relight.steps FOR EACH ROW
    WHEN (NEW.token IS DISTINCT FROM OLD.token) EXECUTE FUNCTION witness.claim();
"""
"""What the triggers see is what had been committed when the statement that fires them began, as the writer does."""


async def install(postgres_url: str) -> None:
    """Puts the witness beside tables that are migrated already; `evidence.dump` takes its word along."""
    connection = await asyncpg.connect(postgres_url, timeout=10)
    try:
        await connection.execute(SCRIPT)
    finally:
        await connection.close(timeout=10)
