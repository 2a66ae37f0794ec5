"""The checks of files, configuration and MCP servers: what passes, and what is said when it does not."""

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from schemas.base import Json
from service.errors import Permanent, Retry
from tests.unit.steps_world import Shop

OLD, NEW = b"rate = 1\n", b"rate = 2\n"
OLD_HASH = "44a1b1a4b0c2b2b1ff3ab7ed7d3af0ec4dd0e5b8cf4b1a8b7a1b8d5f6c1f9f10"


def shop(*checks: Mapping[str, Json], **more: Json) -> Shop:
    """A shop in `/srv/shop` with these checks alone."""
    made = Shop(verify=list(checks), folder="/srv/shop", **more)
    made.memory.files.contents |= {"/srv/shop/shop.toml": OLD, "/srv/shop/var": None, "/data": None}
    return made


async def test_relative_file_is_below_the_folder_of_the_systems_file() -> None:
    desk = shop({"files": "var", "access": "rw"}, {"files": "/data"})
    for index, access in ((0, "rw"), (1, "r")):
        result = await desk.perform("check.run", check=index)
        assert result["value"] == {"access": access, "free": 1 << 40}
        assert result["at"] == desk.time.now().isoformat()


async def test_folder_that_cannot_be_written_passes_to_be_read_only() -> None:
    desk = shop({"files": "/data"}, {"files": "/data", "access": "rw"})
    desk.memory.files.read_only.add("/data")
    assert (await desk.perform("check.run", check=0))["passed"] is True
    with pytest.raises(Permanent, match="/data: Permission denied"):
        await desk.perform("check.run", check=1)


async def test_full_disk_is_tried_again_with_both_numbers() -> None:
    desk = shop({"files": "/data", "free": 1000})
    desk.memory.files.free = 999
    with pytest.raises(Retry, match="files /data: 999 bytes are free there, expected at least 1000"):
        await desk.perform("check.run", check=0)


async def test_first_configuration_passes_and_says_so_and_the_same_one_passes_later() -> None:
    desk = shop({"config": "shop.toml"})
    first = await desk.perform("check.run", check=0)
    assert first["expected"] == "the first one seen"
    desk.data["good"] = {"shop.toml": first["value"]}
    again = await desk.perform("check.run", check=0)
    assert again["value"] == again["expected"] == first["value"]


async def test_changed_configuration_does_not_pass_and_the_way_to_accept_it_is_said() -> None:
    desk = shop({"config": "shop.toml"})
    desk.data["good"] = {"shop.toml": (await desk.perform("check.run", check=0))["value"]}
    desk.memory.files.contents["/srv/shop/shop.toml"] = NEW
    with pytest.raises(Permanent, match=r"when the system was last verified it was .* `adopt` the system"):
        await desk.perform("check.run", check=0)


async def test_fixed_hash_is_compared_whatever_was_good_before() -> None:
    desk = shop({"config": "shop.toml", "sha256": OLD_HASH})
    found = (await shop({"config": "shop.toml"}).perform("check.run", check=0))["value"]
    desk.data["good"] = {"shop.toml": found}
    with pytest.raises(Permanent, match=f"its SHA-256 is {found}, the file says {OLD_HASH}"):
        await desk.perform("check.run", check=0)


MCP: Mapping[str, Json] = {
    "research": {"url": "http://127.0.0.1:1/mcp", "tools": ["search"]},
    "news": {"url": "env:NEWS", "token": "env:TOKEN"},
}


def servers(check: str, **tools: tuple[str, ...]) -> Shop:
    """A shop with two MCP servers, listing these tools; one that is left out is away."""
    desk = shop({"mcp": check}, mcp=dict(MCP))
    desk.memory.secrets.values |= {"env:NEWS": "http://127.0.0.1:2/mcp", "env:TOKEN": "hush"}
    for name, url in (("research", "http://127.0.0.1:1/mcp"), ("news", "http://127.0.0.1:2/mcp")):
        if name in tools:
            desk.memory.mcp.servers[url] = tools[name]
    return desk


async def test_every_server_is_asked_with_its_token_and_more_tools_than_expected_are_fine() -> None:
    desk = servers("all", research=("fetch", "search"), news=("read",))
    result = await desk.perform("check.run", check=0)
    assert result["value"] == {"research": ["fetch", "search"], "news": ["read"]}
    assert result["expected"] == {"research": ["search"], "news": []}
    assert ("http://127.0.0.1:2/mcp", "hush") in desk.memory.mcp.asked
    assert ("http://127.0.0.1:1/mcp", None) in desk.memory.mcp.asked
    assert "hush" not in str(result)


async def test_missing_tool_and_server_that_is_away_are_both_named() -> None:
    with pytest.raises(Retry) as failed:
        await servers("all", research=("fetch",)).perform("check.run", check=0)
    assert "research (http://127.0.0.1:1/mcp): it does not list search, only fetch" in str(failed.value)
    assert "news (env:NEWS): All connection attempts failed" in str(failed.value)


async def test_one_server_can_be_checked_alone() -> None:
    assert (await servers("research", research=("search",)).perform("check.run", check=0))["passed"] is True


async def test_check_of_all_servers_proves_nothing_where_there_are_none() -> None:
    with pytest.raises(Permanent, match="names no MCP server"):
        await shop({"mcp": "all"}).perform("check.run", check=0)


FIRST, BACKUP = "http://127.0.0.1:1/mcp", "http://127.0.0.1:3/mcp"


def with_backup(tools: tuple[str, ...] | None) -> Shop:
    """A shop whose only MCP server is away, and whose backup lists these tools, if it is there at all."""
    desk = shop(
        {"mcp": "all"}, mcp={"research": {"url": FIRST, "backup": BACKUP, "tools": ["search"], "token": "env:T"}}
    )
    desk.memory.secrets.values["env:T"] = "hush"
    if tools is not None:
        desk.memory.mcp.servers[BACKUP] = tools
    return desk


async def test_backup_answers_for_a_server_that_is_away_and_the_evidence_says_so() -> None:
    desk = with_backup(("fetch", "search"))
    result = await desk.perform("check.run", check=0)
    assert (result["passed"], result["value"]) == (True, {"research": ["fetch", "search"]})
    assert result["detail"] == (
        f"research answered at its backup ({BACKUP}), not ({FIRST}): All connection attempts failed"
    )
    assert desk.memory.mcp.asked == [(FIRST, "hush"), (BACKUP, "hush")]


async def test_backup_is_left_alone_while_the_server_itself_answers_whatever_it_says() -> None:
    desk = with_backup(("search",))
    desk.memory.mcp.servers[FIRST] = ("search",)
    assert "detail" not in await desk.perform("check.run", check=0)
    for said in (("fetch",), Permanent("it refused the token (HTTP 401)")):
        desk.memory.mcp.servers[FIRST] = said
        with pytest.raises((Retry, Permanent), match=r"it does not list search|refused the token"):
            await desk.perform("check.run", check=0)
    assert {url for url, _ in desk.memory.mcp.asked} == {FIRST}


async def test_server_and_backup_that_are_both_of_no_use_are_named_with_what_each_said() -> None:
    with pytest.raises(
        Retry, match=r"research \(.*:1/mcp\): All .* failed; nor its backup \(.*:3/mcp\): All .* failed"
    ):
        await with_backup(None).perform("check.run", check=0)
    with pytest.raises(Retry, match=r"nor its backup \(.*:3/mcp\): it does not list search, only fetch"):
        await with_backup(("fetch",)).perform("check.run", check=0)


def test_password_in_a_backups_url_is_refused_as_in_the_first_and_its_reference_is_known() -> None:
    with pytest.raises(ValidationError, match="a user or password must not stand in the file"):
        shop({"mcp": "all"}, mcp={"research": {"url": FIRST, "backup": "http://me:hush@127.0.0.1/mcp"}})
    desk = shop({"mcp": "all"}, mcp={"research": {"url": FIRST, "backup": "env:BACKUP"}})
    assert "env:BACKUP" in desk.system.secret_references()
