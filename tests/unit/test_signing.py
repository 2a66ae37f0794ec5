"""Stories of checklists: a person's signature is kept, shown beside what steps show, and moves nothing."""

import re

import pytest

from machines.evidence import record, text
from machines.model import Event
from schemas.base import Closed
from schemas.events import ChecklistSigned, RestartRequested
from service.cli.sign import item
from service.engine.decide import Outcome
from service.engine.reading import Arrived, addresses
from service.engine.settle import settle
from service.errors import RelightError
from service.ports import EventKey, Token
from service.steps.report import markdown, run_of
from tests.unit.test_decide import LIFECYCLE, SEALED, Desk

ISSUES = "Document any issues encountered"
BACKUP = "Execute database backup"


def signed(words: str = ISSUES, restart: str | None = None, reason: str = "see INC-4711") -> Closed:
    return ChecklistSigned(instance=LIFECYCLE, item=words, reason=reason, restart=restart)


def page(desk: Desk, restart: str | None = None) -> str:
    run = run_of(desk.work.batch(0, Token(1), ()).log, (), restart)
    assert run is not None
    return markdown(run, "metrics", LIFECYCLE, None, desk.work.now)


def line(text: str, words: str) -> str:
    found = re.search(rf"^- \[[x ]\] {words}.*$", text, re.MULTILINE)
    assert found is not None
    return found.group()


def restarted(**changes: object) -> Desk:
    desk = Desk(**changes)
    desk.to_preserving()
    desk.finish_state(dict(SEALED))  # type: ignore[arg-type]
    while desk.state != "operational":
        desk.finish_state()
    return desk


def test_signature_is_kept_with_name_and_time_and_shown_for_what_no_step_proves() -> None:
    desk = restarted()
    before = desk.live.snapshot
    assert line(page(desk), BACKUP).startswith("- [ ]")
    assert desk.tell("checklist.signed", signed(BACKUP, reason="dumped by hand to tape 7"), "lead") is Outcome.APPLIED
    after = desk.live.snapshot
    assert (after.state, after.entry, after.seq) == (before.state, before.entry, before.seq + 1)
    assert line(page(desk), BACKUP) == (
        f"- [x] {BACKUP}: ✓ signed by lead at {desk.work.now.isoformat()}: dumped by hand to tape 7 "
        "(no step shows it: no step backup: restart.backup is not set in the system's file)"
    )
    assert "signed" not in line(page(desk), "Perform system restart")


def test_item_is_signed_once_for_each_restart_and_the_pages_of_both_keep_it() -> None:
    desk = restarted()
    first = text(record(desk.live.snapshot.data, "last_restart"), "id")
    assert desk.tell("checklist.signed", signed()) is Outcome.APPLIED
    assert desk.tell("checklist.signed", signed(), "ben") is Outcome.REFUSED
    assert record(record(record(desk.live.snapshot.data, "signatures"), "items"), ISSUES)["by"] == "ana"
    desk.later(3600)
    desk.tell("restart.requested", RestartRequested(reason="once more"))
    desk.finish_state()
    desk.later(11)
    desk.fire("dwell")
    assert desk.tell("checklist.signed", signed(reason="none so far"), "ben") is Outcome.APPLIED
    under_way = text(record(desk.live.snapshot.data, "restart"), "id")
    assert desk.state == "preparing_for_restart.preserving", "its steps go on"
    assert "signed by ben" in line(page(desk, under_way), ISSUES)
    assert "signed by ana" in line(page(desk, first), ISSUES)
    assert desk.tell("checklist.signed", signed(BACKUP, first)) is Outcome.APPLIED, "the last one may still be signed"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (signed("Water the plants"), "is no item of the checklist; its items are: Verify no critical"),
        (signed(restart="r0"), "the restart 'r0' is not remembered any more; its last ones are: "),
    ],
)
def test_what_cannot_be_signed_is_refused_with_what_can(data: Closed, why: str) -> None:
    desk = restarted()
    assert desk.tell("checklist.signed", data) is Outcome.REFUSED
    assert why in desk.work.batch(0, Token(1), ()).log[-1].record
    assert "signatures" not in desk.live.snapshot.data


def test_system_that_was_never_restarted_has_nothing_to_sign() -> None:
    desk = Desk()
    desk.to_operational()
    assert desk.tell("checklist.signed", signed()) is Outcome.REFUSED
    assert "remembers no restart" in desk.work.batch(0, Token(1), ()).log[-1].record


def arrived(desk: Desk, user: str, data: Closed) -> str:
    """As it comes from the broker, which verified the user."""
    event = Event(f"by-{user}", "desk", "checklist.signed", "metrics", data, desk.work.now, user=user)
    meant = addresses(event, desk.work.definitions)
    return settle(desk.work, Arrived(EventKey("desk", event.id), b"", event, None), meant, {}, {})


def test_who_may_act_may_sign_and_nobody_else_and_a_run_that_is_not_there_is_signed_by_nobody() -> None:
    desk = restarted(allow={"act": ["lead"]})
    assert arrived(desk, "eve", signed()) == "refused"
    assert "eve may not act metrics; allow.act names lead" in desk.work.batch(0, Token(1), ()).log[-1].record
    assert arrived(desk, "lead", signed()) == "applied"
    elsewhere = ChecklistSigned(instance="lifecycle/metrics/r9", item=ISSUES, reason="x")
    assert arrived(desk, "lead2", elsewhere) == "dead"


@pytest.mark.parametrize(
    ("words", "found"), [("10", ISSUES), ("document", ISSUES), ("execute DATABASE", BACKUP), (ISSUES, ISSUES)]
)
def test_item_is_named_by_its_number_or_first_words(words: str, found: str) -> None:
    assert item(words) == found


@pytest.mark.parametrize(("words", "said"), [("execute", "3 items begin with"), ("11", "no item"), (" ", "no item")])
def test_item_that_is_none_or_several_is_answered_with_all_of_them(words: str, said: str) -> None:
    with pytest.raises(RelightError, match=f"{said} .*(?s:.*)10  {ISSUES}"):
        item(words)
