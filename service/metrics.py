"""The numbers that Prometheus may scrape, all in one registry. Counting happens where things happen, not here."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)
"""Relight's own: nothing that a library registers by itself gets in."""

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bucket bounds for a server's answer: a commit takes milliseconds, an outage ends in the last ones."""

LONG = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Bucket bounds for a step: seconds to half an hour."""

EVENTS = Counter(
    "relight_events",
    "Outcomes of events (applied, absorbed, refused, dead, duplicate)",
    ("outcome",),
    registry=REGISTRY,
)
TRANSITIONS = Counter("relight_transitions", "Transitions by machine and target", ("machine", "to"), registry=REGISTRY)
BATCH_EVENTS = Histogram(
    "relight_batch_events",
    "Events a committed batch took in",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    registry=REGISTRY,
)
DECIDED_AHEAD = Counter(
    "relight_decided_ahead", "Batches committed as they were decided while the one before was", registry=REGISTRY
)
COMMIT_SECONDS = Histogram(
    "relight_commit_seconds",
    "A batch's transaction, as its owner waited for it (the next batch of a backlog is decided meanwhile)",
    buckets=SECONDS,
    registry=REGISTRY,
)
PREPARE_SECONDS = Histogram(
    "relight_prepare_seconds", "Reading what a batch must know", buckets=SECONDS, registry=REGISTRY
)
PUBLISH_SECONDS = Histogram(
    "relight_publish_seconds",
    "Publishing some outbox rows, confirms included",
    buckets=SECONDS,
    registry=REGISTRY,
)
PUBLISHED = Counter(
    "relight_published",
    "Outbox rows by verdict (confirmed, nacked, returned)",
    ("result",),
    registry=REGISTRY,
)
OUTBOX_UNSENT = Gauge("relight_outbox_unsent_rows", "Outbox rows not confirmed yet", ("shard",), registry=REGISTRY)
HELD_OPERATIONS = Gauge(
    "relight_held_operations", "Operations that a system's gate holds", ("system",), registry=REGISTRY
)
STEPS = Counter("relight_steps", "Attempts at steps by action and outcome", ("action", "outcome"), registry=REGISTRY)
STEP_SECONDS = Histogram("relight_step_seconds", "One attempt at a step", ("action",), buckets=LONG, registry=REGISTRY)
DEAD = Counter(
    "relight_dead",
    "Dead letters by the queue they came from (`signals`: from inside)",
    ("queue",),
    registry=REGISTRY,
)
SHARDS_OWNED = Gauge("relight_shards_owned", "Shards this process decides for", registry=REGISTRY)
TAKEOVERS = Counter("relight_takeovers", "Leases of a shard that this process acquired", registry=REGISTRY)
