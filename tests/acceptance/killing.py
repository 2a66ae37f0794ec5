"""A restart in which something is killed in every phase: the instance is watched, held for the moment of the kill, and
afterwards the log says whether the victim really died in that phase. What must come of it is the stories' business.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import asyncpg
import pytest

from tests.acceptance.books import Books, books, digest
from tests.acceptance.harness import COMPONENTS, INSTANCE, House
from tests.acceptance.terminal import paste, relight, stands
from tests.acceptance.victims import Victim
from tests.faults.checker import check
from tests.serving import RESTING

LOOK = 0.02
"""Seconds between two looks at where the instance stands."""
LONGEST = 100.0
"""Seconds in which a restart must come to rest, whatever was killed in it."""


class Phase(StrEnum):
    """The phases of a restart, in order; resuming is where one that is given up ends."""

    AWAITING = "preparing_for_restart.awaiting_approval"
    NOTIFYING = "preparing_for_restart.notifying"
    PRESERVING = "preparing_for_restart.preserving"
    RESUMING = "preparing_for_restart.resuming"
    SHUTTING_DOWN = "shutting_down"
    INITIALIZING = "starting_up.initializing"
    VERIFYING = "starting_up.verifying"
    RESTORING = "starting_up.restoring"


class Promise(StrEnum):
    """Where a restart in which one part was killed comes to rest by itself, and what a person then has to do."""

    ON = "goes on, and ends operational"
    BACK = "is given up and resumed, and is operational"
    EITHER = "goes on, or is given up and resumed: operational"
    DEGRADED = "is degraded: what died is started by `adopt`"
    HALTED = "is halted: what died is started by `retry`"
    ADOPTED = "is halted: what died is started by `adopt`, for what was resumed works on, past what it flushed"


Pair = tuple[str, Phase]
"""Who dies, and where."""
RESTS = {
    Promise.ON: "operational",
    Promise.BACK: "operational",
    Promise.EITHER: "operational",
    Promise.DEGRADED: "degraded",
    Promise.HALTED: "halted",
    Promise.ADOPTED: "halted",
}
CLEARED_BY = {Promise.DEGRADED: "adopt", Promise.HALTED: "retry", Promise.ADOPTED: "adopt"}
"""The act that a person takes of those that `relight status` offers there."""


@dataclass(frozen=True)
class Standing:
    """Where the instance stands, and which steps of this entry are being performed or waited for."""

    state: str
    entry: int
    seq: int
    busy: tuple[str, ...]


@dataclass(frozen=True)
class Kill:
    """A victim that was killed in an entry of a phase, some time between `before` and `after`."""

    victim: str
    phase: Phase
    entry: int
    before: datetime
    after: datetime


@dataclass(frozen=True)
class Move:
    """A transition as the log has it."""

    seq: int
    to: str
    entry: int
    at: datetime
    reason: str


class Square:
    """The pairs of victim and phase that are still to be done; each restart takes another victim in each phase. A pair
    of `beside` is no more than a dead channel: it is done beside the others, whenever its phase comes."""

    def __init__(self, victims: Sequence[str], pairs: Collection[Pair], beside: Collection[Pair]) -> None:
        self._victims = tuple(victims)
        self._beside = frozenset(beside)
        self.left = set(pairs)

    def choose(self, phase: Phase, number: int) -> tuple[str, ...]:
        """Who dies in this phase of restart `number`: the next in the square that is still to be done, first."""
        begin = number + tuple(Phase).index(phase)
        around = [self._victims[(begin + offset) % len(self._victims)] for offset in range(len(self._victims))]
        left = [victim for victim in around if (victim, phase) in self.left]
        first = [victim for victim in left if (victim, phase) not in self._beside][:1]
        return (*first, *(victim for victim in left if (victim, phase) in self._beside))


class Watch:
    """Reads where the lifecycle stands, on a connection of its own that is made again when the server was away."""

    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url
        self._connection: asyncpg.Connection | None = None

    async def look(self) -> Standing | None:
        """None while the server does not answer."""
        query = """
            SELECT state, entry, seq, (
                SELECT coalesce(array_agg(name), '{}') FROM relight.steps AS s
                WHERE s.instance = i.instance AND s.entry = i.entry AND status IN ('running', 'waiting'))
            FROM relight.instances AS i WHERE instance = $1
        """
        try:
            if self._connection is None:
                self._connection = await asyncpg.connect(self._url, timeout=5)
            row = await self._connection.fetchrow(query, INSTANCE, timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self.close()
            return None
        return Standing(row[0], row[1], row[2], tuple(row[3])) if row is not None else None

    async def moves(self, after: int) -> list[Move]:
        """The transitions since row `after`, in order."""
        query = """
            SELECT seq, record FROM relight.log WHERE instance = $1 AND seq > $2 AND kind = 'transition' ORDER BY seq
        """
        connection = await asyncpg.connect(self._url, timeout=10)
        try:
            rows = await connection.fetch(query, INSTANCE, after, timeout=10)
        finally:
            await connection.close(timeout=10)
        return [_move(row["seq"], json.loads(row["record"])) for row in rows]

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None


def _move(seq: int, record: dict[str, Any]) -> Move:
    # When it was decided; the event that led there may be older.
    at = datetime.fromisoformat(record["snapshot"]["entered_at"])
    return Move(seq, record["to"], record["snapshot"]["entry"], at, str(record.get("reason")))


def expected(promises: Mapping[str, Sequence[Promise | None]], phases: Sequence[Phase]) -> Mapping[Pair, Promise]:
    """A table of promises, a row a victim and a column a phase, as pairs; where there is none nobody is killed."""
    return {
        (victim, phase): promise
        for victim, row in promises.items()
        for phase, promise in zip(phases, row, strict=True)
        if promise is not None
    }


@dataclass
class Story:
    """One restart: who was killed when, and the way it took, until it came to rest by itself."""

    number: int
    after: int
    kills: list[Kill] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def done(self) -> Iterator[Kill]:
        """The kills that the log confirms: the instance had come into the phase before, and left it afterwards."""
        for kill in self.kills:
            into = next((move for move in self.moves if move.entry == kill.entry), None)
            out = next((move for move in self.moves if move.entry > kill.entry), None)
            if into is not None and out is not None and into.at <= kill.before and kill.after <= out.at:
                yield kill

    def tell(self) -> str:
        """For a failure: what was killed when, among the states."""
        lines = [(move.at, f"→ {move.to}: {move.reason}") for move in self.moves]
        lines += [(kill.before, f"   {kill.victim} is killed in {kill.phase}") for kill in self.kills]
        return "\n".join(f"{at:%H:%M:%S.%f} {text}" for at, text in sorted(lines, key=lambda line: line[0]))


class Stage:
    """The house, what can be killed in it, and where the kill waits for a step to be at work."""

    def __init__(
        self,
        house: House,
        victims: Sequence[Victim],
        promises: Mapping[Pair, Promise],
        moments: Mapping[Pair, str],
        *,
        held: Collection[Pair] = (),
        beside: Collection[Pair] = (),
        forgotten: Collection[Pair] = (),
    ) -> None:
        """`moments`: the beginning of the name of the step in which it is killed; else it is at the entry of the phase.
        `held`: pairs in which the victim comes back only when the phase is over. `forgotten`: pairs that cost the
        calculator what it held in memory and had not flushed."""
        self.house, self.promises = house, promises
        self.victims = {victim.name: victim for victim in victims}
        self.square = Square(tuple(self.victims), promises, beside)
        self.watch = Watch(house.postgres_url)
        self._moments, self._held, self._forgotten = moments, held, forgotten
        self._return: asyncio.Task[None] | None = None
        self._away: tuple[Sequence[str], int] | None = None
        self._before: Books | None = None

    async def restart(self, number: int) -> Story:
        """Asks for a restart and kills in each phase what the square says, until the restart has come to rest.

        It is cancelled on its way as long as somebody is still to be killed in resuming."""
        here = await self.watch.look()
        assert here is not None
        assert here.state == "operational", f"an earlier story left it {here.state}"
        story = Story(number, here.seq)
        self._before = await books(self.house)
        await self.say("svc-deploy", "restart.requested", {"reason": f"story {number}"})
        cancel = bool(self.square.choose(Phase.RESUMING, number))
        try:
            async with asyncio.timeout(LONGEST):
                await self._until_rest(story, cancel)
        except TimeoutError:
            story.moves = await self.watch.moves(story.after)
            raise AssertionError(f"no rest within {LONGEST:.0f} s:\n{self.tell(story)}") from None
        finally:
            await self._all_back()
        story.moves = await self.watch.moves(story.after)
        return story

    def tell(self, story: Story) -> str:
        return f"{story.tell()}\nserve says:\n{self.house.last_words(40)}"

    async def say(self, user: str, name: str, data: Mapping[str, Any]) -> None:
        """An event that the broker confirmed, by a publisher that comes anew: the broker may have been away."""
        person = self.house.people[user]
        await person.close()
        await person.connect()
        await self.house.say(user, name, data)

    async def settle(self, story: Story) -> None:
        """The restart came to rest where it was promised, and a person has cleared it with the printed command; then
        the target is as it should be. What the log confirms is taken off the square."""
        worst = max((self.promises[kill.victim, kill.phase] for kill in story.kills), key=tuple(Promise).index)
        rest, told = story.moves[-1].to, self.tell(story)
        if worst in CLEARED_BY and await self.house.state() != "operational":
            text = await relight(self.house, "status", self.house.system)
            await paste(self.house, text, CLEARED_BY[worst])
            await stands(self.house, "operational", within=60)
        assert rest == RESTS[worst], f"{worst}, but it is {rest}:\n{told}"
        assert set(self.house.alive()) == set(COMPONENTS), f"{self.house.alive()} run:\n{self.tell(story)}"
        await self.house.going_on()
        now = await books(self.house)
        assert self._before is not None
        assert await digest(self.house, self._before.last) == self._before.digest, f"booked trades are gone:\n{told}"
        if not any((kill.victim, kill.phase) in self._forgotten for kill in story.kills):
            assert now.uncounted == self._before.uncounted, f"trades are not counted, or twice:\n{told}"
        self.square.left -= {(kill.victim, kill.phase) for kill in story.done()}

    async def play(self, number: int) -> None:
        """A restart with its kills and its promise; skipped when everybody has died everywhere."""
        if not self.square.left:
            pytest.skip("every pair is done")
        story = await self.restart(number)
        print(f"{story.tell()}\n{self.house.system} rests as {story.moves[-1].to}; {len(self.square.left)} were left")
        await self.settle(story)

    async def judge(self) -> None:
        """Everybody died everywhere, and the checker finds nothing in what the whole file left behind."""
        assert not self.square.left, f"never killed there: {sorted(self.square.left)}"
        await self.house.rest()
        findings = check(await self.house.evidence())
        assert not findings, "\n".join(map(str, findings[:20]))

    # ---- inside

    async def _all_back(self) -> None:
        if self._return is not None:
            await self._return
        if self._away is not None:
            await self._later(self._away[0])
        self._return = self._away = None

    async def _until_rest(self, story: Story, cancel: bool) -> None:
        hit: set[int] = set()
        late, answered = 0, False
        while True:
            await asyncio.sleep(LOOK)
            here = await self.watch.look()
            if here is None or (self._return is not None and not self._return.done()):
                late = here.entry if here is not None else late
                continue
            if self._away is not None:
                if here.entry != self._away[1]:
                    self._return = asyncio.create_task(self._later(self._away[0]))
                    self._away = None
                continue
            if here.state in RESTING and here.seq > story.after:
                return
            if here.state not in tuple(Phase):
                continue
            phase = Phase(here.state)
            chosen = self.square.choose(phase, story.number) if here.entry not in hit else ()
            if here.entry == late:
                # Who died before came back in the middle of this phase, and these are for its beginning.
                chosen = tuple(victim for victim in chosen if (victim, phase) not in self._held)
            if cancel and phase is Phase.PRESERVING:
                async with self._frozen():
                    await self.say("svc-deploy", "restart.cancelled", {"reason": "something will die in resuming"})
                cancel = False
            elif chosen:
                step = self._moments.get((chosen[0], phase))
                if step is None or any(name.startswith(step) for name in here.busy):
                    hit.add(here.entry)
                    await self._strike(story, chosen, phase, here.entry)
            elif phase is Phase.AWAITING and not answered:
                await self._approve()
                answered = True

    async def _strike(self, story: Story, chosen: Sequence[str], phase: Phase, entry: int) -> None:
        """Relight is held while they die, so that the phase is not left meanwhile."""
        async with self._frozen():
            here = await self.watch.look()
            if here is None or here.entry != entry:
                return
            for victim in chosen:
                before = datetime.now(UTC)
                await self.victims[victim].kill()
                story.kills.append(Kill(victim, phase, entry, before, datetime.now(UTC)))
        if (chosen[0], phase) in self._held:
            self._away = (chosen, entry)
        else:
            self._return = asyncio.create_task(self._later(chosen))

    async def _later(self, chosen: Sequence[str]) -> None:
        await asyncio.sleep(max(self.victims[victim].away for victim in chosen))
        await asyncio.gather(*(self.victims[victim].back() for victim in chosen))

    @contextlib.asynccontextmanager
    async def _frozen(self) -> AsyncIterator[None]:
        process = self.house.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)

    async def _approve(self) -> None:
        query = "SELECT data::jsonb #>> '{restart,approval,plan}' FROM relight.instances WHERE instance = $1"
        plan = await self.house.value(query, INSTANCE)
        await self.say("ana", "approval.given", {"instance": INSTANCE, "plan": plan, "reason": "go on"})
