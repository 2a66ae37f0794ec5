"""`relight publish`: an event over AMQP, through the same door that every other service uses."""

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from schemas.envelope import Rejected, read
from schemas.events import PREFIX
from service.cli.console import Screen
from service.cli.home import user_file
from service.errors import RelightError
from service.settings import Settings

CONFIRM_WITHIN = 15.0
"""Seconds for connecting and for the broker's confirm."""


def publish(
    settings: Settings,
    screen: Screen,
    name: str,
    system: str,
    data: str,
    url: str | None,
    user: str | None,
    event_id: str | None,
    as_json: bool,
) -> int:
    """Checks the event, publishes it, waits for the confirm. Raises RelightError for no event and no confirm."""
    short = name.removeprefix(PREFIX)
    event = compose(short, system, _data(data), event_id or str(uuid.uuid4()))
    body = json.dumps(event).encode()
    key = f"{system}.{short}"
    found = read(body, key)
    if isinstance(found, Rejected):
        raise RelightError("not published, for Relight would refuse it:\n  " + "\n  ".join(found.reasons))
    address = url or url_of(settings, user)
    send(address, key, body, event["id"])
    if as_json:
        screen.json({"published": True, "id": event["id"], "routing_key": key, "user": urlsplit(address).username})
    else:
        screen.say(f"published {key} as {urlsplit(address).username}, confirmed by the broker; id {event['id']}")
    return 0


def compose(name: str, system: str, data: dict[str, Any], event_id: str) -> dict[str, Any]:
    """A CloudEvent in JSON structured mode; `name` without the prefix."""
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "relight/cli",
        "type": f"{PREFIX}{name}",
        "subject": system,
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": data,
    }


def send(url: str, routing_key: str, body: bytes, message_id: str) -> None:
    """Publishes with the URL's user as the verified one, and returns when the broker has confirmed."""
    from service.adapters.rabbitmq import publish_event

    asyncio.run(publish_event(url, routing_key, body, message_id, CONFIRM_WITHIN))


def _data(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise RelightError(f"--data is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RelightError(f'--data must be a JSON object, such as \'{{"reason": "…"}}\', not {text!r}')
    return data


def url_of(settings: Settings, user: str | None) -> str:
    """The AMQP URL of a user of the private broker. Raises RelightError, naming those there are."""
    folder = settings.servers.home / "users"
    if user is None:
        names = ", ".join(sorted(file.stem for file in folder.glob("*.url"))) or "none"
        raise RelightError(
            f"say as whom: --as USER (on the private broker: {names}) or --url amqp://user:password@host/.\n"
            "The broker verifies the name, and the system's `allow:` decides what it may do."
        )
    file = user_file(settings.servers.home, user)
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        raise RelightError(
            f"there is no user {user!r} on the private broker ({file} does not exist).\n"
            "`serve` makes one for each name in a system's `allow:`; for another broker give --url."
        ) from None
    except PermissionError:
        raise RelightError(f"{file} belongs to another user of this machine") from None
