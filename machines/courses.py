"""The one course that an instance takes when nobody acts: what each next step's fate, and a crash, make of it.

The rules by which configurations follow each other are the explorer's; nothing is decided here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from machines.explore import Configuration, Exploration, Explorer, Outcome, open_steps, possible, settle
from machines.model import On, StepFact
from schemas.events import SystemRegistered

Fate = Mapping[str, Outcome]
"""How each line of the table ends; well, where nothing is said of it."""


@dataclass(slots=True)
class _Turn:
    """What may come next at `here`, which it keeps alive: its id is the key. `then`: by the outcome of `step`."""

    here: Configuration
    raised: tuple[str, ...]
    step: StepFact | None = None
    possible: tuple[Outcome, ...] = ()
    then: dict[Outcome, Configuration | None] = field(default_factory=dict)
    crashes: tuple[Configuration, ...] | None = None


class Courses:
    """Courses from one entry of a state. The very same configuration goes on to the very same one, worked out once:
    runs of different fates share their way up to where the fates differ."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._turns: dict[int, _Turn] = {}
        self._seen = Exploration()  # what the walk has noted already is noted once more, and not read

    def run_on(self, here: Configuration, fate: Fate) -> Configuration:
        """Goes on until the state is left."""
        state = here.state
        then: Configuration | None = here
        while then is not None and then.state == state:
            here, then = then, self.advance(then, fate)
        return then or here

    def advance(self, here: Configuration, fate: Fate) -> Configuration | None:
        """What comes next by itself; None: nothing."""
        turn = self._turn(here)
        outcome = Outcome.GOOD
        if turn.step is not None:
            fated = fate.get(turn.step.planned.name.split(":")[0], Outcome.GOOD)
            outcome = fated if fated in turn.possible else Outcome.GOOD
        if outcome not in turn.then:
            if turn.step is None:
                turn.then[outcome] = self._waited(turn)
            else:
                turn.then[outcome] = self._explorer.stayed(settle(here, turn.step, outcome), outcome, self._seen)
        return turn.then[outcome]

    def crashes(self, here: Configuration) -> tuple[Configuration, ...]:
        """What a restarted Relight finds: the next step was interrupted (one attempt more); it reads its files anew."""
        turn = self._turn(here)
        if turn.crashes is None:
            turn.crashes = tuple(self._crashed(here))
        return turn.crashes

    def _turn(self, here: Configuration) -> _Turn:
        if (known := self._turns.get(id(here))) is not None:
            return known
        self._turns[id(here)] = turn = _Turn(here, self._explorer.raised(here))
        moved = (self._explorer.decided(here, trigger, None, self._seen) for trigger in turn.raised)
        if (there := next((there for there in moved if there is not None), None)) is not None:
            turn.then[Outcome.GOOD] = there
        elif (step := next(open_steps(here.steps), None)) is not None:
            turn.step, turn.possible = step, possible(step)
        return turn

    def _waited(self, turn: _Turn) -> Configuration | None:
        here = turn.here
        state = self._explorer.states[here.state]
        if state.dwell is not None and not here.dwelled:
            return self._explorer.dwelt(here)
        if state.deadline is not None and not turn.raised:
            return self._explorer.decided(here, On.DEADLINE_PASSED, None, self._seen)
        return None

    def _crashed(self, here: Configuration) -> Iterator[Configuration]:
        resumed = here
        if (step := next(open_steps(here.steps), None)) is not None:
            again = replace(step, attempt=step.attempt + 1)
            resumed = replace(here, steps=tuple(again if s is step else s for s in here.steps))
        yield resumed
        for trigger, event in self._explorer.samples:
            if isinstance(event, SystemRegistered):
                moved = self._explorer.decided(resumed, trigger, event, self._seen)
                if moved is not None:
                    yield moved
