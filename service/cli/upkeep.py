"""`relight migrate`: brings Relight's tables up to date."""

import asyncio

from service.cli.console import Screen
from service.cli.home import find
from service.settings import Settings


def migrate(settings: Settings, screen: Screen) -> int:
    """Applies what is missing and names it. Raises Unavailable and Misconfigured."""
    from service.adapters.postgres import migrate as apply

    applied = asyncio.run(apply(find(settings.servers).postgres_url))
    for name in applied:
        screen.say(f"applied {name}")
    if not applied:
        screen.say("nothing to apply: the tables are up to date")
    return 0
