"""The users that `serve` makes on its private broker may do what their part needs, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import aio_pika
import pytest
from aiormq.exceptions import AMQPConnectionError, ChannelAccessRefused

from schemas.system import System
from service.cli.serve import broker_users
from service.embedded import EmbeddedError, RabbitServer
from service.embedded.users import BrokerUser, provide_users

ANA = BrokerUser("ana")
CALCULATOR = BrokerUser("metrics.calculator", ("metrics", "calculator"))


@pytest.fixture
async def broker(rabbit_server: RabbitServer) -> RabbitServer:
    connection = await aio_pika.connect(rabbit_server.url)
    async with connection:
        channel = await connection.channel()
        for name in ("relight.events", "relight.status", "relight.commands"):
            await channel.declare_exchange(name, "topic", durable=True)
        await channel.declare_queue("relight.intake.control.0", durable=True, arguments={"x-queue-type": "quorum"})
    return rabbit_server


async def url(broker: RabbitServer, folder: Path, user: BrokerUser) -> str:
    return (await provide_users(broker, [ANA, CALCULATOR], folder))[user.name].read_text().strip()


async def ignore(_: object) -> None:
    """What is delivered does not matter here."""


async def listen(address: str, exchange: str, key: str) -> None:
    async with await aio_pika.connect(address) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, key)
        await queue.consume(ignore)


async def test_person_publishes_and_watches(broker: RabbitServer, tmp_path: Path) -> None:
    address = await url(broker, tmp_path, ANA)
    await listen(address, "relight.status", "#")
    async with await aio_pika.connect(address) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("relight.events", ensure=False)
        message = aio_pika.Message(json.dumps({}).encode(), user_id="ana")
        await exchange.publish(message, "metrics.restart.requested", mandatory=False)


async def test_person_cannot_speak_for_another(broker: RabbitServer, tmp_path: Path) -> None:
    async with await aio_pika.connect(await url(broker, tmp_path, ANA)) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("relight.events", ensure=False)
        with pytest.raises(Exception, match="user_id property set to 'lead'"):
            await exchange.publish(aio_pika.Message(b"{}", user_id="lead"), "metrics.restart.requested")


@pytest.mark.parametrize(
    ("user", "exchange", "key"),
    [
        (ANA, "relight.commands", "#"),
        (ANA, "relight.events", "#"),
        (CALCULATOR, "relight.commands", "metrics.reporter.*"),
        (CALCULATOR, "relight.commands", "#"),
        (CALCULATOR, "relight.status", "#"),
    ],
)
async def test_nobody_hears_what_is_not_for_him(
    broker: RabbitServer, tmp_path: Path, user: BrokerUser, exchange: str, key: str
) -> None:
    with pytest.raises(ChannelAccessRefused):
        await listen(await url(broker, tmp_path, user), exchange, key)


async def test_component_hears_its_own_commands(broker: RabbitServer, tmp_path: Path) -> None:
    await listen(await url(broker, tmp_path, CALCULATOR), "relight.commands", "metrics.calculator.*")


@pytest.mark.parametrize("name", ["relight.status", "relight.commands"])
async def test_only_relight_speaks_as_relight(broker: RabbitServer, tmp_path: Path, name: str) -> None:
    async with await aio_pika.connect(await url(broker, tmp_path, CALCULATOR)) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(name, ensure=False)
        with pytest.raises(ChannelAccessRefused):
            await exchange.publish(aio_pika.Message(b"{}"), "metrics.calculator.pause", mandatory=False)


async def test_relights_queues_are_out_of_reach(broker: RabbitServer, tmp_path: Path) -> None:
    address = await url(broker, tmp_path, ANA)
    for call in ("delete", "purge", "consume"):
        async with await aio_pika.connect(address) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue("relight.intake.control.0", ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await (queue.consume(ignore) if call == "consume" else getattr(queue, call)())


async def test_who_reads_operations_takes_them_from_one_queue_and_binds_none(
    broker: RabbitServer, tmp_path: Path
) -> None:  # fmt: skip
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.declare_exchange("relight.operations", "topic", durable=True)
        for system in ("metrics", "other"):
            await channel.declare_queue(f"relight.operations.{system}", durable=True)
    files = await provide_users(broker, [ANA, BrokerUser("desk", operates=frozenset({"metrics"}))], tmp_path)
    desk, ana = (files[name].read_text().strip() for name in ("desk", "ana"))
    async with await aio_pika.connect(desk) as connection:
        queue = await (await connection.channel()).get_queue("relight.operations.metrics", ensure=False)
        await queue.consume(ignore)
    for address, name in ((desk, "other"), (ana, "metrics")):
        async with await aio_pika.connect(address) as connection:
            queue = await (await connection.channel()).get_queue(f"relight.operations.{name}", ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await queue.consume(ignore)
    with pytest.raises(ChannelAccessRefused):
        await listen(desk, "relight.operations", "#")
    async with await aio_pika.connect(desk) as connection:
        exchange = await (await connection.channel()).get_exchange("relight.operations", ensure=False)
        with pytest.raises(ChannelAccessRefused):
            await exchange.publish(aio_pika.Message(b"{}"), "metrics.orders.submit", mandatory=False)


async def test_url_files_are_private_and_passwords_stay(broker: RabbitServer, tmp_path: Path) -> None:
    first = await provide_users(broker, [ANA, BrokerUser("../x y")], tmp_path / "users")
    texts = {name: file.read_text() for name, file in first.items()}
    assert {file.parent for file in first.values()} == {tmp_path / "users"}
    assert {file.stat().st_mode & 0o777 for file in first.values()} == {0o600}
    assert (tmp_path / "users").stat().st_mode & 0o777 == 0o700
    again = await provide_users(broker, [ANA, BrokerUser("../x y")], tmp_path / "users")
    assert {name: file.read_text() for name, file in again.items()} == texts


async def test_user_that_no_file_names_any_more_is_locked_out(broker: RabbitServer, tmp_path: Path) -> None:
    address = await url(broker, tmp_path, ANA)
    await provide_users(broker, [CALCULATOR], tmp_path)
    assert not (tmp_path / "ana.url").exists()
    with pytest.raises((AMQPConnectionError, ConnectionError)):
        await aio_pika.connect(address)


async def test_administrator_cannot_be_allowed_by_a_file(broker: RabbitServer, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="that is the administrator"):
        await provide_users(broker, [BrokerUser("relight")], tmp_path)


def test_a_gate_names_who_sends_and_who_reads_beside_the_systems_components() -> None:
    system = System.model_validate(
        {
            "system": "metrics",
            "gate": {"from": ["shop"], "to": ["desk", "shop"]},
            "storage": {"state": "file:///x"},
            "components": {"calculator": {"process": ["x"], "participant": "amqp"}},
            "verify": [{"roundtrip": "calculator"}],
        }
    )
    mine = frozenset({"metrics"})
    assert sorted(broker_users([system]), key=lambda user: user.name) == [
        BrokerUser("desk", operates=mine), replace(CALCULATOR, operates=mine), BrokerUser("shop", operates=mine)
    ]  # fmt: skip


def test_users_are_those_that_the_files_name() -> None:
    system = System.model_validate(
        {
            "system": "metrics",
            "allow": {"restart": ["ana", "svc"], "act": ["ana"], "observe": ["prometheus"]},
            "storage": {"state": "file:///x"},
            "components": {
                "calculator": {"process": ["x"], "participant": "amqp"},
                "reporter": {"process": ["x"], "participant": {"report": {"command": ["x"]}}},
            },
            "verify": [{"roundtrip": "calculator"}],
        }
    )
    assert sorted(broker_users([system]), key=lambda user: user.name) == [
        ANA, CALCULATOR, BrokerUser("prometheus"), BrokerUser("svc")
    ]  # fmt: skip
