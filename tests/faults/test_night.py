"""A night of outages: servers are killed and owners frozen under load, beside restarts, and two replicas go on."""

import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from service.embedded import PostgresServer, RabbitServer
from tests import sizes
from tests.faults import kills
from tests.faults.ending import end_and_judge
from tests.faults.evidence import Strike
from tests.faults.harness import SYSTEM
from tests.faults.night import night
from tests.faults.strikes import Kind, Strikes
from tests.figures import Noting
from tests.servers import own
from tests.serving import Serving

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module")]

RATE = 3.0
"""Events that must be confirmed per second in each half minute; while the broker is away there are none."""


def plan(size: sizes.Sizes, seed: int) -> list[Kind]:
    """All strikes of a run, in an order of chance."""
    found = [Kind.RABBITMQ] * size.rabbitmq_kills + [Kind.POSTGRES] * size.postgres_kills
    found += [Kind.FROZEN] * size.frozen_owners
    random.Random(seed).shuffle(found)
    return found


PLAN = plan(sizes.now(), kills.SEED)


postgres, rabbit = own(PostgresServer), own(RabbitServer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strikes(
    postgres: PostgresServer, rabbit: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Strikes]:
    """Two replicas: the first serves the components' host, the second only decides."""
    async with night(tmp_path_factory.mktemp("night"), postgres, rabbit) as stage:
        other = Serving(tmp_path_factory.mktemp("second"), stage.postgres_url, stage.amqp_url, SYSTEM)
        other.systems = [stage.file]
        try:
            await rabbit.write_out()
            await stage.start()
            await other.start(RELIGHT_PLACES="elsewhere")
            # Ready is only the one that owns the shard.
            for one in (stage, other):
                await one.until("a replica that strives for the shard", lambda one=one: _strives(one), 60)
            yield Strikes(stage, other, postgres, rabbit, random.Random(kills.SEED))
        finally:
            await other.stop()


async def _strives(replica: Serving) -> bool:
    return replica.said("serve.began") > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", PLAN, ids=[f"{number:03}-{kind.name}" for number, kind in enumerate(PLAN, start=1)])
async def test_it_goes_on_after(strikes: Strikes, kind: Kind) -> None:
    await strikes.strike(kind)


@pytest.mark.timeout(1500)
async def test_after_all_outages_the_checker_finds_nothing(strikes: Strikes, figures: Noting) -> None:
    recovered = strikes.recovered
    figures.count(
        kills_of_RabbitMQ=len(recovered.get(Kind.RABBITMQ, ())),
        kills_of_PostgreSQL=len(recovered.get(Kind.POSTGRES, ())),
        frozen_owners=len(recovered.get(Kind.FROZEN, ())),
    )
    figures.seconds("RabbitMQ answers again, to the first event's commit", recovered.get(Kind.RABBITMQ, ()))
    figures.seconds("PostgreSQL answers again, to the first commit", recovered.get(Kind.POSTGRES, ()))
    figures.seconds("owner frozen (lease 2 s), to another replica's commit", recovered.get(Kind.FROZEN, ()))
    happened = Counter({kind: len(seconds) for kind, seconds in recovered.items()})
    struck = [Strike(kind, number < happened[kind]) for kind in Kind for number in range(PLAN.count(kind))]
    await strikes.other.stop()
    await strikes.night.kill()
    await end_and_judge(strikes.night, kills.SEED, struck, frozenset(), RATE, figures)
