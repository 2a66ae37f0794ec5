"""The check of a database's integrity, with findings in memory: its words, its limits, its place in a soak."""

import pytest
from pydantic import ValidationError

from schemas.base import Json
from schemas.system import System
from service.errors import Permanent, Retry
from service.ports import Looked
from tests.unit.steps_world import SHOP, Shop

CHECK: dict[str, Json] = {"integrity": "orders"}


async def test_what_was_read_is_the_evidence() -> None:
    shop = Shop(verify=[CHECK])
    shop.memory.databases.looked = Looked(tables=70, indexes=160)
    result = await shop.perform("check.run", check=0)
    assert (result["passed"], result["value"]) == (True, {"tables": 70, "indexes": 160})


async def test_crowd_of_findings_is_named_in_part_and_counted() -> None:
    shop = Shop(verify=[CHECK])
    shop.memory.databases.looked = Looked(1, 1, tuple(f"table t: block {n}, row 1: torn" for n in range(9)))
    with pytest.raises(Permanent, match=r"integrity orders: table t: block 0.*block 4, row 1: torn; and 4 more\."):
        await shop.perform("check.run", check=0)


async def test_database_in_which_nothing_was_read_is_not_called_whole() -> None:
    shop = Shop(verify=[CHECK])
    shop.memory.databases.looked = Looked(tables=0, indexes=0)
    with pytest.raises(Permanent, match="there was nothing to read, so nothing was verified"):
        await shop.perform("check.run", check=0)


async def test_database_that_is_away_is_tried_again() -> None:
    shop = Shop(verify=[CHECK])
    shop.memory.databases.away = True
    with pytest.raises(Retry, match="integrity orders: the database is away"):
        await shop.perform("check.run", check=0)


async def test_soak_reads_the_whole_database_once_and_not_all_the_time() -> None:
    shop = Shop(verify=[CHECK], restart={"soak": "1m"})
    shop.results["check:0"] = {"passed": True}
    result = await shop.perform("check.soak", check=0, timeout=300.0)
    assert (result["looks"], result["soaked"]) == (1, 60.0)


def test_unknown_database_is_found_when_the_file_is_read() -> None:
    with pytest.raises(ValidationError, match=r"verify\.0\.integrity: 'trading' is no database"):
        System.model_validate({**SHOP, "verify": [{"integrity": "trading"}]})


def test_plan_says_what_is_read() -> None:
    assert "every table of orders and their indexes are whole" in Shop(verify=[CHECK]).plan("check.run", check=0)
    some = Shop(verify=[{**CHECK, "tables": ["trades"]}])
    assert "trades of orders and their indexes are whole" in some.plan("check.run", check=0)
