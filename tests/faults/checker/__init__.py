"""Judges from outside whether a run kept its promises. Rules only: reading what a run left behind is `evidence.py`'s.

Each rule is written from the guarantees, not from the code: it imports nothing of Relight, and folds, hashes and
orders by its own lights. A finding has a name, so that a planted fault can be asserted by it.
"""

from collections.abc import Callable, Iterator

from tests.faults.checker.effects import commands_are_told_once_a_claim, effects_happened_once
from tests.faults.checker.events import dead_letters_are_told, events_have_outcomes, outcomes_and_log_agree
from tests.faults.checker.findings import Fault, Finding
from tests.faults.checker.gate import operations_leave_once_and_in_order
from tests.faults.checker.lifecycle import lifecycle_shows_what_it_claims
from tests.faults.checker.logs import edges_are_the_tables, logs_hold
from tests.faults.checker.losses import losses_are_counted
from tests.faults.checker.notifications import notifications_match, subscriber_heard_the_same
from tests.faults.checker.rest import nothing_is_overdue, steps_ended_with_their_state
from tests.faults.checker.tokens import nothing_was_written_with_an_old_token, tokens_only_grow
from tests.faults.checker.validity import every_instance_answers, run_was_hard_enough
from tests.faults.evidence import Evidence

__all__ = ["RULES", "Fault", "Finding", "check"]

RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    events_have_outcomes,
    outcomes_and_log_agree,
    dead_letters_are_told,
    logs_hold,
    edges_are_the_tables,
    tokens_only_grow,
    nothing_was_written_with_an_old_token,
    notifications_match,
    subscriber_heard_the_same,
    losses_are_counted,
    operations_leave_once_and_in_order,
    effects_happened_once,
    commands_are_told_once_a_claim,
    steps_ended_with_their_state,
    nothing_is_overdue,
    lifecycle_shows_what_it_claims,
    every_instance_answers,
    run_was_hard_enough,
)
"""All of them; a new promise is one more."""


def check(evidence: Evidence) -> list[Finding]:
    """Every finding of every rule; none means that the run kept its promises. The run must have come to rest."""
    return [finding for rule in RULES for finding in rule(evidence)]
