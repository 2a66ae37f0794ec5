-- A batch comes as rows instead of 51 columns: cheaper to say for the client, and no dearer to read here. The function that
-- takes columns stays until the new version is deployed.

-- A batch's rows as the function takes them, an array of each: one value a row instead of one array a column. Times that are
-- NULL where the table has none to be NULL are the batch's own, which most rows have.
CREATE TYPE relight.new_inbox AS (source text, id text, body_hash bytea, outcomes text);
CREATE TYPE relight.new_log AS (
    instance text, epoch bigint, seq bigint, kind text, at timestamptz, state_from text, state_to text, source text,
    event_id text, event_type text, "user" text, causation text, correlation text, machine_version int, config_hash text,
    record text, previous text, hash text
);
CREATE TYPE relight.new_snapshot AS (
    instance text, system text, machine text, machine_version int, config_hash text, epoch bigint, seq bigint, state text,
    entry bigint, entered_at timestamptz, dwell_until timestamptz, deadline_at timestamptz, data text, hash text,
    expected bigint
);
CREATE TYPE relight.new_outbox AS (exchange text, routing_key text, message_id text, body text);
CREATE TYPE relight.new_observation AS (instance text, minute timestamptz, count bigint, total double precision);

-- One micro-batch: everything or nothing, first of all the lease. The ids of its outbox rows, in order.
CREATE FUNCTION relight.commit(
    the_shard int, the_token bigint, the_time timestamptz, the_inbox relight.new_inbox[], the_log relight.new_log[],
    the_snapshots relight.new_snapshot[], the_outbox relight.new_outbox[], signals_done bigint[], sent bigint[],
    the_observations relight.new_observation[], rest jsonb
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[] := '{}';
    written int;
    inserted int := 0;
BEGIN
    PERFORM relight.hold_shard(the_shard, the_token);
    IF cardinality(the_inbox) > 0 THEN
        INSERT INTO relight.inbox (source, id, body_hash, outcomes, received_at)
            SELECT n.source, n.id, n.body_hash, n.outcomes::jsonb, the_time FROM unnest(the_inbox) AS n;
    END IF;
    IF cardinality(the_snapshots) > 0 THEN
        UPDATE relight.instances i SET
                machine_version = n.machine_version, config_hash = n.config_hash, epoch = n.epoch, seq = n.seq,
                state = n.state, entry = n.entry, entered_at = coalesce(n.entered_at, the_time),
                dwell_until = n.dwell_until, deadline_at = n.deadline_at, data = n.data, hash = n.hash, token = the_token
            FROM unnest(the_snapshots) AS n
            WHERE i.instance = n.instance AND i.seq = n.expected;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written < cardinality(the_snapshots) THEN
            INSERT INTO relight.instances (instance, system, machine, machine_version, config_hash, epoch, seq, state,
                    entry, entered_at, dwell_until, deadline_at, data, hash, token)
                SELECT n.instance, n.system, n.machine, n.machine_version, n.config_hash, n.epoch, n.seq, n.state,
                    n.entry, coalesce(n.entered_at, the_time), n.dwell_until, n.deadline_at, n.data, n.hash, the_token
                FROM unnest(the_snapshots) AS n WHERE n.expected = 0
                ON CONFLICT (instance) DO NOTHING;
            GET DIAGNOSTICS inserted = ROW_COUNT;
        END IF;
        IF written + inserted <> cardinality(the_snapshots) THEN
            RAISE EXCEPTION '% of % snapshots had another seq than the batch was decided on',
                cardinality(the_snapshots) - written - inserted, cardinality(the_snapshots) USING ERRCODE = 'RL002';
        END IF;
        -- Under way is what a dwell or a deadline will end.
        DELETE FROM relight.live_runs r USING unnest(the_snapshots) AS n
            WHERE n.dwell_until IS NULL AND n.deadline_at IS NULL AND r.system = n.system AND r.instance = n.instance;
        INSERT INTO relight.live_runs AS r (system, instance, state)
            SELECT n.system, n.instance, n.state FROM unnest(the_snapshots) AS n
            WHERE n.dwell_until IS NOT NULL OR n.deadline_at IS NOT NULL
            ON CONFLICT (system, instance) DO UPDATE SET state = excluded.state;
    END IF;
    IF cardinality(the_log) > 0 THEN
        INSERT INTO relight.log (instance, epoch, seq, kind, at, state_from, state_to, source, event_id, event_type,
                "user", causation, correlation, machine_version, config_hash, record, previous, hash)
            SELECT n.instance, n.epoch, n.seq, n.kind, coalesce(n.at, the_time), n.state_from, n.state_to, n.source,
                n.event_id, n.event_type, n."user", n.causation, n.correlation, n.machine_version, n.config_hash,
                n.record, n.previous, n.hash
            FROM unnest(the_log) AS n;
    END IF;
    IF rest IS NOT NULL THEN
        PERFORM relight.commit_rest(the_shard, rest);
    END IF;
    IF cardinality(the_observations) > 0 THEN
        INSERT INTO relight.observations AS o (instance, minute, count, total)
            SELECT n.instance, n.minute, sum(n.count), sum(n.total) FROM unnest(the_observations) AS n
            GROUP BY n.instance, n.minute
            ON CONFLICT (instance, minute) DO UPDATE
                SET count = o.count + excluded.count, total = o.total + excluded.total;
    END IF;
    IF cardinality(signals_done) > 0 THEN
        DELETE FROM relight.signals s WHERE s.shard = the_shard AND s.id = ANY (signals_done);
    END IF;
    IF cardinality(sent) > 0 THEN
        DELETE FROM relight.outbox o WHERE o.shard = the_shard AND o.id = ANY (sent);
    END IF;
    IF cardinality(the_outbox) > 0 THEN
        WITH new AS (
            INSERT INTO relight.outbox (shard, exchange, routing_key, message_id, body)
                SELECT the_shard, n.exchange, n.routing_key, n.message_id, n.body
                FROM unnest(the_outbox) WITH ORDINALITY AS n(exchange, routing_key, message_id, body, place)
                ORDER BY n.place
                RETURNING id
        )
        SELECT array_agg(new.id ORDER BY new.id) INTO ids FROM new;
    END IF;
    RETURN ids;
END $$;
