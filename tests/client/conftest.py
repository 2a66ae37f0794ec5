"""What the client's tests share."""

from collections.abc import AsyncIterator

import pytest

from tests.client.desk import Desk, at_desk


@pytest.fixture
async def desk(amqp_url: str) -> AsyncIterator[Desk]:
    """A vhost with Relight's topology, and Relight's side of it."""
    async with at_desk(amqp_url) as desk:
        yield desk
