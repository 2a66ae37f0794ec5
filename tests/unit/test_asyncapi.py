"""The AsyncAPI document says what the broker really carries: every type, its routing key, and a payload that fits."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from schemas.asyncapi import document
from schemas.events import EVENTS
from schemas.generate import documents
from schemas.notifications import NOTIFICATIONS
from service.adapters.rabbitmq.names import topology
from service.cli.main import app
from service.ports import Token
from tests.unit.test_decide import Desk

DOCUMENT: dict[str, Any] = json.loads(document())


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(reference: str) -> Any:
    found = DOCUMENT
    for word in reference.removeprefix("#/").split("/"):
        found = found[word]
    return found


def validator(name: str) -> Draft202012Validator:
    payload = DOCUMENT["components"]["messages"][name]["payload"]
    return Draft202012Validator({**payload, "components": DOCUMENT["components"]})


def event(type_: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": "1", "source": "me", "type": type_, "subject": "metrics",
        "time": datetime(2026, 3, 1, tzinfo=UTC).isoformat(), "data": data,
    }  # fmt: skip


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 40
    for reference in found:
        assert isinstance(resolve(reference), dict), reference


def test_it_names_everything_that_comes_in_and_goes_out() -> None:
    comes_in = {kind.name for kind in EVENTS.values() if not kind.engine_raised}
    operations = DOCUMENT["operations"]
    assert {name for name, operation in operations.items() if operation["action"] == "receive"} == comes_in
    assert {name for name, operation in operations.items() if operation["action"] == "send"} == {
        *NOTIFICATIONS, "operation.released",
    }  # fmt: skip
    for name, operation in operations.items():
        assert resolve(operation["channel"]["$ref"])["messages"].keys() == {name}
        (message,) = operation["messages"]
        assert resolve(resolve(message["$ref"])["$ref"])["name"] == name


def test_addresses_of_events_are_the_bindings_on_the_broker() -> None:
    bound = {
        (binding.exchange, binding.routing_key.replace("metrics.", "{system}.", 1))
        for binding in topology(["metrics"], {"metrics": 0}).bindings
        if binding.exchange == "relight.events"
    }
    described = {
        (channel["bindings"]["amqp"]["exchange"]["name"], channel["address"])
        for name, channel in DOCUMENT["channels"].items()
        if DOCUMENT["operations"][name]["action"] == "receive"
    }
    assert described == bound


def test_exchanges_are_those_of_the_broker_and_every_parameter_is_explained() -> None:
    kinds = {exchange.name: exchange.kind for exchange in topology(["metrics"], {}).exchanges}
    for channel in DOCUMENT["channels"].values():
        exchange = channel["bindings"]["amqp"]["exchange"]
        assert kinds[exchange["name"]] == exchange["type"]
        assert set(channel["parameters"]) == {word.strip("{}") for word in channel["address"].split(".") if "{" in word}


def test_payload_takes_a_good_event_and_refuses_another_type_and_wrong_data() -> None:
    checked = validator("restart.requested")
    good = event("relight.restart.requested", {"reason": "release 1.4"})
    assert [error.message for error in checked.iter_errors(good)] == []
    assert not checked.is_valid(event("relight.restart.cancelled", {"reason": "x"}))
    assert not checked.is_valid(event("relight.restart.requested", {"raeson": "x"}))
    assert not checked.is_valid({**good, "subject": "No Name"})


def test_what_relight_really_says_fits_its_channel_and_its_payload() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state()
    said = desk.work.batch(0, Token(1), ()).outbox
    kinds = set()
    for message in said:
        found = json.loads(message.body)
        kinds.add(kind := found["type"].removeprefix("relight."))
        assert [error.message for error in validator(kind).iter_errors(found)] == []
        address = re.escape(DOCUMENT["channels"][kind]["address"]).replace(r"\{state\}", ".+")
        assert re.fullmatch(re.sub(r"\\\{\w+\\\}", "[a-z_]+", address), message.routing_key)
    assert kinds >= {"transition", "step"}


def test_command_fits_what_relight_sends() -> None:
    data = {
        "system": "metrics", "component": "calculator", "command": "pause", "commandid": "c", "token": 1,
        "expires": "2026-03-01T00:00:00Z", "arguments": {"lease": 600},
    }  # fmt: skip
    assert validator("command").is_valid(event("relight.command.pause", data))
    assert not validator("command").is_valid(event("relight.pause", data))
    assert DOCUMENT["operations"]["command"]["reply"]["channel"]["$ref"] == "#/channels/participant.answered"


@pytest.mark.parametrize(
    "name", ["system", "restart.requested", "relight.restart.requested", "events/restart.requested"]
)
def test_schema_is_printed_by_its_long_and_its_short_name(name: str) -> None:
    printed = CliRunner().invoke(app, ["schema", name])
    file = "system.json" if name == "system" else "events/restart.requested.json"
    assert (printed.exit_code, printed.output) == (0, documents()[file])


def test_without_a_name_all_are_listed_and_asyncapi_is_one_of_them() -> None:
    listed = CliRunner().invoke(app, ["schema"])
    assert listed.exit_code == 0
    for name in (*documents(), "asyncapi"):
        assert name.removesuffix(".json") in listed.output
    assert CliRunner().invoke(app, ["schema", "asyncapi"]).output == document()
    assert CliRunner().invoke(app, ["schema", "nothing"]).exit_code == 1
