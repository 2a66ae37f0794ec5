-- Relight's own tables and functions as they are after all migrations; a test proves that both are the same.

CREATE SCHEMA relight;

-- Relight's own tables. Texts that are hashed or sent are stored as text: jsonb would rewrite their bytes.

CREATE TABLE relight.migrations (
    name text COLLATE "C" PRIMARY KEY,
    hash text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE relight.settings (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL CHECK (epoch > 0),
    shards int CHECK (shards > 0)
);
INSERT INTO relight.settings (epoch) VALUES (1);

-- One sequence fences owners and workers alike; the epoch is the high part of every token.
CREATE SEQUENCE relight.tokens AS bigint MAXVALUE 1099511627775;

-- Up to `compared_at` the log was known to hold what was published; `compared` is the token that says so. `cleared` is the
-- token under which steps of `systems` may be claimed. `timeline` is the server's, as of when the lease was taken.
CREATE TABLE relight.shards (
    shard int PRIMARY KEY,
    owner text NOT NULL,
    token bigint NOT NULL,
    until timestamptz NOT NULL,
    systems text[] NOT NULL DEFAULT '{}',
    cleared bigint,
    compared bigint,
    compared_at timestamptz,
    timeline text
) WITH (fillfactor = 10);

-- What was found to be lost, by the epoch that began with it: of that system nothing of earlier epochs is looked for again.
CREATE TABLE relight.losses (
    system text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    said text NOT NULL,
    PRIMARY KEY (system, epoch)
);

-- Hash partitions, because a unique key over time partitions would have to contain the time.
CREATE TABLE relight.inbox (
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    body_hash bytea NOT NULL,
    outcomes jsonb NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (source, id)
) PARTITION BY HASH (source, id);
-- Kept for 30 days and appended in order of time: the smallest index there is finds what may go.
CREATE INDEX inbox_received ON relight.inbox USING brin (received_at) WITH (autosummarize = on);
DO $$
BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE relight.inbox_%s PARTITION OF relight.inbox FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
            lpad(part::text, 2, '0'), part);
    END LOOP;
END $$;

CREATE TABLE relight.log (
    instance text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    state_from text NOT NULL,
    state_to text NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    "user" text,
    causation text,
    correlation text,
    machine_version int NOT NULL,
    config_hash text NOT NULL,
    record text NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL,
    PRIMARY KEY (instance, seq, at)
) PARTITION BY RANGE (at);
CREATE TABLE relight.log_default PARTITION OF relight.log DEFAULT;

CREATE TABLE relight.instances (
    instance text COLLATE "C" PRIMARY KEY,
    system text NOT NULL,
    machine text NOT NULL,
    machine_version int NOT NULL,
    config_hash text NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    state text NOT NULL,
    entry bigint NOT NULL,
    entered_at timestamptz NOT NULL,
    dwell_until timestamptz,
    deadline_at timestamptz,
    data text NOT NULL,
    hash text NOT NULL,
    token bigint NOT NULL
) WITH (fillfactor = 80);

-- Instances that something will end: few, and so they may have an index that changes.
CREATE TABLE relight.live_runs (
    system text COLLATE "C" NOT NULL,
    instance text COLLATE "C" NOT NULL,
    state text NOT NULL,
    PRIMARY KEY (system, instance)
) WITH (fillfactor = 50);

CREATE TABLE relight.steps (
    instance text COLLATE "C" NOT NULL,
    entry bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    system text NOT NULL,
    place text COLLATE "C" NOT NULL,
    position int NOT NULL,
    planned text NOT NULL,
    status text COLLATE "C" NOT NULL,
    state text NOT NULL,
    config_hash text NOT NULL,
    attempt int NOT NULL,
    ready_at timestamptz,
    token bigint,
    worker text,
    lease_until timestamptz,
    answer text,
    result text NOT NULL,
    error text,
    PRIMARY KEY (instance, entry, name)
) WITH (fillfactor = 80);
CREATE INDEX steps_open ON relight.steps (place, status)
    WHERE status IN ('planned', 'ready', 'running', 'waiting', 'unknown');
-- Taken from a worker that has not let go of them yet. `worker` changes with the status only: renewals stay HOT.
CREATE INDEX steps_held ON relight.steps (instance, entry)
    WHERE status IN ('cancelled', 'waived') AND worker IS NOT NULL;

CREATE TABLE relight.timers (
    instance text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    entry bigint NOT NULL,
    due_at timestamptz NOT NULL,
    shard int NOT NULL,
    PRIMARY KEY (instance, kind)
);
CREATE INDEX timers_due ON relight.timers (shard, due_at);

CREATE TABLE relight.signals (
    id bigint GENERATED ALWAYS AS IDENTITY,
    shard int NOT NULL,
    system text NOT NULL,
    body text NOT NULL,
    "user" text,
    local boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (shard, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE TABLE relight.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY,
    shard int NOT NULL,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    message_id text NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (shard, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- What the status exchange refused and the status log took: out of the way of later rows, kept to be replayed.
CREATE TABLE relight.undelivered (
    id bigint PRIMARY KEY,
    shard int NOT NULL,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    message_id text NOT NULL,
    body text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled text CHECK (settled IN ('replayed', 'dropped')),
    settled_by text,
    settled_why text,
    settled_at timestamptz
);

CREATE TABLE relight.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard int NOT NULL,
    queue text NOT NULL,
    routing_key text NOT NULL,
    reasons text[] NOT NULL,
    body bytea NOT NULL,
    source text,
    event_id text,
    "user" text,
    attempts int NOT NULL,
    at timestamptz NOT NULL,
    settled text CHECK (settled IN ('replayed', 'dropped')),
    settled_by text,
    settled_why text,
    settled_at timestamptz
);

CREATE TABLE relight.attempts (
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    attempts int NOT NULL,
    last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id)
);

CREATE TABLE relight.configurations (
    hash text COLLATE "C" PRIMARY KEY,
    system text NOT NULL,
    text text NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE relight.observations (
    instance text COLLATE "C" NOT NULL,
    minute timestamptz NOT NULL,
    count bigint NOT NULL,
    total double precision NOT NULL,
    PRIMARY KEY (instance, minute)
) WITH (fillfactor = 80);

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

-- What must happen in one round trip. SQLSTATE RL001: the lease is lost; RL002: somebody else wrote first.

CREATE FUNCTION relight.next_token() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT epoch << 40 | nextval('relight.tokens') FROM relight.settings
$$;

CREATE FUNCTION relight.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'relight.log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON relight.log
    FOR EACH ROW EXECUTE FUNCTION relight.refuse_change();
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON relight.log
    FOR EACH STATEMENT EXECUTE FUNCTION relight.refuse_change();

-- Creates the log's partitions from the month of `first` on. A month with rows in the default partition stays there.
CREATE FUNCTION relight.make_log_partitions(first timestamptz, months int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    made int := 0;
    low timestamptz;
    high timestamptz;
    part text;
BEGIN
    FOR ahead IN 0..months - 1 LOOP
        low := (date_trunc('month', first AT TIME ZONE 'UTC') + make_interval(months => ahead)) AT TIME ZONE 'UTC';
        high := (date_trunc('month', first AT TIME ZONE 'UTC') + make_interval(months => ahead + 1)) AT TIME ZONE 'UTC';
        part := 'log_' || to_char(low AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass('relight.' || part) IS NOT NULL;
        CONTINUE WHEN EXISTS (SELECT FROM relight.log_default d WHERE d.at >= low AND d.at < high);
        EXECUTE format('CREATE TABLE relight.%I PARTITION OF relight.log FOR VALUES FROM (%L) TO (%L)', part, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

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
CREATE FUNCTION relight.hold_shard(the_shard int, the_token bigint) RETURNS void LANGUAGE plpgsql AS $$
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

-- One change of a stored step; whether workers must hear of it: it became ready, or was taken from one at work.
-- An answer makes a waiting step ready and a running one keep on.
CREATE FUNCTION relight.change_step(
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
CREATE FUNCTION relight.commit_rest(the_shard int, rest jsonb) RETURNS void LANGUAGE plpgsql AS $$
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
        -- The range keeps the search at these rows: a plan made for few of them may look for each id among all that this
        -- shard has deleted and nobody has vacuumed yet.
        DELETE FROM relight.outbox o WHERE o.shard = the_shard AND o.id = ANY (sent)
            AND o.id BETWEEN (SELECT min(n) FROM unnest(sent) AS n) AND (SELECT max(n) FROM unnest(sent) AS n);
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

-- A worker gives its claim up until an answer comes. True: it waits; false: the answer was there first, it is ready.
CREATE FUNCTION relight.wait_step(
    key_instance text, key_entry bigint, key_name text, the_token bigint, seen_answer text, the_shard int,
    wait_until timestamptz, signal_shard int, signal_system text, signal_body text, signal_user text, signal_local boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    answered boolean;
BEGIN
    SELECT s.answer IS NOT NULL AND s.answer IS DISTINCT FROM seen_answer INTO answered FROM relight.steps s
        WHERE s.instance = key_instance AND s.entry = key_entry AND s.name = key_name
            AND s.status = 'running' AND s.token = the_token
        FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'token % is not the claim of step %', the_token, key_name USING ERRCODE = 'RL001';
    END IF;
    UPDATE relight.steps s SET
            status = CASE WHEN answered THEN 'ready' ELSE 'waiting' END,
            -- An answer that the attempt has already seen is used up: it waits for the next one.
            answer = CASE WHEN answered THEN s.answer END,
            ready_at = NULL, worker = NULL, lease_until = NULL, error = NULL
        WHERE s.instance = key_instance AND s.entry = key_entry AND s.name = key_name;
    IF answered THEN
        PERFORM pg_notify('relight_steps', '');
        RETURN false;
    END IF;
    INSERT INTO relight.timers AS t (instance, kind, entry, due_at, shard)
        VALUES (key_instance, 'step:' || key_name, key_entry, wait_until, the_shard)
        ON CONFLICT (instance, kind) DO UPDATE
            SET entry = excluded.entry, due_at = excluded.due_at, shard = excluded.shard;
    INSERT INTO relight.signals (shard, system, body, "user", local)
        VALUES (signal_shard, signal_system, signal_body, signal_user, signal_local);
    PERFORM pg_notify('relight_signals', signal_shard::text);
    RETURN true;
END $$;
