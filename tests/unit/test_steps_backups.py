"""Backups in memory: when one is made, when one is reused, and what never becomes the latest."""

import re

import pytest

from schemas.backup import Backup, Contents, Table
from schemas.base import Json
from service.errors import Missing, Permanent, Retry
from tests.unit.steps_world import Shop

DSN = "postgresql://shop:hush@127.0.0.1/orders"
LATEST = "file:///var/backups/orders/latest.json"
CONTENTS = Contents(
    server_version=15,
    system_identifier="42",
    encoding="UTF8",
    database_bytes=1000,
    roles=["keeper"],
    tables={"public.orders": Table(owner="keeper", rows=3, newest={"id": "3"})},
)


class BackedUp(Shop):
    """The shop with backups of its one database, reused for an hour."""

    def __init__(self, **changes: Json) -> None:
        storage: Json = {"state": "file:///var/shop", "backups": "file:///var/backups"}
        restart: Json = {"backup": {"databases": ["orders"], "reuse_within": "1h", "floor": 10}}
        super().__init__(**{"storage": storage, "restart": restart, **changes})
        self.memory.dumps.databases[DSN] = CONTENTS
        self.data["restart"] = {"id": "r1"}

    async def do(self, line: str) -> dict[str, Json]:
        result = dict(await self.perform(f"postgres.{line}", database="orders"))
        self.results[f"{line}:orders"] = result
        return result

    async def whole(self) -> dict[str, Json]:
        """All three lines; the first one's result."""
        made = await self.do("backup")
        await self.do("verify_backup")
        await self.do("restore_test")
        return made

    async def another_restart(self) -> dict[str, Json]:
        self.data["restart"] = {"id": "r2"}
        return await self.do("backup")


async def test_latest_is_the_manifest_of_the_tested_dump() -> None:
    shop = BackedUp()
    made = await shop.whole()
    latest = Backup.model_validate_json(shop.memory.storage.documents[LATEST])
    assert (latest.sha256, latest.contents, latest.restored is not None) == (made["sha256"], CONTENTS, True)


async def test_backup_is_reused_as_long_as_its_test_is_young_enough() -> None:
    shop = BackedUp()
    made = await shop.whole()
    shop.time.passed += 3599
    assert ((reused := await shop.another_restart())["reused"], reused["url"]) == (True, made["url"])
    assert (await shop.do("verify_backup"))["reused"] is True
    assert (await shop.do("restore_test"))["reused"] is True
    shop.time.passed += 1
    assert (await shop.another_restart())["reused"] is False


async def test_backup_of_another_server_is_not_reused() -> None:
    shop = BackedUp()
    await shop.whole()
    shop.memory.dumps.databases[DSN] = CONTENTS.model_copy(update={"system_identifier": "43"})
    assert (await shop.another_restart())["reused"] is False


async def test_backup_whose_dump_is_gone_is_not_reused() -> None:
    shop = BackedUp()
    made = await shop.whole()
    await shop.memory.storage.delete(str(made["url"]))
    assert (await shop.another_restart())["reused"] is False


async def test_untested_backup_is_never_reused() -> None:
    shop = BackedUp()
    await shop.do("backup")
    await shop.do("verify_backup")
    assert LATEST not in shop.memory.storage.documents
    assert (await shop.another_restart())["reused"] is False


async def test_server_that_is_not_the_pinned_one_is_not_backed_up() -> None:
    shop = BackedUp(identity={"orders": "7"})
    with pytest.raises(Permanent, match="on the server 42, but 7 is pinned as its identity; nothing was dumped"):
        await shop.do("backup")
    assert shop.memory.storage.documents == {}


async def test_database_that_is_away_is_tried_again() -> None:
    shop = BackedUp()
    shop.memory.dumps.away = True
    with pytest.raises(Retry):
        await shop.do("backup")


async def test_dump_that_ends_early_leaves_no_document() -> None:
    shop = BackedUp()
    shop.memory.dumps.cut = True
    with pytest.raises(Retry):
        await shop.do("backup")
    assert shop.memory.storage.documents == {}


async def test_later_steps_without_a_backup_of_this_entry_do_not_take_another_one() -> None:
    shop = BackedUp()
    await shop.whole()
    shop.results.clear()
    for line in ("verify_backup", "restore_test"):
        with pytest.raises(Permanent, match="no backup of orders was made in this entry"):
            await shop.do(line)


async def test_manifest_of_another_backup_is_not_taken_for_ones_own() -> None:
    shop = BackedUp()
    made = await shop.do("backup")
    shop.results["backup:orders"] = {**made, "sha256": "0" * 64}
    with pytest.raises(Permanent, match="is not that of the backup made for this restart"):
        await shop.do("verify_backup")


async def test_dump_that_is_gone_is_missing() -> None:
    shop = BackedUp()
    made = await shop.do("backup")
    await shop.memory.storage.delete(str(made["url"]))
    with pytest.raises(Missing, match=re.escape(str(made["url"]))):
        await shop.do("verify_backup")


async def test_restore_test_that_ended_between_its_two_documents_publishes_the_second() -> None:
    shop = BackedUp()
    await shop.whole()
    await shop.memory.storage.delete(LATEST)
    shop.memory.dumps.seen = CONTENTS.model_copy(update={"tables": {}})  # a second test would fail
    await shop.do("restore_test")
    assert LATEST in shop.memory.storage.documents


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"owner": "eve"}, "table public.orders is owned by eve, not by keeper"),
        ({"rows": 2}, "table public.orders has 2 rows, not 3"),
        ({"newest": {"id": "2"}}, "the newest id is 2, not 3"),
    ],
)
async def test_copy_that_differs_is_not_published(changes: dict[str, Json], words: str) -> None:
    shop = BackedUp()
    table = CONTENTS.tables["public.orders"].model_copy(update=changes)
    shop.memory.dumps.seen = CONTENTS.model_copy(update={"tables": {"public.orders": table}})
    with pytest.raises(Permanent, match=words):
        await shop.whole()
    assert LATEST not in shop.memory.storage.documents


def test_plans_say_where_to_and_what_is_compared() -> None:
    shop = BackedUp()
    assert shop.plan("postgres.backup", database="orders") == (
        "dump orders to file:///var/backups/orders/<restart>.dump with a manifest, unless one was restored in a test "
        "within the last 1 h"
    )
    assert "compare its SHA-256" in shop.plan("postgres.verify_backup", database="orders")
    assert LATEST in shop.plan("postgres.restore_test", database="orders")
