"""What crosses the broker, as an AsyncAPI 3 document: made from the models, like the JSON Schemas, and never by hand.

Seen from Relight: it receives events, sends notifications, and sends commands that participants answer with an event.
Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0 and its AMQP 0-9-1 bindings, version 0.3.0.
"""

import json
from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.base import NAME_PATTERN, Json
from schemas.envelope import CONTENT_TYPE, MAX_BYTES, CloudEvent
from schemas.events import EVENTS, PREFIX
from schemas.notifications import NOTIFICATIONS

EVENTS_EXCHANGE, STATUS_EXCHANGE, COMMANDS_EXCHANGE = "relight.events", "relight.status", "relight.commands"
OPERATIONS_EXCHANGE = "relight.operations"

ANSWER = "participant.answered"
"""The event that answers a command."""

OPERATION, RELEASED = "operation.requested", "operation.released"
"""The event that asks for work, and what we call it when the gate sends it on, as it arrived."""

Object = dict[str, Json]

PARAMETERS: Mapping[str, str] = {
    "system": f"Name of the system, as in its file: `{NAME_PATTERN}`.",
    "machine": "Name of the machine, e.g. `lifecycle`; `_none` for what no instance could take.",
    "state": "Where the instance stands now, e.g. `preparing_for_restart.notifying`: one word, or two with a dot.",
    "component": "Name of the component that is told.",
    "operation": "What the operation is called in its data, e.g. `orders.submit`: up to three words with dots.",
    "command": "`pause`, `flush`, `report`, `disconnect` or `resume`.",
}
"""The words of the routing keys."""


def document() -> str:
    """The text of `schemas/asyncapi.json`."""
    events = [kind for kind in EVENTS.values() if not kind.engine_raised]
    models: list[type[BaseModel]] = [CloudEvent, *(kind.data for kind in events), *NOTIFICATIONS.values()]
    refs, defined = models_json_schema(
        [(model, "validation") for model in models], by_alias=True, ref_template="#/components/schemas/{model}"
    )
    names = {model: refs[model, "validation"] for model in models}
    channels: Object = {}
    operations: Object = {}
    messages: Object = {}

    def add(name: str, address: str, exchange: str, action: str, type_: Object, model: type) -> None:
        data: Json = dict(names[model])
        messages[name] = _message(name, type_, str(model.__doc__ or ""), data)
        channels[name] = _channel(name, address, exchange)
        operations[name] = _operation(name, action)

    for kind in events:
        add(kind.name, f"{{system}}.{kind.name}", EVENTS_EXCHANGE, "receive", {"const": PREFIX + kind.name}, kind.data)
    for name, model in NOTIFICATIONS.items():
        match name:
            case "command":
                address, exchange = "{system}.{component}.{command}", COMMANDS_EXCHANGE
                type_: Object = {"type": "string", "pattern": rf"^{PREFIX.replace('.', '[.]')}command[.][a-z]+$"}
            case "transition":
                address, exchange = "{system}.{machine}.{state}", STATUS_EXCHANGE
                type_ = {"const": PREFIX + name}
            case _:
                address, exchange = f"{{system}}.{{machine}}._{name}", STATUS_EXCHANGE
                type_ = {"const": PREFIX + name}
        add(name, address, exchange, "send", type_, model)
    operation, type_ = EVENTS[OPERATION].data, {"const": PREFIX + OPERATION}
    add(RELEASED, "{system}.{operation}", OPERATIONS_EXCHANGE, "send", type_, operation)
    # A command that waits for an answer gets it as an event, on the channel that all events use.
    operations["command"] = {**_operation("command", "send"), "reply": {"channel": {"$ref": _channel_ref(ANSWER)}}}
    whole: Object = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Relight",
            "version": "1.0.0",
            "description": (
                "Events to Relight, its notifications, and its commands to participants, over RabbitMQ. A publisher "
                "sets the AMQP property user_id, which the broker verifies. The address of a channel is the routing "
                f"key; a body has at most {MAX_BYTES // 1024} KiB. Readers ignore unknown fields of notifications and "
                "commands; unknown fields of an event's data are refused."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": defined["$defs"]},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _channel(name: str, address: str, exchange: str) -> Object:
    used: Object = {word: {"description": text} for word, text in PARAMETERS.items() if f"{{{word}}}" in address}
    binding: Object = {
        "is": "routingKey",
        "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
        "bindingVersion": "0.3.0",
    }
    return {
        "address": address,
        "description": f"Routing key on the topic exchange `{exchange}`.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "parameters": used,
        "bindings": {"amqp": binding},
    }


def _operation(name: str, action: str) -> Object:
    return {
        "action": action,
        "channel": {"$ref": _channel_ref(name)},
        "messages": [{"$ref": f"{_channel_ref(name)}/messages/{name}"}],
        "bindings": {"amqp": {"deliveryMode": 2, "bindingVersion": "0.3.0"}},
    }


def _message(name: str, type_: Object, description: str, data: Json) -> Object:
    properties: Object = {"type": type_, "data": data}
    envelope: Object = {"$ref": "#/components/schemas/CloudEvent"}
    return {
        "name": name,
        "title": name,
        "description": " ".join(description.split()),
        "contentType": CONTENT_TYPE,
        "payload": {"allOf": [envelope, {"type": "object", "properties": properties}]},
        "bindings": {"amqp": {"contentEncoding": "utf-8", "messageType": name, "bindingVersion": "0.3.0"}},
    }


def _channel_ref(name: str) -> str:
    return f"#/channels/{name}"
