"""Checklists: what must be shown done, each item tied to the steps that prove it. Pure; nothing is looked up here.

A checklist is a tuple of items; another one is another tuple, of the same items or new ones.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from machines.model import StepStatus
from schemas.base import Json


@dataclass(frozen=True, slots=True)
class Moved:
    """One row of the log: a transition, or a refusal (then `to` is where it stayed)."""

    at: datetime
    source: str
    to: str
    reason: str
    event: str
    user: str | None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one step. `entry`: of which entry of its state; a state may be entered twice."""

    entry: int
    state: str
    name: str
    status: StepStatus
    attempts: int = 0
    result: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None

    @property
    def line(self) -> str:
        return self.name.partition(":")[0]

    @property
    def problem(self) -> str | None:
        """Why this step proves nothing; None when it does."""
        if self.status is StepStatus.DONE and self.result.get("passed") is not False:
            return None
        if self.status is StepStatus.DONE:
            return f"{self.name} did not pass"
        return f"{self.name} {self.status}" + (f": {self.error}" if self.error else "")


@dataclass(frozen=True, slots=True)
class Run:
    """One restart from its request to its rest. `about` is what the machine remembers of it; `waivers` by step.

    `ended` is None while it is under way. `writing`: the report is being written by a step of this very run.
    `signatures`: by item `{by, at, reason}`.
    """

    id: str
    moves: tuple[Moved, ...]
    steps: tuple[Seen, ...]
    about: Mapping[str, Json]
    waivers: Mapping[str, Json] = field(default_factory=dict)
    ended: datetime | None = None
    writing: bool = False
    signatures: Mapping[str, Json] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return self.moves[-1].to

    def entered(self, state: str) -> datetime | None:
        """When the run first came to `state`."""
        return next((move.at for move in self.moves if move.to == state and not move.refused), None)

    def of(self, line: str, state: str | None = None) -> tuple[Seen, ...]:
        """The steps of a line of the table, from the newest entry that had any: a retry counts, not what it retried."""
        found = [step for step in self.steps if step.line == line and state in (None, step.state)]
        last = max((step.entry for step in found), default=0)
        return tuple(step for step in found if step.entry == last)


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether an item was shown, and by what; or why not."""

    proven: bool
    words: str


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a checklist."""

    text: str
    proof: Callable[[Run], Proof]


@dataclass(frozen=True, slots=True)
class Lines:
    """Proven by steps: every step of these lines (in `state`, if named) is done, and there is at least one of each of
    `needed`. `absent` says why there may be none."""

    needed: tuple[str, ...]
    also: tuple[str, ...] = ()
    state: str | None = None
    absent: str = "it was not come to"

    def __call__(self, run: Run) -> Proof:
        steps = [step for line in (*self.needed, *self.also) for step in run.of(line, self.state)]
        missing = [line for line in self.needed if not run.of(line, self.state)]
        problems = [step.problem for step in steps if step.problem is not None]
        if problems:
            return Proof(False, "; ".join(problems))
        if missing:
            return Proof(False, f"no step {', '.join(missing)}: {self.absent}")
        return Proof(True, f"proven by {', '.join(step.name for step in steps)}")


def all_items(*proofs: Callable[[Run], Proof]) -> Callable[[Run], Proof]:
    """Proven when all of them are."""

    def together(run: Run) -> Proof:
        found = [proof(run) for proof in proofs]
        wrong = [proof.words for proof in found if not proof.proven]
        good = ", ".join(proof.words.removeprefix("proven by ") for proof in found)
        return Proof(not wrong, "; ".join(wrong) if wrong else f"proven by {good}")

    return together


def let_in(state: str, guard: str) -> Callable[[Run], Proof]:
    """Proven by the transition into `state`, which `guard` let through."""

    def proof(run: Run) -> Proof:
        entered = run.entered(state)
        if entered is None:
            return Proof(False, f"{state} was not entered")
        return Proof(True, f"proven by the guard {guard} at {entered.isoformat(timespec='seconds')}")

    return proof


def checked(items: tuple[Item, ...], run: Run) -> tuple[tuple[Item, Proof], ...]:
    """Each item with its proof: by steps, or by a person who signed it. A signature hides nothing that steps show."""
    return tuple((item, _signed(item.text, item.proof(run), run)) for item in items)


def _signed(item: str, proof: Proof, run: Run) -> Proof:
    signature = run.signatures.get(item)
    if not isinstance(signature, dict):
        return proof
    words = f"signed by {signature.get('by')} at {signature.get('at')}: {signature.get('reason')}"
    if proof.proven:
        return Proof(True, f"{proof.words}; {words}")
    return Proof(True, f"{words} (no step shows it: {proof.words})")


def verified(run: Run) -> Proof:
    """Proven by the guard that lets nothing waived through; what it saw is in what the machine remembers."""
    kept = run.about.get("verified")
    at = kept.get("at") if isinstance(kept, dict) else None
    if at is None:
        return Proof(False, "not everything was verified")
    return Proof(True, f"proven by the guard verified at {at}")


def delivered(line: str, state: str) -> Callable[[Run], Proof]:
    """Proven by a step that told people: where channels are set, at least one of them took the message."""

    def proof(run: Run) -> Proof:
        steps = run.of(line, state)
        found = Lines((line,), state=state)(run)
        deliveries = [d for step in steps for d in _list(step.result.get("deliveries")) if isinstance(d, dict)]
        took = [str(one["channel"]) for one in deliveries if one.get("delivered_at")]
        if not found.proven or not deliveries:
            return found
        if not took:
            return Proof(False, f"{line}: none of {len(deliveries)} channels took the message")
        return Proof(True, f"{found.words}, delivered to {', '.join(took)}")

    return proof


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def nothing_critical(run: Run) -> Proof:
    """Proven by the guard that lets no restart begin beside another run, and by the checks of `restart.critical`, each
    with what it found: where the file names none, nobody has looked into the system itself, and that is said."""
    let = let_in(NOTIFYING, "nothing_critical_running")(run)
    looked = run.of("interlock")
    if not let.proven:
        return let
    if not looked:
        after = any(move.to in (QUIET, PRESERVING) and not move.refused for move in run.moves)
        unasked = "; restart.critical is not set, so nothing in the system itself was asked" if after else ""
        return Proof(True, let.words + unasked)
    waiver = run.waivers.get("interlock")
    if isinstance(waiver, dict):
        return Proof(False, f"interlock was waived by {waiver.get('by')}: {waiver.get('reason')}")
    if problems := [step.problem for step in looked if step.problem is not None]:
        return Proof(False, "; ".join(problems))
    found = "; ".join(_found(step) for step in looked)
    return Proof(True, f"proven by {found}, and {let.words.removeprefix('proven by ')}")


def _found(step: Seen) -> str:
    checks = [check for check in _list(step.result.get("checks")) if isinstance(check, dict)]
    found = (f"{check.get('title')} {json.dumps(check.get('value'), ensure_ascii=False)}" for check in checks)
    waited = len(_list(step.result.get("waited_for")))
    late = f", after {waited} {'finding' if waited == 1 else 'findings'} to the contrary" if waited else ""
    return f"{step.name} ({'; '.join(found)} at {step.result.get('at')}{late})"


def written(run: Run) -> Proof:
    """Proven by the report itself."""
    if run.writing:
        return Proof(True, "proven by this report")
    return Lines(("report",), absent="the run has not come to an end in order")(run)


BACKED_UP = "restart.backup is not set in the system's file"
NOTIFYING = "preparing_for_restart.notifying"
QUIET, PRESERVING = "preparing_for_restart.awaiting_quiet", "preparing_for_restart.preserving"
VERIFYING, RESTORING = "starting_up.verifying", "starting_up.restoring"

DAILY_RESTART = (
    Item(
        "Verify no critical operations in progress",
        nothing_critical,
    ),
    Item("Send pre-restart notification", delivered("tell", NOTIFYING)),
    Item("Execute database backup", Lines(("backup",), absent=BACKED_UP)),
    Item("Verify backup integrity", Lines(("verify_backup",), ("restore_test",), absent=BACKED_UP)),
    Item(
        "Execute pre-restart data preservation protocol",
        Lines(("seal", "verify_snapshot"), ("identify", "pause", "drain", "flush")),
    ),
    Item("Perform system restart", Lines(("stop", "confirm_stopped", "start"), ("disconnect",))),
    Item(
        "Execute post-restart integrity verification protocol",
        Lines(("compare", "check"), ("soak",), state=VERIFYING),
    ),
    Item(
        "Verify all services operational",
        all_items(verified, Lines(("confirm_running",), ("resume",), state=RESTORING)),
    ),
    Item("Send restart completion notification", delivered("complete", RESTORING)),
    Item("Document any issues encountered", written),
)
"""The ten items of the Daily Restart Checklist, in their order and words."""
