"""`relight doctor` on real servers and on what is missing: each problem is named with the way to mend it."""

import json
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from yarl import URL

from service.adapters.postgres import diagnose, migrate
from service.adapters.rabbitmq import diagnose as diagnose_broker
from service.cli import main
from service.crash import POINTS
from service.embedded import RabbitServer
from service.embedded.users import BrokerUser, provide_users
from service.errors import Unavailable

Run = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    import os

    for name in [name for name in os.environ if name.startswith("RELIGHT_") and not name.endswith("_BIN")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RELIGHT_USERS", str(tmp_path / "users"))

    def doctor(*words: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "argv", ["relight", "doctor", "--json", *words])
        status = main.run()
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return status, found

    return doctor


def problems(findings: list[dict[str, Any]]) -> dict[str, str]:
    assert all(one["mend"] for one in findings if one["problem"] is not None), "a problem without a way to mend it"
    return {one["what"]: one["problem"] for one in findings if one["problem"] is not None}


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


SYSTEM = """\
system: shop
storage: {{state: "file://{folder}/state"}}
databases:
  orders: {{url: "env:SHOP_DB"}}
mcp:
  research: {{url: "http://127.0.0.1:{port}/mcp"}}
channels: {{warning: ["env:SHOP_MAIL"], critical: ["env:SHOP_CHAT"]}}
components:
  worker: {{process: [python, -m, worker], env: {{KEY: "file:{folder}/key"}}}}
  front: {{process: [no-such-program], cwd: {cwd}}}
verify:
  - {{sql: orders, query: "select 1", is: 1}}
"""


def describe(folder: Path, port: int, cwd: str = ".") -> Path:
    file = folder / "system.yaml"
    file.write_text(SYSTEM.format(folder=folder, port=port, cwd=cwd))
    return file


def test_wrong_settings_are_findings_and_not_the_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_SHARDS", "lots")
    monkeypatch.setenv("RELIGHT_LEESE", "10s")
    status, findings = run()
    assert status == 1
    assert any("RELIGHT_SHARDS" in one["problem"] for one in findings)
    assert any("did you mean RELIGHT_LEASE" in one["problem"] for one in findings)


def test_fresh_folder_with_the_programs_installed_is_well(run: Run) -> None:
    status, findings = run()
    assert (status, problems(findings)) == (0, {})
    assert any("`relight serve` starts them" in one["found"] for one in findings)


def test_missing_programs_are_named_with_their_packages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_RABBITMQ_BIN", "/nowhere")
    status, findings = run()
    assert status == 1
    assert "apt-get install rabbitmq-server" in str(findings)
    assert [one["what"] for one in findings if one["problem"]] == ["RabbitMQ's programs"]


def test_everything_that_a_systems_file_lacks_is_found_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    monkeypatch.setenv("SHOP_MAIL", "nonsense://x")
    status, findings = run("--systems", str(describe(tmp_path, closed_port())))
    assert status == 1
    found = problems(findings)
    assert "SHOP_DB is not set" in found["shop: secret env:SHOP_DB"]
    assert "cannot be read" in found[f"shop: secret file:{tmp_path}/key"]
    assert "SHOP_DB is not set" in found["shop: database orders"]
    assert "no program 'no-such-program'" in found["shop: front: no-such-program"]
    assert "none that Apprise knows" in found["shop: channel warning env:SHOP_MAIL"]
    assert "SHOP_CHAT is not set" in found["shop: channel critical env:SHOP_CHAT"]
    assert "shop: MCP server research" in found
    assert any(what.startswith("shop: storage state") for what in found)
    assert "shop: worker: python" not in found


async def test_system_whose_parts_are_all_there_is_well(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from schemas.system import System
    from service.adapters.systems import load_systems
    from service.cli.doctor_systems import of_system
    from service.settings import Settings

    (tmp_path / "key").write_text("secret")
    monkeypatch.setenv("RELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHOP_DB", postgres_url)
    monkeypatch.setenv("SHOP_MAIL", "mailto://ana:hunter2@example.org")
    monkeypatch.setenv("SHOP_CHAT", "json://127.0.0.1/x")
    system: System = load_systems([describe(tmp_path, 1)])["shop"]
    system = system.model_copy(update={"mcp": {}})
    findings = await of_system(system, Settings.load())
    wrong = [one for one in findings if one.problem is not None]
    assert [one.what for one in wrong] == ["shop: front: no-such-program"]
    assert any(re.match(r"PostgreSQL \d+.* answers", one.found) for one in findings)
    assert list((tmp_path / "state").iterdir()) == [], "the probe was deleted"
    assert "hunter2" not in str(findings)


def test_folder_of_a_component_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    found = problems(run("--systems", str(describe(tmp_path, closed_port(), cwd="elsewhere")))[1])
    assert "elsewhere is not there" in found["shop: front: no-such-program"]


def test_wrong_systems_file_is_a_finding_with_its_line(run: Run, tmp_path: Path) -> None:
    file = describe(tmp_path, 1)
    file.write_text(file.read_text().replace("sql: orders", "sql: ordres"))
    status, findings = run("--systems", str(file))
    assert status == 1
    assert re.search(r"system\.yaml:\d+: verify\.0\.sql: 'ordres' is no database", problems(findings)["system's file"])


async def test_database_that_was_not_migrated_is_told_from_one_that_was(postgres_url: str) -> None:
    found, wrong = await diagnose(postgres_url)
    assert found.startswith("PostgreSQL ")
    assert [mend for _, mend in wrong] == ["run `relight migrate`"]
    await migrate(postgres_url)
    assert (await diagnose(postgres_url))[1] == []


async def test_user_without_rights_is_told_which(postgres_url: str) -> None:
    name = f"weak_{URL(postgres_url).path[-8:]}"
    owner = await asyncpg.connect(postgres_url)
    try:
        await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
        weak = str(URL(postgres_url).with_user(name).with_password("weak"))
        [(what, mend)] = (await diagnose(weak))[1]
        assert "may not create it" in what
        assert mend.startswith("as its owner: GRANT CREATE ON DATABASE")
        await migrate(postgres_url)
        await owner.execute(f"GRANT USAGE ON SCHEMA relight TO {name}")
        what = (await diagnose(weak))[1][0][0]
        assert "may not read and write" in what
        assert "dead_letters" in what
    finally:
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        await owner.close()


async def test_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await diagnose(f"postgresql://relight:x@127.0.0.1:{closed_port()}/relight")
    with pytest.raises(Unavailable):
        await diagnose_broker(f"amqp://relight:x@127.0.0.1:{closed_port()}/")


async def test_broker_is_well_for_its_administrator_and_not_for_a_mere_publisher(
    rabbit_server: RabbitServer, amqp_url: str, tmp_path: Path
) -> None:
    found, wrong = await diagnose_broker(amqp_url)
    assert found.startswith("RabbitMQ ")
    assert wrong == []
    vhost = URL(amqp_url).path.strip("/")
    files = await provide_users(rabbit_server, [BrokerUser("mere-publisher")], tmp_path / "users", vhost=vhost)
    _, wrong = await diagnose_broker(files["mere-publisher"].read_text().strip())
    assert any("a quorum queue cannot be made" in what and "set_permissions" in mend for what, mend in wrong)


def test_crash_points_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["relight", "doctor", "--crash-points"])
    assert main.run() == 0
    out = capsys.readouterr().out
    assert all(name in out and point.where in out for name, point in POINTS.items())
