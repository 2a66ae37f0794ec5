"""The management API of a private RabbitMQ: the few calls that set it up. Loopback only, no proxy."""

import asyncio
import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.embedded.errors import EmbeddedError

CALL_DEADLINE = 20.0
"""Seconds for one call; deleting a large vhost is the slowest."""


@dataclass(frozen=True, slots=True)
class Management:
    """Speaks to one node as one user."""

    port: int
    user: str
    password: str = field(repr=False)

    async def knows_us(self) -> bool:
        """Whether it answers, and accepts user and password."""
        try:
            status, _ = await self._call("GET", "/whoami", None)
        except OSError:
            return False
        return status == 200

    async def get(self, path: str) -> Any:
        """Read something, as JSON."""
        return json.loads(await self._checked("GET", path, None))

    async def put(self, path: str, body: Mapping[str, Any]) -> None:
        """Create or change something."""
        await self._checked("PUT", path, body)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Do something, such as publishing; returns the answer as JSON, if there is one."""
        answer = await self._checked("POST", path, body)
        return json.loads(answer) if answer else None

    async def delete(self, path: str) -> None:
        """Delete something; that it does not exist is as good."""
        await self._checked("DELETE", path, None, also=404)

    async def _checked(self, method: str, path: str, body: Mapping[str, Any] | None, also: int = 200) -> bytes:
        try:
            status, answer = await self._call(method, path, body)
        except OSError as error:
            raise EmbeddedError(f"the private RabbitMQ's management API does not answer: {error}") from error
        if status // 100 != 2 and status != also:
            text = answer.decode("utf-8", "replace")[:500]
            raise EmbeddedError(f"the private RabbitMQ refused {method} {path}: {status} {text}")
        return answer

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        return await asyncio.to_thread(self._blocking, method, path, body)

    def _blocking(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CALL_DEADLINE)
        try:
            connection.request(
                method,
                f"/api{path}",
                body=None if body is None else json.dumps(body),
                headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"not an answer: {error!r}") from error
        finally:
            connection.close()
