-- A database that was restored from a backup is found out: what it lacks stands in the stream of notifications.

-- Up to `compared_at` the log was known to hold what was published; `compared` is the token that says so. `cleared` is the
-- token under which steps of `systems` may be claimed. `timeline` is the server's, as of when the lease was taken.
ALTER TABLE relight.shards
    ADD COLUMN systems text[] NOT NULL DEFAULT '{}',
    ADD COLUMN cleared bigint,
    ADD COLUMN compared bigint,
    ADD COLUMN compared_at timestamptz,
    ADD COLUMN timeline text;
-- Nobody has looked before; a lease's last renewal lies at most a lease before its end.
UPDATE relight.shards SET compared_at = until - interval '1 hour';

-- What was found to be lost, by the epoch that began with it: of that system nothing of earlier epochs is looked for again.
CREATE TABLE relight.losses (
    system text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    said text NOT NULL,
    PRIMARY KEY (system, epoch)
);

-- The generation of the server's own history: another one after every failover and recovery to a point in time. Empty
-- where a service does not tell.
CREATE FUNCTION relight.timeline() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
EXCEPTION WHEN OTHERS THEN
    RETURN '';
END $$;

-- The lease, held until the end of the transaction: nobody else becomes owner while this one writes. A lease of another
-- timeline is void: what was committed under it may be lost, and its owner has to look.
CREATE OR REPLACE FUNCTION relight.hold_shard(the_shard int, the_token bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM relight.shards s
        WHERE s.shard = the_shard AND s.token = the_token AND s.until > clock_timestamp()
            AND (s.timeline IS NULL OR s.timeline = relight.timeline()) FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'token % is not the lease of shard %', the_token, the_shard USING ERRCODE = 'RL001';
    END IF;
END $$;

-- This database lacks what it had published. The lease ends with its token; nothing can be claimed before the next owner
-- has looked, and the signals stand before all that the restored tables still hold.
CREATE FUNCTION relight.lose(
    the_shard int, the_token bigint, new_epoch bigint, the_systems text[], lost_system text[], lost_said text[],
    lost_signal text[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_epoch bigint;
    lowest bigint;
BEGIN
    PERFORM relight.hold_shard(the_shard, the_token);
    -- Owners of several shards may find the same loss: the epoch rises once.
    UPDATE relight.settings SET epoch = greatest(epoch, new_epoch) RETURNING epoch INTO now_epoch;
    UPDATE relight.steps s SET status = 'unknown', worker = NULL, lease_until = NULL,
            error = 'Relight''s database was restored from before this step''s end: nobody can tell whether it happened'
        WHERE s.system = ANY (the_systems) AND s.status IN ('ready', 'running', 'waiting');
    INSERT INTO relight.losses (system, epoch, said)
        SELECT n.system, now_epoch, n.said FROM unnest(lost_system, lost_said) AS n(system, said)
        WHERE n.said IS NOT NULL
        ON CONFLICT (system, epoch) DO NOTHING;
    SELECT least(0, min(s.id)) INTO lowest FROM relight.signals s WHERE s.shard = the_shard;
    INSERT INTO relight.signals (id, shard, system, body, local) OVERRIDING SYSTEM VALUE
        SELECT lowest - cardinality(lost_signal) - 1 + n.place, the_shard, n.system, n.body, false
        FROM unnest(lost_system, lost_signal) WITH ORDINALITY AS n(system, body, place);
    UPDATE relight.shards s SET token = relight.next_token(), cleared = NULL, compared = the_token,
            compared_at = clock_timestamp()
        WHERE s.shard = the_shard;
    PERFORM pg_notify('relight_signals', the_shard::text);
END $$;
