"""`Relight`: the one object that a service makes. It publishes itself; following and taking part live elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Self

from relight_client.errors import Away
from relight_client.events import Event
from relight_client.following import Since, Subscription, replay
from relight_client.participating import Handler, Participant
from relight_client.session import WITHIN, Session, connect
from relight_client.status import Notification

PATIENCE = 30.0
"""Seconds that publishing and subscribing try to reach a broker that is away, before they say so."""
PAUSES = (0.1, 0.3, 1.0)
"""Seconds between the attempts; the last one repeats."""


class Relight:
    """Relight on the broker at `url`, as the user in it: `amqp://ana:password@host/vhost`.

    `async with Relight(url) as relight: …`, or without the block and `close()` at the end.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._publishing: Session | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection that was published on."""
        if self._publishing is not None:
            await self._publishing.close()
            self._publishing = None

    async def publish(self, event: Event, within: float = PATIENCE) -> None:
        """Returns when the broker has the event on disk; what Relight makes of it is said on the status topic.

        Tries until `within` seconds have passed, always with the same id: however often it arrives, it counts once.
        Raises Away (publish the same object again), Forbidden, and ValueError or TypeError when the data is not JSON.
        """
        event.body("")
        deadline = asyncio.get_running_loop().time() + within
        attempt = 0
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await (await self._session()).publish(event, min(WITHIN, within))
            except (Away, TimeoutError) as away:
                pause = PAUSES[min(attempt, len(PAUSES) - 1)]
                attempt += 1
                if asyncio.get_running_loop().time() + pause >= deadline:
                    raise Away(f"{event.type} {event.id} is not confirmed after {within:g} s: {away}") from away
                await asyncio.sleep(pause)

    def subscribe(self, binding: str = "#", since: Since | None = None, within: float = PATIENCE) -> Subscription:
        """What Relight says from now on, or `since` a moment, or since the `first` that is kept. See Subscription."""
        return Subscription(self._url, binding, since, within)

    def replay(self, binding: str = "#", since: Since = "first") -> AsyncGenerator[Notification, None]:
        """What the stream has kept, oldest first, up to now. See `following.replay`."""
        return replay(self._url, binding, since)

    async def participate(self, system: str, component: str, handlers: Mapping[str, Handler]) -> None:
        """Takes part for one component until it is cancelled: one call of a handler for each command id."""
        await Participant(self._url, system, component, handlers).run()

    async def _session(self) -> Session:
        async with self._connecting:
            if self._publishing is None or self._publishing.lost.is_set():
                await self.close()
                self._publishing = await connect(self._url, "publishing")
            return self._publishing
