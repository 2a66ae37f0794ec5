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

CREATE TABLE relight.shards (
    shard int PRIMARY KEY,
    owner text NOT NULL,
    token bigint NOT NULL,
    until timestamptz NOT NULL
) WITH (fillfactor = 10);

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
    at timestamptz NOT NULL DEFAULT clock_timestamp()
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
    at timestamptz NOT NULL
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
