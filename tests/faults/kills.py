"""Where a night kills: places in their order, how each is reached, and what must be true of the night at its end."""

import os
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

from tests import sizes
from tests.faults.ending import end_and_judge
from tests.faults.evidence import Strike
from tests.faults.night import Night, Stir
from tests.figures import Noting

SEED = int(os.environ.get("RELIGHT_TEST_SEED", "4"))
"""RELIGHT_TEST_SEED repeats a night; whatever is found at its end is said together with it."""
AT_THE_DOOR = (
    "serve.after_keep", "serve.after_declare", "serve.after_register", "owner.after_acquire", "owner.after_open",
    "intake.after_read", "intake.before_commit", "intake.after_count", "intake.after_write", "intake.after_commit",
    "intake.after_ack", "outbox.before_publish", "outbox.after_read", "outbox.after_confirm", "outbox.after_delete",
    "outbox.after_second_way", "timers.after_read", "timers.after_commit", "owner.after_renew",
    "owner.before_release", "owner.after_release", "runner.after_claim", "runner.after_effect", "runner.after_record",
)  # fmt: skip
"""Passed all the time, by any step, or by whoever begins or ends."""

IN_A_RESTART = (
    "runner.before_let_go", "runner.after_let_go", "commands.before_publish", "commands.after_confirm",
    "runner.after_wait", "processes.after_signal", "participant.after_program", "runner.after_retry",
    "runner.after_renew", "participant.after_read_back", "storage.after_aside", "storage.after_publish",
    "processes.after_note", "supervisor.before_fork", "supervisor.after_fork", "supervisor.after_record",
    "supervisor.after_leave", "processes.after_order", "supervisor.before_status",
)  # fmt: skip
"""In the order in which a restart comes to them, so that each life goes on where the one before has died."""

AFTER = {"intake.after_count": "intake.before_commit", "outbox.after_read": "outbox.before_publish"}
"""Only who follows one that died there comes to this place: it finds deliveries of which nobody knows what became, or
rows that are unsent."""
OFTEN = ("intake.", "outbox.before", "outbox.after_confirm", "outbox.after_delete")
"""How the places begin that are passed many times a second: there the passage is one of the first fifteen. Who
follows a death passes as often as that one left something."""
SHARE_OF_THE_DOOR = 0.55
"""Of all kills; the others take longer, since a restart has to come to them."""

RATE = 3.0
"""Events that must be confirmed per second in each half minute; many more are sent. Fewer would prove little."""

Plan = list[tuple[str, int]]
"""Places and passages, in order."""


def plans(kills: int, seed: int = SEED) -> tuple[Plan, Plan]:
    """A night at the door and one of restarts, which belongs to great runs: every day all kills are at the door."""
    at_the_door = kills if sizes.now() is sizes.EVERYDAY else round(kills * SHARE_OF_THE_DOOR)
    in_restarts = max(kills - at_the_door, len(IN_A_RESTART))
    return plan(AT_THE_DOOR, at_the_door, seed), plan(IN_A_RESTART, in_restarts, seed)


def plan(places: Sequence[str], kills: int, seed: int) -> Plan:
    """Every place once, in order; then rounds in an order of chance."""
    chance = random.Random(seed)
    found = list(places)
    while len(found) < kills:
        found += chance.sample(places, min(len(places), kills - len(found)))
    return [(place, chance.randint(1, 15) if often(place) else 1) for place in found]


def often(place: str) -> bool:
    return place.startswith(OFTEN) and place not in AFTER


def names(planned: Plan) -> list[str]:
    """As tests are called."""
    return [f"{number:03}-{place}:{passage}" for number, (place, passage) in enumerate(planned, start=1)]


async def kill(night: Night, place: str, passage: int) -> None:
    """One life that ends there, with whatever it takes to come there."""
    stir: Stir | None = None
    async with AsyncExitStack() as around:
        match place:
            case "owner.before_release" | "owner.after_release":
                stir = night.is_told_to_end
            case "runner.before_let_go" | "runner.after_let_go":
                stir = night.cancels_what_is_under_way
            case "runner.after_retry":
                stir = night.lets_a_participant_fail
            case "runner.after_renew":
                stir = night.lets_a_participant_take_long
            case "outbox.after_second_way":
                await around.enter_async_context(night.strangers_full_queue())
        if first := AFTER.get(place):
            # At its first passage, where all that came meanwhile is in flight: later ones may leave hardly anything.
            await night.dies_at(first, 1)
        await night.dies_at(place, passage, stir)


async def judge(night: Night, planned: Plan, figures: Noting) -> None:
    """The end of a night in which everybody was killed as planned: asserts that nothing is found."""
    figures.count(kills_of_the_service=len(night.kills))
    figures.seconds("service killed and started again, to its first commit", await night.first_commits())
    places = frozenset(place for place, _ in planned)
    await end_and_judge(night, SEED, _strikes(night, planned), places, RATE, figures)


def _strikes(night: Night, planned: Plan) -> list[Strike]:
    """What was to happen, and whether it did, so often."""
    happened = Counter(night.kills)
    found = []
    for place, _ in planned:
        found.append(Strike(place, happened[place] > 0))
        happened[place] -= 1
    return found
