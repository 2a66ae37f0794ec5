"""Notifications of the status topic, and their order: what is new, known, or missing. No I/O lives here."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

REMEMBERED = 20_000
"""Ids by which repeated notifications are known again."""


@dataclass(frozen=True, slots=True)
class Notification:
    """What Relight said. `type` without the prefix `relight.`: `transition`, `refused`, `step`, `wait`, …

    `data` may grow: use the fields you know and pass over the others.
    """

    routing_key: str
    id: str
    type: str
    system: str
    time: datetime
    data: Mapping[str, Any]

    @classmethod
    def read(cls, routing_key: str, body: bytes) -> "Notification":
        """From the wire. Raises ValueError for what is no notification."""
        try:
            raw = json.loads(body)
            data, time = raw["data"], datetime.fromisoformat(raw["time"])
            if not isinstance(data, dict):
                raise TypeError("data is no object")
            return cls(routing_key, str(raw["id"]), raw["type"].removeprefix("relight."), raw["subject"], time, data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no notification of Relight: {error!r}") from error

    @property
    def instance(self) -> str | None:
        """`lifecycle/metrics`; None where the notification is about no instance."""
        return self.data.get("instance")

    @property
    def status(self) -> str | None:
        """Of a transition, for people: `Preparing for Restart`."""
        return self.data.get("status")

    @property
    def place(self) -> tuple[str, int, int] | None:
        """(instance, epoch, seq) of a transition or refusal: its place in the instance's log. None for all others."""
        instance, epoch, seq = (self.data.get(name) for name in ("instance", "epoch", "seq"))
        if isinstance(instance, str) and isinstance(epoch, int) and isinstance(seq, int):
            return instance, epoch, seq
        return None


def matches(binding: str, routing_key: str) -> bool:
    """Whether a topic binding (`*` one word, `#` any number) means this routing key."""
    return _match(binding.split("."), routing_key.split("."))


def _match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_match(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _match(pattern[1:], words[1:])


def whole(binding: str) -> bool:
    """Whether a binding takes everything of each instance it takes anything of: `#`, `metrics.#`, `*.lifecycle.#`.

    Only then does a missing number mean a missing notification.
    """
    words = binding.split(".")
    return words[-1] == "#" and len(words) <= 3 and "#" not in words[:-1]


@dataclass(slots=True)
class _Log:
    """Where one instance's log has been handed out to, and what came before its turn."""

    epoch: int
    seq: int
    time: datetime
    held: dict[int, Notification] = field(default_factory=dict)


class Order:
    """Hands each notification on once, and those of one instance's log in the order of their numbers.

    `gapless` False (a binding that takes only a part of an instance): known ids are dropped, and nothing is waited for.
    """

    def __init__(self, gapless: bool) -> None:
        self._gapless = gapless
        self._logs: dict[str, _Log] = {}
        self._ids: OrderedDict[str, None] = OrderedDict()

    def take(self, notification: Notification) -> list[Notification]:
        """What may be handed on now, in order: nothing when it is known, nothing when it is behind a gap and held."""
        place = notification.place
        if place is None or not self._gapless:
            return [notification] if self._is_news(notification.id) else []
        instance, epoch, seq = place
        log = self._logs.get(instance)
        if log is None:
            self._logs[instance] = _Log(epoch, seq, notification.time)
            return [notification]
        if (epoch, seq) <= (log.epoch, log.seq):
            return []
        if epoch > log.epoch:
            # Another generation of Relight's database counts on from where that one stood: no gap can be told.
            ready = [*self._release(log), notification]
            log.epoch, log.seq, log.time = epoch, seq, notification.time
            return ready
        log.held[seq] = notification
        ready = []
        while (turn := log.held.pop(log.seq + 1, None)) is not None:
            log.seq, log.time = log.seq + 1, turn.time
            ready.append(turn)
        return ready

    def waiting_since(self) -> datetime | None:
        """The time of the last notification before the oldest gap; None when nothing is held behind one."""
        return min((log.time for log in self._logs.values() if log.held), default=None)

    def give_up(self) -> tuple[list[Notification], list[str]]:
        """Everything held, in order, and what is missing in words: nobody waits for it any more."""
        ready, missing = [], []
        for instance, log in self._logs.items():
            if log.held:
                missing.append(f"{instance}: {log.seq + 1} to {min(log.held) - 1} of epoch {log.epoch}")
                ready += self._release(log)
        return ready, missing

    def _release(self, log: _Log) -> list[Notification]:
        ready = [log.held[seq] for seq in sorted(log.held)]
        if ready:
            log.seq, log.time = max(log.held), ready[-1].time
        log.held.clear()
        return ready

    def _is_news(self, mark: str) -> bool:
        if mark in self._ids:
            return False
        self._ids[mark] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return True
