"""The load generator, a process of its own: fills queues, publishes at a pace, and takes the time to the notification.

Told what to do by one JSON object on standard input; answers with one on standard output.
"""

import json
import sys
import time
from typing import Any

from benchmarks.amqp import Broker
from benchmarks.waves import Wave

EVENTS, STATUS = "relight.events", "relight.status"

PATIENCE = 20.0
"""Seconds to wait for notifications that are still missing after the last publish."""


def main() -> None:
    """One job."""
    job = json.load(sys.stdin)
    broker = Broker(job["amqp_url"])
    try:
        result = _publish(broker, job) if job["rate"] is None else _paced(broker, job)
    finally:
        broker.close()
    json.dump(result, sys.stdout)


def _messages(broker: Broker, waves: list[dict[str, Any]]) -> list[bytes]:
    return [
        broker.pack(EVENTS, key, event_id, body)
        for wave in waves
        for key, event_id, body in Wave.from_json(wave).events()
    ]


def _publish(broker: Broker, job: dict[str, Any]) -> dict[str, Any]:
    """As fast as the broker confirms."""
    messages = _messages(broker, job["waves"])
    began = time.perf_counter()
    broker.publish_all(messages)
    return {"published": len(messages), "seconds": time.perf_counter() - began}


def _paced(broker: Broker, job: dict[str, Any]) -> dict[str, Any]:
    """At `rate` a second. Those after the first `settle` seconds are timed; `latencies` in seconds, one an event."""
    # The notification names the event that caused it.
    packed = [
        (event_id, broker.pack(EVENTS, key, event_id, body))
        for wave in job["waves"]
        for key, event_id, body in Wave.from_json(wave).events()
    ]
    listening = job["listen"]
    if listening:
        broker.listen(STATUS, "*.alert.*")
    rate, sent_at = float(job["rate"]), {}
    began = time.perf_counter()
    next_one = 0
    while next_one < len(packed):
        now = time.perf_counter()
        due = min(len(packed), int((now - began) * rate) + 1)
        if due > next_one:
            # A pace is kept on the average: what is due goes out together, as it does when several publish.
            broker.write([message for _, message in packed[next_one:due]])
            for event_id, _ in packed[next_one:due]:
                sent_at[event_id] = now
            next_one = due
        broker.take(min(0.05, began + next_one / rate - time.perf_counter()))
    published = time.perf_counter() - began
    broker.drain()
    arrived = _told(broker, sent_at) if listening else {}
    first_timed = began + float(job["settle"])
    timed = [event_id for event_id, moment in sent_at.items() if moment >= first_timed]
    latencies = [arrived[event_id] - sent_at[event_id] for event_id in timed if event_id in arrived]
    last = max(arrived.values(), default=began)
    return {
        "published": len(packed),
        "seconds": published,
        "missing": len(packed) - len(arrived) if listening else 0,
        "latencies": latencies,
        "told_in": last - began,
    }


def _told(broker: Broker, sent_at: dict[str, float]) -> dict[str, float]:
    """When each event's notification came first. Others may come too: what a stopped serve had sent is sent again."""
    arrived: dict[str, float] = {}
    deadline = time.perf_counter() + PATIENCE
    while True:
        taken, broker.notifications = broker.notifications, []
        for moment, body in taken:
            event_id = json.loads(body)["data"]["event"]["id"]
            if event_id in sent_at:
                arrived.setdefault(event_id, moment)
        if len(arrived) == len(sent_at) or time.perf_counter() > deadline:
            return arrived
        broker.take(0.2)


if __name__ == "__main__":
    main()
