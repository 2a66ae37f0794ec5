"""What a system's file may say of its gate, and what an operation may carry."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from schemas.envelope import Read, Rejected, read
from schemas.events import OperationRequested, Right
from tests.unit.test_decide import metrics_system

EVENT = (
    b'{"specversion":"1.0","id":"1","source":"shop","type":"relight.operation.requested","subject":"metrics","data":%s}'
)


def test_gate_is_off_unless_the_file_has_one_and_an_empty_one_has_every_default() -> None:
    assert metrics_system().gate is None
    gate = metrics_system(gate={}).gate
    assert gate is not None
    assert (gate.holds, gate.expires, gate.from_, gate.to) == (1000, timedelta(minutes=15), None, [])


def test_without_from_any_verified_user_may_operate_and_with_it_only_those_named() -> None:
    anybody, few = metrics_system(gate={}), metrics_system(gate={"from": ["shop"]})
    assert anybody.permits(Right.OPERATE, "eve", local=False) is None
    assert "no verified user" in str(anybody.permits(Right.OPERATE, None, local=False))
    assert few.permits(Right.OPERATE, "shop", local=False) is None
    assert few.permits(Right.OPERATE, None, local=True) is None
    assert "gate.from names shop" in str(few.permits(Right.OPERATE, "eve", local=False))
    assert few.named(Right.OPERATE) == ("shop",)


@pytest.mark.parametrize("gate", [{"holds": 0}, {"holds": 10_001}, {"expires": "0s"}, {"expires": "8d"}, {"hold": 1}])
def test_gate_without_bound_or_end_is_refused(gate: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        metrics_system(gate=gate)


def test_configuration_with_a_gate_is_read_back_as_it_was_written() -> None:
    system = metrics_system(gate={"from": ["shop"], "to": ["desk"], "holds": 5})
    assert type(system).model_validate_json(system.canonical()) == system


def test_the_page_about_it_shows_a_gate_and_an_operation_that_are_taken() -> None:
    page = (Path(__file__).parents[2] / "docs/gate.md").read_text()
    blocks = dict(re.findall(r"```(yaml|json|python)\n(.*?)```", page, re.DOTALL))
    gate = metrics_system(**yaml.safe_load(blocks["yaml"])).gate
    assert gate is not None
    assert (gate.from_, gate.to) == (["shop"], ["order-desk"])
    assert isinstance(read(blocks["json"].encode(), "metrics.operation.requested"), Read)
    compile(blocks["python"], "gate.md", "exec")


@pytest.mark.parametrize("payload", [b"null", b"[1,2]", b'{"any":{"thing":1}}', b'"text"'])
def test_payload_is_free_json(payload: bytes) -> None:
    found = read(EVENT % (b'{"operation":"orders.submit","payload":%s}' % payload))
    assert isinstance(found, Read)
    assert isinstance(found.data, OperationRequested)
    assert found.data.operation == "orders.submit"


@pytest.mark.parametrize("operation", ["", "Orders", "orders.", "a.b.c.d", "orders submit", "orders.#"])
def test_name_that_would_be_no_routing_key_is_refused(operation: str) -> None:
    found = read(EVENT % (b'{"operation":"%s"}' % operation.encode()))
    assert isinstance(found, Rejected)
