-- What an event does to a step counts before the state that it ends is left: a waived step was stored as cancelled.

CREATE OR REPLACE FUNCTION relight.commit_rest(the_shard int, rest jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
    woken boolean := false;
BEGIN
    IF rest ? 'step_changes' THEN
        -- First: a step that is waived and thereby ends its state was waived, not cancelled. One by one and in order: two
        -- changes of one step both count.
        FOR one IN SELECT * FROM jsonb_to_recordset(rest -> 'step_changes') AS r(
                instance text, entry bigint, name text, status text, only_from text[], ready_at timestamptz,
                answer text, attempt int, error text) LOOP
            woken := relight.change_step(one.instance, one.entry, one.name, one.status, one.only_from, one.ready_at,
                one.answer, one.attempt, one.error) OR woken;
        END LOOP;
    END IF;
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
