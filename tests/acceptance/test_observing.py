"""`relight serve --observe` on the real example, with a role that may only read, beside what somebody else runs.

The example was started by a `serve` that has ended since. What is judged is read at the target: pids, files, tables.
"""

import json
import subprocess
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import yaml

from service.embedded import RabbitServer
from tests.acceptance.harness import COMPONENTS, INSTANCE, SYSTEM, House
from tests.acceptance.terminal import stands
from tests.faults.load import Load
from tests.servers import Databases, Vhosts, reachable_directory, unique
from tests.serving import Serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CULPRIT = "night_batch"
WATCHER = "create role watcher login password 'only-looks' in role pg_monitor, pg_read_all_data"


class Observed:
    """The example as it runs, the observing Relight beside it, and a stranger who writes in the trading database."""

    def __init__(self, house: House, relight: Serving, stranger: asyncpg.Connection) -> None:
        self.house, self.relight, self.stranger = house, relight, stranger
        self.home = relight.folder / "home"

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A short command of the observing Relight's."""
        return self.relight.command(*words)

    def outlook(self, step: str) -> tuple[str, str]:
        """(outlook, words) of a step on the newest page; empty before there is one."""
        found = [(one["outlook"], one["words"]) for one in self.page().get("steps", ()) if one["step"] == step]
        return found[0] if found else ("", "")

    def page(self) -> dict[str, Any]:
        file = self.home / "observed" / f"{SYSTEM}.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    async def target(self) -> dict[str, Any]:
        """All that an observer must not change: processes, documents, the shape of the database, who is paused."""
        tables = await self.house.trading(
            "select relname, relkind, relowner from pg_class where relnamespace = 'public'::regnamespace order by 1"
        )
        kept = [self.house.example / "var" / name for name in ("state", "backups", "calculator")]
        files = {str(path): path.stat().st_mtime_ns for root in kept for path in sorted(root.rglob("*"))}
        return {
            "pids": self.house.alive(),
            "lives": [len(self.house.lives(name)) for name in COMPONENTS],
            "tables": [tuple(row) for row in tables],
            "files": files,
            "folders": sorted(path.name for path in (self.house.example / "var").iterdir()),
            "file": self.house.file.stat().st_mtime_ns,
            "paused": (await self.house.counters())["paused"],
        }


@pytest.fixture
async def observed(databases: Databases, vhosts: Vhosts, rabbit_server: RabbitServer) -> AsyncIterator[Observed]:
    names = [unique("observe"), unique("observe")]
    with reachable_directory() as folder:
        for name in ("house", "other"):
            (folder / name).mkdir(mode=0o711)
        house = House(folder / "house", await databases.create_database(names[0]), await vhosts.add_vhost(names[0]))
        relight = Serving(
            folder / "other", await databases.create_database(names[1]), await vhosts.add_vhost(names[1]), SYSTEM
        )
        stranger: asyncpg.Connection | None = None
        try:
            await house.move_in(rabbit_server, names[0])
            await house.start()
            await stands(house, "operational", within=60)
            await house.going_on()  # nobody is seen paused any more
            await house.stop()  # its processes go on
            dsn = (house.example / "var/trading/dsn").read_text().strip()
            stranger = await asyncpg.connect(dsn, server_settings={"application_name": CULPRIT})
            await stranger.execute(
                "create role watcher login password 'only-looks' in role pg_monitor, pg_read_all_data"
            )
            await stranger.execute("begin")
            await stranger.fetchval("select txid_current()")  # it writes
            parts = urlsplit(dsn)
            place = parts.netloc.rpartition("@")[2]
            described = yaml.safe_load(house.file.read_text())
            described["databases"]["trading"]["url"] = "env:WATCHED_TRADING"
            (house.example / "observed.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
            await relight.prepare()
            relight.systems = [house.example / "observed.yaml"]
            relight.options = ("--observe", "--every", "1s")
            watched = urlunsplit(parts._replace(netloc=f"watcher:only-looks@{place}"))
            await relight.start(WATCHED_TRADING=watched, RELIGHT_USERS=str(house.users))
            yield Observed(house, relight, stranger)
        finally:
            await relight.stop()
            if stranger is not None:
                await stranger.close(timeout=10)
            await house.end()
    for name in names:
        await databases.drop_database(name)
        await vhosts.delete_vhost(name)


async def test_everything_is_looked_at_and_asked_for_and_nothing_is_moved(observed: Observed) -> None:
    house, relight = observed.house, observed.relight
    before = await observed.target()
    pids = before["pids"]
    blocker = await observed.stranger.fetchval("select pg_backend_pid()")

    async def blocked() -> bool:
        return observed.outlook("drain:trading")[0] == "would_not"

    await relight.until("the stranger is seen", blocked, 60)
    page = observed.page()
    assert {one["name"]: (one["pid"], one["foreign"]) for one in page["components"]} == {
        name: (pid, True) for name, pid in pids.items()
    }
    assert observed.outlook("drain:trading")[1].startswith(f"pid {blocker} ")
    assert observed.outlook("stop:calculator") == ("would", f"pid {pids['calculator']}, TERM, up to 4s")
    assert observed.outlook("baseline:0")[1].startswith("passes now: True")
    assert observed.outlook("baseline:1")[0] == "unknown", "nobody is asked anything"
    assert observed.outlook("pause:reporter")[0] == "unknown"
    assert "var/backups" in observed.outlook("backup:trading")[1]
    assert observed.outlook("backup:trading")[0] == "would", "a role that may only read can say so"

    done = observed.command("restart", SYSTEM)
    assert done.returncode == 1
    assert "observing only, nothing was moved: if it were operational it would now be preparing_for" in done.stdout
    stranger = Load(relight.amqp_url, SYSTEM, relight.folder / "published.jsonl")
    await stranger.connect()
    try:
        event = await stranger.publish("restart.requested", {"reason": "not allowed"}, INSTANCE)
    finally:
        await stranger.close()

    async def answered() -> bool:
        return event in observed.command("report", INSTANCE).stdout

    await relight.until("the request over AMQP is answered with a page", answered, 40)
    text = observed.command("report", INSTANCE).stdout
    assert f"may not restart {SYSTEM}" in text, "whoever is not allowed is told so"
    assert "`drain:trading`: wait until no transaction is open in trading" in text
    assert f"pid {blocker}" in text

    assert await observed.target() == before
    await house.going_on()
    assert await relight.state() == "unobserved"
    assert await relight.value("select count(*) from relight.steps") == 0
    assert observed.command("history", INSTANCE).returncode == 0
    await observed.stranger.execute("rollback")

    async def free() -> bool:
        return observed.outlook("drain:trading")[0] == "would"

    await relight.until("the stranger is gone", free)
    for secret in ("only-looks", (house.example / "var/trading/dsn").read_text().strip()):
        assert secret not in relight.log.read_text()
        assert secret not in text
