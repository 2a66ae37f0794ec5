"""Commands to participants: published so that it is known whether anybody is bound to hear them."""

import json
from datetime import datetime

from service.adapters.rabbitmq.names import COMMANDS_EXCHANGE
from service.adapters.rabbitmq.publisher import BatchPublisher
from service.crash import crash_point
from service.errors import Retry
from service.ports import Clock, OutMessage, Sent

LONGEST_EXPIRATION = 2**32 - 1
"""Milliseconds; on anything longer RabbitMQ closes the channel."""


class RabbitCommands:
    """The port `Commands`."""

    def __init__(self, publisher: BatchPublisher, clock: Clock) -> None:
        self._publisher, self._clock = publisher, clock

    async def send(self, routing_key: str, command_id: str, body: str) -> bool:
        """True: confirmed and in the queue of at least one participant. False: nobody is bound to `routing_key`.

        The broker drops it when it has expired (`data.expires`). Raises Unavailable while the broker is away (the
        command may have arrived: participants know its id), Retry when the participant's own queue refuses it.
        """
        message = OutMessage(COMMANDS_EXCHANGE, routing_key, command_id, body)
        crash_point("commands.before_publish")
        (verdict,) = await self._publisher.publish([message], mandatory=True, expiration=self._left(body))
        if verdict is Sent.NACKED:
            raise Retry(f"the broker refused the command {command_id}: a queue bound to {routing_key} is full")
        if verdict is Sent.CONFIRMED:
            crash_point("commands.after_confirm")
        return verdict is Sent.CONFIRMED

    def _left(self, body: str) -> int | None:
        """Milliseconds until the command expires. The participant judges by the data; this only saves it the work."""
        try:
            expires = datetime.fromisoformat(json.loads(body)["data"]["expires"])
            left = max(0, round((expires - self._clock.now()).total_seconds() * 1000))
            return left if left <= LONGEST_EXPIRATION else None
        except (ValueError, KeyError, TypeError):
            return None
