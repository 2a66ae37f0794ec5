"""Talking to Relight from another service: publish, follow, take part. None of Relight's own code is imported."""

from relight_client.client import Relight
from relight_client.errors import Away, ClientError, Forbidden, Refused
from relight_client.events import Event
from relight_client.following import Subscription
from relight_client.participating import Answer, Command
from relight_client.status import Notification

__all__ = [
    "Answer",
    "Away",
    "ClientError",
    "Command",
    "Event",
    "Forbidden",
    "Notification",
    "Refused",
    "Relight",
    "Subscription",
]
