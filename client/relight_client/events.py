"""The events that a service may publish: one CloudEvent, its id and its bytes. Nothing is sent from here."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

PREFIX = "relight."
CONTENT_TYPE = "application/cloudevents+json"


def _new_id() -> str:
    return str(uuid.uuid4())


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One event, `restart.requested` of `metrics` with its data. Made once, published as often as it takes.

    `id` and `time` are made with it: however often it is sent, it is the same event and has one effect. Keep the object
    (or its `id` and `time`) for a retry. `source` names you for people; Relight trusts only the broker's user.
    """

    type: str
    system: str
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=_new_id)
    time: datetime = field(default_factory=_now)
    source: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def routing_key(self) -> str:
        """`metrics.restart.requested`"""
        return f"{self.system}.{self.type.removeprefix(PREFIX)}"

    def body(self, user: str) -> bytes:
        """The CloudEvent in JSON structured mode; the same bytes each time. `user` is the source when none is given.

        Raises TypeError or ValueError when `data` is not JSON.
        """
        envelope = {
            **self.extensions,
            "specversion": "1.0",
            "id": self.id,
            "source": self.source or user,
            "type": PREFIX + self.type.removeprefix(PREFIX),
            "subject": self.system,
            "time": self.time.isoformat(),
            "datacontenttype": "application/json",
            "data": dict(self.data),
        }
        return json.dumps(envelope, allow_nan=False).encode()
