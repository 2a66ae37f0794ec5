"""What `relight serve --observe` does with the page of each look: a file in Relight's own folder, and the terminal.

Nothing of it goes into the system's storage: an observing Relight writes nowhere but at home.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from schemas.base import parse_duration
from service.app_observing import Observing, Page
from service.cli.console import Screen, to_json
from service.cli.home import answer_file, page_file
from service.cli.render import Tone
from service.cli.restart import local_zone
from service.cli.words import clock
from service.embedded.place import write_private
from service.errors import RelightError

SHORTEST = timedelta(seconds=1)
"""Between two looks: each asks every server and runs every check."""


def interval(text: str) -> timedelta:
    """`--every 30s`. Raises RelightError."""
    try:
        every = parse_duration(text)
    except ValueError as error:
        raise RelightError(f"--every: {error}") from None
    if every < SHORTEST:
        raise RelightError("--every: a look takes a second or so; 1s is the shortest")
    return every


def observing(home: Path, screen: Screen, every: timedelta, now: Callable[[], datetime]) -> Observing:
    """A line when something changed, the whole page when somebody asked for a restart."""
    page_file(home, "any").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    last: dict[str, str] = {}

    def take(page: Page) -> None:
        file = page_file(home, page.system)
        write_private(file, page.text)
        write_private(file.with_suffix(".json"), to_json(page.document) + "\n")
        when = clock(now(), local_zone())
        if page.answers is not None:
            write_private(answer_file(home, page.system), page.text)
            screen.say(
                f"{when} {page.system}: a restart was asked for; nothing was moved. It would have met:", Tone.WAIT
            )
            screen.say(page.text)
        elif last.get(page.system) != page.summary:
            screen.say(f"{when} {page.system}: {page.summary}")
            screen.say(f"{' ' * 9}{file}", Tone.QUIET)
        last[page.system] = page.summary

    return Observing(every, take)
