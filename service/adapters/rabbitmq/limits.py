"""The tunable limits of Relight's queues: set as a policy over the management API, or printed for an operator.

Only a backstop: Relight counts attempts itself, and `serve` is safe without any policy.
"""

import asyncio
import base64
import http.client
import json
from urllib.parse import quote, unquote, urlsplit

from service.errors import Unavailable

POLICY = "relight-intake"
PATTERN = r"^relight\.(intake\..*|operations\..*|unrouted)$"
DELIVERY_LIMIT = 1000
"""Deliveries of one message after which the broker gives it to `relight.dead`. Far above anything that outages and
crashes cause (RabbitMQ 4 has 20 by itself, which a bad night reaches): good messages must not pay for a bad one."""
CALL_TIMEOUT = 10.0
"""Seconds for the one call."""


def limits_as_commands(vhost: str) -> str:
    """What an operator types to set the same by hand."""
    definition = json.dumps({"delivery-limit": DELIVERY_LIMIT})
    return f"rabbitmqctl set_policy -p '{vhost}' --apply-to queues {POLICY} '{PATTERN}' '{definition}'"


async def set_limits(api_url: str, vhost: str) -> None:
    """Sets the policy. `api_url`: http(s)://user:password@host:port of the management plugin. Raises Unavailable."""
    try:
        status, said = await asyncio.to_thread(_put, api_url, vhost)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("RabbitMQ's management API", str(error) or type(error).__name__) from error
    if status // 100 != 2:
        raise Unavailable(
            "RabbitMQ's management API",
            f"it refused the policy ({status} {said[:200]}). By hand: {limits_as_commands(vhost)}",
        )


def _put(api_url: str, vhost: str) -> tuple[int, str]:
    url = urlsplit(api_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "localhost", url.port, timeout=CALL_TIMEOUT)
    who = f"{unquote(url.username or 'guest')}:{unquote(url.password or 'guest')}"
    body = {"pattern": PATTERN, "definition": {"delivery-limit": DELIVERY_LIMIT}, "apply-to": "queues", "priority": 0}
    try:
        connection.request(
            "PUT",
            f"{url.path.rstrip('/').removesuffix('/api')}/api/policies/{quote(vhost, safe='')}/{POLICY}",
            body=json.dumps(body),
            headers={
                "Authorization": f"Basic {base64.b64encode(who.encode()).decode()}",
                "Content-Type": "application/json",
            },
        )
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()
