-- Sent rows are deleted by a range of ids too: during a flood each commit took longer than the one before, by 2 ms for
-- every 80,000 rows that were deleted and not vacuumed yet.

-- One micro-batch: everything or nothing, first of all the lease. The ids of its outbox rows, in order.
CREATE OR REPLACE FUNCTION relight.commit(
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
