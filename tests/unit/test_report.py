"""The report of a restart, from a whole run of the engine in virtual time and from runs that did not go well."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from machines.checklist import DAILY_RESTART, Proof, Run, Seen, checked
from machines.model import InstanceId, StepStatus
from schemas.base import Json
from service.ports import EventKey, LogRow
from service.simulation.virtual import run as in_virtual_time
from service.steps.report import downtime, markdown, run_of
from tests.simulation.story import tell

LIFECYCLE = InstanceId("lifecycle/metrics")
NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def story() -> Any:
    """Restarts of a calm night, on the engine's own rows."""

    async def calm() -> Any:
        # A seed in whose story one restart goes well: what a seed tells changes with the engine.
        told = await tell(9, crashes=0, restarts=3, metrics=150)
        return told, await told.store.history(LIFECYCLE), await told.store.steps(LIFECYCLE)

    return in_virtual_time(calm())


def record(seq: int, kind: str, source: str, to: str, data: dict[str, Json], **more: Any) -> LogRow:
    """One row of a log; the minute is its number."""
    at = NOW + timedelta(minutes=seq)
    text = json.dumps({"snapshot": {"data": data, "entry": seq}, **more})
    return LogRow(
        LIFECYCLE, 1, seq, kind, at, source, to, EventKey("s", f"e{seq}"), "relight.restart.requested", "ana", None,
        None, 1, "c", text, "", "",
    )  # fmt: skip


RESTART: dict[str, Json] = {"id": "r1", "reason": "release | <b>1.4</b>\n# no heading", "requested_by": "ana"}
PAGE_ROWS = (
    record(1, "transition", "operational", "preparing_for_restart.notifying", {"restart": RESTART}, reason="asked"),
    record(2, "refusal", "preparing_for_restart.notifying", "preparing_for_restart.notifying", {"restart": RESTART},
           reasons=["already in progress"]),
    record(3, "transition", "preparing_for_restart.notifying", "preparing_for_restart.preserving",
           {"restart": RESTART, "waivers": {"seal": {"by": "ben", "reason": "disk", "until": NOW.isoformat()}}},
           reason="x"),
    record(4, "transition", "preparing_for_restart.preserving", "preparing_for_restart.resuming",
           {"restart": RESTART, "failure": {"state": "p", "by": "deadline.passed", "reason": None}},
           reason="out of time"),
    record(5, "transition", "preparing_for_restart.resuming", "operational",
           {"last_abort": {**RESTART, "ended_at": "x"}}, reason="resumed"),
    record(6, "transition", "operational", "operational", {"last_abort": RESTART}, reason="configuration changed"),
)  # fmt: skip


def page(run: Run | None, limit: timedelta | None = timedelta(minutes=10)) -> str:
    assert run is not None
    return markdown(run, "metrics", LIFECYCLE, limit, NOW + timedelta(hours=1))


def items(text: str) -> list[tuple[bool, str]]:
    return [(mark == "x", rest) for mark, rest in re.findall(r"^- \[([x ])\] (.*)$", text, re.MULTILINE)]


def test_restart_that_went_well_proves_every_item_that_its_file_has_parts_for(story: Any) -> None:
    _, rows, steps = story
    restarts = [
        json.loads(row.record)["snapshot"]["data"]["last_restart"]["id"] for row in rows
        if row.state_to == "operational" and row.state_from == "starting_up.restoring"
        and "last_restart" in json.loads(row.record)["snapshot"]["data"]
    ]  # fmt: skip
    assert restarts, "the story had no restart that went well"
    text = page(run_of(rows, steps, restarts[0]))
    assert text.startswith("# Restart of metrics: done\n")
    shown = items(text)
    assert len(shown) == 10
    unproven = [words for proven, words in shown if not proven]
    assert [words.split(":")[0] for words in unproven] == ["Execute database backup", "Verify backup integrity"]
    assert all("restart.backup is not set" in words for words in unproven)
    assert "within its limit" in text
    assert re.search(r"^\| seal \| done \| 1 \| .*sha256 [0-9a-f]{64}", text, re.MULTILINE)
    assert re.search(r"^\| check:0 \| done \|.*\| \d[\dms.]* \|$", text, re.MULTILINE), "checks have an age"


def test_each_restart_is_written_to_storage_at_its_end_and_the_lifecycle_remembers_where(story: Any) -> None:
    told, rows, _ = story
    documents = told.world.storage.documents
    ends = [json.loads(row.record)["snapshot"]["data"] for row in rows if row.state_to in ("operational", "degraded")]
    kept = {
        one[key]["id"]: one[key].get("report") for one in ends for key in ("last_restart", "last_abort") if key in one
    }
    assert kept
    for restart, url in kept.items():
        assert url is not None, restart
        assert url.endswith(f"/reports/{restart}.md")
        text = documents[url].decode()
        assert f"restart {restart};" in text
        assert (True, "Document any issues encountered: ✓ proven by this report") in items(text)


def test_newest_restart_is_meant_when_none_is_named_and_an_unknown_one_has_no_report(story: Any) -> None:
    _, rows, steps = story
    newest = run_of(rows, steps)
    assert newest is not None
    assert newest.id == max(
        json.loads(row.record)["snapshot"]["data"]["restart"]["id"] for row in rows
        if "restart" in json.loads(row.record)["snapshot"]["data"]
    )  # fmt: skip
    assert run_of(rows, steps, "20200101T000000-ffffff") is None
    assert run_of((), ()) is None


def test_restart_that_was_given_up_is_newer_than_the_one_that_ended_well_before_it() -> None:
    well = {"last_restart": {**RESTART, "id": "r0"}}
    rows = (
        record(0, "transition", "starting_up.restoring", "operational", well, reason="up"),
        *(record(row.seq, row.kind, row.state_from, row.state_to, well | json.loads(row.record)["snapshot"]["data"])
          for row in PAGE_ROWS),
    )  # fmt: skip
    newest = run_of(rows, ())
    assert newest is not None
    assert newest.id == "r1"


def test_given_up_restart_is_told_to_its_end_and_no_further() -> None:
    run = run_of(PAGE_ROWS, ())
    assert run is not None
    assert [move.to for move in run.moves if not move.refused][-1] == "operational"
    assert len(run.moves) == 5
    text = page(run)
    assert "given up, nothing was stopped" in text
    assert "| Downtime | 2m of 10m: within its limit |" in text
    assert "- seal by ben until 2026-03-01 02:00:00: disk" in text
    assert "refused at 2026-03-01 02:02:00: already in progress" in text
    assert "left its way in p by deadline.passed" in text
    assert not any(proven for proven, words in items(text) if words.startswith("Perform system restart"))


def test_nothing_that_arrived_breaks_out_of_its_cell() -> None:
    text = page(run_of(PAGE_ROWS, ()))
    assert "| Reason | release \\| \\<b>1.4\\</b> # no heading |" in text
    assert "\n# no heading" not in text


def test_downtime_beyond_its_limit_is_said_aloud_and_an_unknown_limit_too() -> None:
    run = run_of(PAGE_ROWS, ())
    assert run is not None
    assert downtime(run, NOW) == timedelta(minutes=2)
    assert "LONGER THAN PROMISED" in page(run, timedelta(minutes=1))
    assert "its limit is not known any more" in page(run, None)


# ---- the checklist


def seen(name: str, state: str, status: StepStatus = StepStatus.DONE, entry: int = 1, **more: Any) -> Seen:
    return Seen(entry, state, name, status, 1, **more)


def proofs(*steps: Seen, **more: Any) -> dict[str, Proof]:
    run = run_of(PAGE_ROWS, ())
    assert run is not None
    return {item.text: proof for item, proof in checked(DAILY_RESTART, replace(run, steps=steps, **more))}


DOWN = [seen(name, "shutting_down") for name in ("stop:a", "stop:b", "confirm_stopped")]


def test_item_needs_every_step_of_its_lines() -> None:
    item = "Perform system restart"
    assert proofs(*DOWN)[item] == Proof(False, "no step start: it was not come to")
    up = seen("start:a", "starting_up.initializing")
    assert proofs(*DOWN, up)[item] == Proof(True, "proven by stop:a, stop:b, confirm_stopped, start:a")
    waived = replace(up, status=StepStatus.WAIVED)
    assert proofs(*DOWN, waived)[item] == Proof(False, "start:a waived")
    failed = replace(up, status=StepStatus.FAILED, error="no such file")
    assert proofs(*DOWN, failed)[item] == Proof(False, "start:a failed: no such file")


def test_retried_state_counts_as_it_went_the_last_time() -> None:
    failed = seen("start:a", "starting_up.initializing", StepStatus.FAILED, entry=5)
    again = seen("start:a", "starting_up.initializing", entry=9)
    assert proofs(*DOWN, failed, again)["Perform system restart"].proven
    assert not proofs(*DOWN, replace(again, entry=4), failed)["Perform system restart"].proven


def test_check_that_was_performed_and_did_not_pass_proves_nothing() -> None:
    item = "Execute post-restart integrity verification protocol"
    compare, check = seen("compare", "starting_up.verifying"), seen("check:0", "starting_up.verifying")
    assert proofs(compare, replace(check, result={"passed": True}))[item].proven
    assert not proofs(compare, replace(check, result={"passed": False}))[item].proven
    before = seen("check:0", "preparing_for_restart.resuming", result={"passed": True})
    assert not proofs(compare, before)[item].proven, "a check of another state is no proof"


def test_notice_that_no_channel_took_is_no_notice() -> None:
    item, at = "Send pre-restart notification", "preparing_for_restart.notifying"
    dead: list[Json] = [{"channel": "env:MAIL", "delivered_at": None, "error": "gone"}]
    assert proofs(seen("tell", at, result={"deliveries": dead}))[item] == Proof(
        False, "tell: none of 1 channels took the message"
    )
    some: Json = [*dead, {"channel": "env:SMS", "delivered_at": NOW.isoformat(), "error": None}]
    assert proofs(seen("tell", at, result={"deliveries": some}))[item].words == "proven by tell, delivered to env:SMS"
    assert not proofs(seen("tell", "preparing_for_restart.resuming"))[item].proven, "that it was given up is another"


def test_going_on_by_a_waiver_is_no_proof_that_all_services_are_operational() -> None:
    item, resumed = "Verify all services operational", seen("resume:a", "starting_up.restoring")
    assert not proofs(resumed)[item].proven
    looked = seen("confirm_running:a", "starting_up.restoring")
    assert proofs(resumed, looked, about={"verified": {"at": NOW.isoformat()}})[item].proven
    assert not proofs(resumed, about={"verified": {"at": NOW.isoformat()}})[item].proven, (
        "nobody looked whether it runs"
    )


def test_seed_has_ten_items() -> None:
    assert len(DAILY_RESTART) == 10
