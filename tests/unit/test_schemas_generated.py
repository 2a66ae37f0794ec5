"""The JSON Schemas in the repository are those of the models, and say the same as the models do."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from schemas.events import EVENTS
from schemas.generate import FOLDER, differences, documents, main, write
from schemas.notifications import NOTIFICATIONS

EXAMPLES = {
    "events/restart.requested.json": ({"reason": "kernel", "due": "2025-03-02T02:00:00Z"}, {"reason": "x", "dew": "2"}),
    "events/restart.cancelled.json": ({"reason": "traffic"}, {}),
    "events/metric.observed.json": ({"metric": "memory", "value": 71.5}, {"metric": "memory", "value": "71.5"}),
    "events/operator.acted.json": (
        {"instance": "lifecycle/metrics", "act": "hands-off", "reason": "mine"},
        {"instance": "lifecycle/metrics", "act": "explode", "reason": "mine"},
    ),
    "system.json": (
        {
            "system": "metrics",
            "storage": {"state": "file:///var/lib/metrics"},
            "components": {"calculator": {"process": ["python", "-m", "calculator"]}},
            "restart": {"limits": {"drain": "5m", "stop": 120}},
            "verify": [{"roundtrip": "calculator", "within": "5s"}],
            "alerts": [{"metric": "memory", "warning": 70, "critical": 90, "for": "5m"}],
        },
        {"system": "metrics", "storage": {"state": "/var"}, "components": {}, "verify": []},
    ),
}


def test_committed_schemas_are_those_of_the_models() -> None:
    assert differences() == ()


def test_every_event_notification_envelope_and_system_file_has_a_schema() -> None:
    expected = {f"events/{name}.json" for name in EVENTS} | {f"notifications/{name}.json" for name in NOTIFICATIONS}
    assert set(documents()) == expected | {"envelope.json", "system.json"}


@pytest.mark.parametrize("name", sorted(documents()))
def test_every_schema_is_a_valid_schema_with_a_name_of_its_own(name: str) -> None:
    schema = json.loads((FOLDER / name).read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == "urn:relight:schema:" + name.removesuffix(".json").replace("/", ":")


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_schema_takes_what_the_model_takes_and_refuses_what_it_refuses(name: str) -> None:
    validator = Draft202012Validator(json.loads(documents()[name]))
    good, bad = EXAMPLES[name]
    assert [error.message for error in validator.iter_errors(good)] == []
    assert not validator.is_valid(bad)


def test_changed_missing_and_left_over_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "json", tmp_path / "asyncapi.json")
    assert differences(tmp_path / "json", tmp_path / "asyncapi.json") == ()
    (tmp_path / "json" / "envelope.json").unlink()
    (tmp_path / "json" / "system.json").write_text("{}")
    (tmp_path / "json" / "events" / "restart.forgotten.json").write_text("{}")
    (tmp_path / "asyncapi.json").write_text("{}")
    assert differences(tmp_path / "json", tmp_path / "asyncapi.json") == (
        "envelope.json is missing",
        "system.json differs from its model",
        "events/restart.forgotten.json belongs to no model",
        "asyncapi.json differs from its models",
    )
    write(tmp_path / "json", tmp_path / "asyncapi.json")
    assert differences(tmp_path / "json", tmp_path / "asyncapi.json") == ()


def test_wrong_usage_exits_2_and_unchanged_schemas_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--chekc"]) == 2
    assert "usage" in capsys.readouterr().err
    assert main(["--check"]) == 0
