-- A step that is cancelled while a worker performs it keeps its claim until the worker has let go or the lease has ended.

-- Taken from a worker that has not let go of them yet. `worker` changes with the status only: renewals stay HOT.
CREATE INDEX steps_held ON relight.steps (instance, entry)
    WHERE status IN ('cancelled', 'waived') AND worker IS NOT NULL;

-- One change of a stored step; whether workers must hear of it: it became ready, or was taken from one at work.
-- An answer makes a waiting step ready and a running one keep on.
CREATE OR REPLACE FUNCTION relight.change_step(
    key_instance text, key_entry bigint, key_name text, new_status text, only_from text[], new_ready_at timestamptz,
    new_answer text, new_attempt int, new_error text
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    old relight.steps;
    target text;
    taken boolean;
BEGIN
    SELECT * INTO old FROM relight.steps s
        WHERE s.instance = key_instance AND s.entry = key_entry AND s.name = key_name
            AND (only_from IS NULL OR s.status = ANY (only_from))
        FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    target := CASE
        WHEN new_answer IS NOT NULL AND old.status = 'waiting' THEN 'ready'
        WHEN new_answer IS NOT NULL AND old.status = 'running' THEN 'running'
        ELSE coalesce(new_status, old.status) END;
    -- Its worker is still at it: the claim stays on the row until the worker has let go or the lease has ended.
    taken := old.status = 'running' AND target IN ('cancelled', 'waived');
    UPDATE relight.steps s SET
        status = target,
        ready_at = CASE
            WHEN target = 'running' THEN s.ready_at
            WHEN target = 'ready' AND (old.status <> 'ready' OR new_status = 'ready') THEN new_ready_at
            ELSE coalesce(new_ready_at, s.ready_at) END,
        -- Made ready without an answer, a step begins anew: an old answer must not end it at once.
        answer = CASE
            WHEN new_answer IS NOT NULL THEN new_answer
            WHEN target = 'ready' AND old.status <> 'ready' THEN NULL
            ELSE s.answer END,
        attempt = coalesce(new_attempt, s.attempt),
        error = coalesce(new_error, s.error),
        worker = CASE WHEN target = 'running' OR taken THEN s.worker END,
        lease_until = CASE WHEN target = 'running' OR taken THEN s.lease_until END
        WHERE s.instance = key_instance AND s.entry = key_entry AND s.name = key_name;
    IF old.status = 'waiting' AND target <> 'waiting' THEN
        DELETE FROM relight.timers t
            WHERE t.instance = key_instance AND t.kind = 'step:' || key_name AND t.entry = key_entry;
    END IF;
    RETURN target = 'ready' OR taken;
END $$;

-- What few batches have: steps and timers, as JSON; leaving comes before everything that the new state brings.
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
    -- NOTIFY serialises commits, so only the few that make steps ready or take them from a worker pay for it.
    IF woken THEN
        PERFORM pg_notify('relight_steps', '');
    END IF;
END $$;
