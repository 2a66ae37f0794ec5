"""Which backups stay, on files, on S3 and in memory: the newest tested ones, and all that is not ours."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from schemas.backup import Backup, Contents, Restored
from schemas.base import Json
from tests import storages
from tests.storages import Kept
from tests.unit.steps_world import Shop

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONTENTS = Contents(
    server_version=15, system_identifier="42", encoding="UTF8", database_bytes=1000, roles=[], tables={}
)


endpoint, kept = storages.endpoint, storages.everywhere


class Cellar(Shop):
    """The shop, with backups of its database in a storage. `keep` as in the file."""

    def __init__(self, kept: Kept, keep: Json) -> None:
        backup: Json = {"databases": ["orders"], "keep": keep}
        super().__init__(storage={"state": kept.place, "backups": kept.place}, restart={"backup": backup})
        self.storage, self.place = kept.storage, kept.place
        self.world = replace(self.world, storage=kept.storage)

    async def has(self, day: int, *, system: str = "shop", tested: bool = True, latest: bool = False) -> None:
        """A backup made on that day, complete with its dump."""
        at = NOON + timedelta(days=day)
        made = Backup(
            system=system,
            database="orders",
            made_by="x",
            file=f"{system}{day}.dump",
            bytes=4,
            sha256="0" * 64,
            started_at=at,
            ended_at=at,
            contents=CONTENTS,
            restored=Restored(at=at, server_version=15, seconds=1) if tested else None,
        )
        await self.storage.write(f"{self.place}/orders/{made.file}", b"dump")
        await self.storage.write(f"{self.place}/orders/{system}{day}.manifest.json", made.canonical().encode())
        if latest:
            await self.storage.write(f"{self.place}/orders/latest.json", made.canonical().encode())

    async def names(self) -> set[str]:
        found = await self.storage.list(f"{self.place}/")
        return {one.url.removeprefix(f"{self.place}/") for one in found}

    async def dumps(self) -> list[str]:
        return sorted(name.removeprefix("orders/") for name in await self.names() if name.endswith(".dump"))


async def test_newest_tested_backups_stay_and_older_ones_of_relight_go(kept: Kept) -> None:
    cellar = Cellar(kept, 2)
    for day in (1, 2, 4, 5):
        await cellar.has(day, latest=day == 5)
    await cellar.has(3, tested=False)
    result = await cellar.perform("postgres.prune", database="orders")
    assert (result["kept"], set(result["deleted"])) == (
        ["shop5.dump", "shop4.dump"],
        {f"shop{n}.dump" for n in (1, 2, 3)},
    )  # type: ignore[arg-type]
    assert result["bytes"] == 12
    assert await cellar.names() == {
        f"orders/{name}"
        for name in ("shop4.dump", "shop4.manifest.json", "shop5.dump", "shop5.manifest.json", "latest.json")
    }
    # Done once more it deletes nothing more.
    assert (await cellar.perform("postgres.prune", database="orders"))["deleted"] == []


async def test_what_relight_did_not_make_stays_whatever_its_name_and_age(kept: Kept) -> None:
    cellar = Cellar(kept, 1)
    for day in (1, 2):
        await cellar.has(day, latest=day == 2)
    await cellar.has(0, system="bakery")
    strangers = {"orders/notes.txt", "orders/old.dump", "orders/x.manifest.json", "ordersold/shop0.dump"}
    for name in strangers:
        await cellar.storage.write(f"{cellar.place}/{name}", b"not ours")
    await cellar.perform("postgres.prune", database="orders")
    left = await cellar.names()
    assert strangers < left
    assert "orders/bakery0.dump" in left
    assert "orders/shop1.dump" not in left


async def test_latest_stays_even_when_newer_ones_are_enough(kept: Kept) -> None:
    cellar = Cellar(kept, 1)
    await cellar.has(1, latest=True)
    await cellar.has(2)
    await cellar.perform("postgres.prune", database="orders")
    assert await cellar.dumps() == ["shop1.dump", "shop2.dump"]


async def test_nothing_is_deleted_while_there_are_too_few_tested_ones_or_no_latest(kept: Kept) -> None:
    cellar = Cellar(kept, 2)
    await cellar.has(1, tested=False)
    for day in (2, 3, 4):
        await cellar.has(day)
    # Three are tested, but none was published: whoever took latest.json away may want them all.
    assert (await cellar.perform("postgres.prune", database="orders"))["deleted"] == []
    few = Cellar(kept, 4)
    await few.has(4, latest=True)
    assert (await few.perform("postgres.prune", database="orders"))["deleted"] == []
    assert await cellar.dumps() == [f"shop{day}.dump" for day in (1, 2, 3, 4)]
