-- The gate: operations that are held while a system does not work, and released in order in the owner's transaction.

-- In the order of `id`, which is the order in which they were taken in. `body` is what will be sent.
CREATE TABLE relight.held (
    system text COLLATE "C" NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    source text NOT NULL,
    event_id text NOT NULL,
    "user" text,
    local boolean NOT NULL,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    message_id text NOT NULL,
    body text NOT NULL,
    held_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (system, id)
);
CREATE INDEX held_expiring ON relight.held (system, expires_at);

-- How many a gate has held since it last released: those that expired meanwhile count too.
CREATE TABLE relight.gates (
    system text COLLATE "C" PRIMARY KEY,
    held bigint NOT NULL
) WITH (fillfactor = 50);

-- What a batch does to gates, before its own messages are appended to the outbox.
CREATE FUNCTION relight.commit_gates(the_shard int, gates jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    IF gates ? 'expired' THEN
        DELETE FROM relight.held h USING jsonb_to_recordset(gates -> 'expired') AS r(system text, id bigint)
            WHERE h.system = r.system AND h.id = r.id;
        -- Taken in when it came, refused in the end: an event has one outcome, the last one.
        UPDATE relight.inbox i SET outcomes = i.outcomes || jsonb_build_object(r.instance, 'refused')
            FROM jsonb_to_recordset(gates -> 'expired') AS r(source text, event_id text, instance text)
            WHERE i.source = r.source AND i.id = r.event_id;
    END IF;
    IF gates ? 'released' THEN
        FOR one IN SELECT * FROM jsonb_to_recordset(gates -> 'released') AS r(system text, at timestamptz) LOOP
            WITH gone AS (
                DELETE FROM relight.held h WHERE h.system = one.system AND h.expires_at > one.at
                RETURNING h.id, h.exchange, h.routing_key, h.message_id, h.body
            )
            INSERT INTO relight.outbox (shard, exchange, routing_key, message_id, body)
                SELECT the_shard, g.exchange, g.routing_key, g.message_id, g.body FROM gone g ORDER BY g.id;
        END LOOP;
    END IF;
    IF gates ? 'held' THEN
        INSERT INTO relight.held (system, source, event_id, "user", local, exchange, routing_key, message_id, body,
                held_at, expires_at)
            SELECT n.one ->> 'system', n.one ->> 'source', n.one ->> 'event_id', n.one ->> 'user',
                (n.one ->> 'local')::boolean, n.one ->> 'exchange', n.one ->> 'routing_key', n.one ->> 'message_id',
                n.one ->> 'body', (n.one ->> 'held_at')::timestamptz, (n.one ->> 'expires_at')::timestamptz
            FROM jsonb_array_elements(gates -> 'held') WITH ORDINALITY AS n(one, place) ORDER BY n.place;
    END IF;
    IF gates ? 'counts' THEN
        INSERT INTO relight.gates AS g (system, held)
            SELECT r.system, r.held FROM jsonb_to_recordset(gates -> 'counts') AS r(system text, held bigint)
            ON CONFLICT (system) DO UPDATE SET held = excluded.held;
    END IF;
END $$;

-- What few batches have: steps, timers and gates, as JSON; leaving comes before everything that the new state brings.
CREATE OR REPLACE FUNCTION relight.commit_rest(the_shard int, rest jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
    woken boolean := false;
BEGIN
    IF rest ? 'leave' THEN
        FOR one IN SELECT * FROM jsonb_to_recordset(rest -> 'leave') AS r(instance text, entry bigint) LOOP
            -- The claim of a running one stays on it until its worker has let go, or its lease has ended.
            UPDATE relight.steps s SET status = 'cancelled'
                WHERE s.instance = one.instance AND s.entry = one.entry
                    AND s.status IN ('planned', 'ready', 'running', 'waiting', 'unknown');
            -- After the steps: a runner's timer was written with the row that was locked just now.
            DELETE FROM relight.timers t WHERE t.instance = one.instance AND t.entry = one.entry;
            woken := woken OR EXISTS (SELECT FROM relight.steps s WHERE s.instance = one.instance
                AND s.entry = one.entry AND s.status = 'cancelled' AND s.worker IS NOT NULL);
        END LOOP;
    END IF;
    IF rest ? 'steps_new' THEN
        INSERT INTO relight.steps (instance, entry, name, system, place, position, planned, status, state, config_hash,
                attempt, ready_at, token, worker, lease_until, answer, result, error)
            SELECT r.* FROM jsonb_to_recordset(rest -> 'steps_new') AS r(
                instance text, entry bigint, name text, system text, place text, position int, planned text,
                status text, state text, config_hash text, attempt int, ready_at timestamptz, token bigint,
                worker text, lease_until timestamptz, answer text, result text, error text);
        woken := woken OR jsonb_path_exists(rest -> 'steps_new', '$[*] ? (@.status == "ready")');
    END IF;
    IF rest ? 'step_changes' THEN
        -- One by one and in order: two changes of one step both count.
        FOR one IN SELECT * FROM jsonb_to_recordset(rest -> 'step_changes') AS r(
                instance text, entry bigint, name text, status text, only_from text[], ready_at timestamptz,
                answer text, attempt int, error text) LOOP
            woken := relight.change_step(one.instance, one.entry, one.name, one.status, one.only_from, one.ready_at,
                one.answer, one.attempt, one.error) OR woken;
        END LOOP;
    END IF;
    IF rest ? 'timers_fired' THEN
        DELETE FROM relight.timers t
            USING jsonb_to_recordset(rest -> 'timers_fired') AS r(
                instance text, kind text, entry bigint, due_at timestamptz)
            WHERE t.instance = r.instance AND t.kind = r.kind AND t.entry = r.entry AND t.due_at = r.due_at;
    END IF;
    IF rest ? 'timers' THEN
        INSERT INTO relight.timers AS t (instance, kind, entry, due_at, shard)
            SELECT r.instance, r.kind, r.entry, r.due_at, the_shard
            FROM jsonb_to_recordset(rest -> 'timers') AS r(instance text, kind text, entry bigint, due_at timestamptz)
            ON CONFLICT (instance, kind) DO UPDATE
                SET entry = excluded.entry, due_at = excluded.due_at, shard = excluded.shard;
    END IF;
    IF rest ? 'dead' THEN
        INSERT INTO relight.dead_letters (shard, queue, routing_key, reasons, body, source, event_id, "user", attempts, at)
            SELECT the_shard, r.queue, r.routing_key, r.reasons, decode(r.body, 'base64'), r.source, r.event_id,
                r."user", r.attempts, r.at
            FROM jsonb_to_recordset(rest -> 'dead') AS r(
                queue text, routing_key text, reasons text[], body text, source text, event_id text, "user" text,
                attempts int, at timestamptz);
    END IF;
    IF rest ? 'gates' THEN
        PERFORM relight.commit_gates(the_shard, rest -> 'gates');
    END IF;
    -- NOTIFY serialises commits, so only the few that make steps ready or take them from a worker pay for it.
    IF woken THEN
        PERFORM pg_notify('relight_steps', '');
    END IF;
END $$;
