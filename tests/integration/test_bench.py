"""`relight bench` in its smallest form: everything is measured and counted on real servers, and nothing is left."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.counting import Tables
from benchmarks.errors import BenchError
from benchmarks.figures import GOALS
from benchmarks.ground import Place
from benchmarks.stage import Track, prove_told, publish
from benchmarks.waves import Instances
from service.adapters.postgres import migrate
from service.adapters.rabbitmq import RabbitBroker
from service.clock import SystemClock
from service.embedded import PostgresServer, RabbitServer
from service.embedded.processes import alive
from service.ports import OutMessage

ROOT = Path(__file__).resolve().parents[2]


def servers(home: Path) -> list[int]:
    """The processes of a benchmark's servers in this folder."""
    folder = home / "bench"
    return [*PostgresServer(folder).pids, *RabbitServer(folder).pids]


async def bench(home: Path, *options: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELIGHT_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "service.cli", "bench", *options,
        cwd=ROOT, env={**environment, "RELIGHT_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_the_smallest_run_measures_and_proves_everything_and_leaves_nothing(tmp_path: Path) -> None:
    # The run itself fails unless each counted transition is in inbox, log and stream: see the two stories below.
    process = await bench(tmp_path, "--tiny", "--json")
    output, said = await asyncio.wait_for(process.communicate(), 380)
    assert process.returncode == 0, said.decode()
    found = json.loads(output)
    assert set(found) == {"figures", "ratios", "machine"}
    assert set(found["ratios"]) == {goal.name for goal in GOALS}
    assert all(value > 0 for value in found["ratios"].values())
    figures = found["figures"]
    assert 20 <= figures["restart_steps"] <= 45, "about thirty, as the lifecycle's table now is"
    assert figures["size"] == "tiny"
    for name in (
        "transitions_full_queue",
        "transitions_live",
        "absorbed",
        "two_replicas_live",
        "naive_16",
        "half_p99_ms",
    ):
        assert figures[name] > 0, name
    assert figures["curve"][0]["offered"] > 0
    assert not (tmp_path / "bench").exists()


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_a_run_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    process = await bench(tmp_path, "--tiny")
    assert process.stderr is not None
    said = ""
    while "warming up" not in said:
        line = await asyncio.wait_for(process.stderr.readline(), 90)
        assert line, said
        said += line.decode()
    running = servers(tmp_path)
    assert running
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert not (tmp_path / "bench").exists()
    assert not any(alive(pid) for pid in running)


async def test_events_without_outcome_and_notification_are_found(
    tmp_path: Path, postgres_url: str, amqp_url: str
) -> None:  # fmt: skip
    await migrate(postgres_url)
    async with RabbitBroker(amqp_url, clock=SystemClock()) as broker:
        await broker.declare(["s0"], {"s0": 0})
    track = Track(Place("here", postgres_url, amqp_url, tmp_path), Instances(1, 3))
    wave = track.wave(3)
    await publish(track.place, [wave])
    async with Tables(postgres_url) as tables:
        with pytest.raises(BenchError, match="of 3 events of bench/here/1, 0 have the outcome 'applied'"):
            await tables.prove(wave.source, wave.count)
        await tables.execute(
            f"""INSERT INTO relight.inbox (source, id, body_hash, outcomes, received_at)
                SELECT '{wave.source}', n::text, ''::bytea, '{{"alert/s0/m0": "applied"}}', now()
                FROM generate_series(1, 3) n"""
        )
        with pytest.raises(BenchError, match="the log has 0 rows of 0 of them instead of 3"):
            await tables.prove(wave.source, wave.count)
    with pytest.raises(BenchError, match="3 of 3 are missing"):
        await prove_told(track, wave)


async def test_event_that_is_told_twice_does_not_stand_for_one_that_is_not_told(
    tmp_path: Path, postgres_url: str, amqp_url: str
) -> None:  # fmt: skip
    track = Track(Place("here", postgres_url, amqp_url, tmp_path), Instances(1, 3))
    wave = track.wave(3)
    first, second, third = (key for _, key, _ in wave.events())
    async with RabbitBroker(amqp_url, clock=SystemClock()) as broker, broker.publisher() as publisher:
        await broker.declare(["s0"], {"s0": 0})

        async def tell(*events: str) -> None:
            for event in events:
                data = {"event": {"source": wave.source, "id": event}}
                body = json.dumps({"type": "relight.transition", "data": data})
                await publisher.publish([OutMessage("relight.status", "s0.alert.m0", "n", body)])

        await tell(first, second, second)
        with pytest.raises(BenchError, match="1 of 3 are missing, 1 stand there more than once, and 0 are of no event"):
            await prove_told(track, wave)
        await tell(first, second, third, "stranger")
        with pytest.raises(BenchError, match="0 of 3 are missing, 0 stand there more than once, and 1 are of no event"):
            await prove_told(track, wave)
        await tell(first, second, third)
        await prove_told(track, wave)
