"""What the commands print and how they exit, on doubles of the store; wrong usage is told before all else."""

import contextlib
import getpass
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from service.cli import connect, main, words
from service.ports import EventKey, GateView, InstanceView, LogRow, StepKey, StepRow

NOW = datetime.now(UTC)
COMMANDS = (
    "demo", "serve", "doctor", "down", "migrate", "restart", "publish", "watch", "status", "act", "adopt", "approve",
    "bench", "dead",
    "report", "schema", "history", "plan", "verify", "diagram", "simulate",
)  # fmt: skip

SYSTEM = """\
system: metrics
storage: {state: "file:///tmp/state"}
components:
  calculator: {process: [python, -m, calculator], participant: amqp}
  reporter: {process: [python, -m, reporter], needs: [calculator]}
verify:
  - {roundtrip: calculator}
"""


def relight(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error; console lines are not wrapped when nobody looks."""
    monkeypatch.setattr(sys, "argv", ["relight", *words])
    status = main.run()
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name in ("POSTGRES_URL", "AMQP_URL", "HTTP_PORT"):
        monkeypatch.delenv(f"RELIGHT_{name}", raising=False)
    monkeypatch.setenv("RELIGHT_HOME", str(tmp_path / "home"))
    return lambda *words: relight(capsys, monkeypatch, *words)


def step(name: str, status: StepStatus, **more: Any) -> StepRow:
    planned = PlannedStep(
        name, "participant.pause", 0, timedelta(seconds=30), 3, component=name.partition(":")[2] or None
    )
    key = StepKey(InstanceId("lifecycle/metrics"), 7, name)
    return StepRow(key, "metrics", "local", planned, status, "preparing_for_restart.preserving", "c", **more)


VIEW = InstanceView(
    Snapshot(
        instance=InstanceId("lifecycle/metrics"), system="metrics", machine="lifecycle", machine_version=1,
        config_hash="c", epoch=1, seq=12, state="preparing_for_restart.preserving", entry=7, entered_at=NOW,
        deadline_at=NOW + timedelta(minutes=5), data={"restart": {"id": "r1"}}, hash="aa",
    ),
    (
        step("pause:reporter", StepStatus.DONE),
        step("pause:calculator", StepStatus.WAITING, attempt=1),
        step("seal", StepStatus.PLANNED),
    ),
)  # fmt: skip

ROW = LogRow(
    InstanceId("lifecycle/metrics"), 1, 6, "refusal", NOW, "operational", "operational", EventKey("src", "e1"),
    "relight.restart.requested", "eve", None, None, 1, "c", '{"reasons":["eve may not"]}', "aa", "bb",
)  # fmt: skip


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A store with one system that is being prepared for a restart."""

    async def instances(system: str | None = None) -> tuple[InstanceView, ...]:
        return (VIEW,) if system in (None, "metrics") else ()

    async def history(instance: str, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]:
        return (ROW,) if instance == "lifecycle/metrics" and after_seq < 6 else ()

    async def gates(system: str | None = None) -> tuple[GateView, ...]:
        return (GateView("metrics", 12, NOW, NOW + timedelta(minutes=15)),) if system in (None, "metrics") else ()

    double = SimpleNamespace(instances=instances, history=history, gates=gates)

    @asynccontextmanager
    async def opened(_: object) -> AsyncIterator[SimpleNamespace]:
        yield double

    double.opened = opened
    monkeypatch.delenv("RELIGHT_COMMAND", raising=False)
    monkeypatch.setattr("service.cli.connect.store", opened)
    monkeypatch.setattr("service.cli.look.store", opened)
    return double


def test_help_is_quick_and_loads_no_client() -> None:
    code = (
        "import sys; sys.argv = ['relight', '--help']\n"
        "from service.cli.main import run\n"
        "status = run()\n"
        "heavy = {'asyncpg', 'aio_pika', 'aiormq', 'uvicorn', 'pydantic', 'yaml', 'structlog'} & set(sys.modules)\n"
        "assert status == 0 and not heavy, (status, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", done.stdout, re.MULTILINE), command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Any, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"Usage: relight {command}" in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["restart"],
        ["serve"],
        ["serve", "--systems", "/nowhere"],
        ["plan", "holiday"],
        ["status", "--fast"],
        ["act", "lifecycle/metrics", "retry"],
        ["act", "lifecycle/metrics", "panic", "--reason", "x"],
    ],
)
def test_wrong_usage_exits_2(run: Any, words: list[str]) -> None:
    assert run(*words)[0] == 2


@pytest.mark.parametrize("words", [["status"], ["history", "lifecycle/metrics"], ["restart", "metrics"], ["migrate"]])
def test_without_a_running_relight_commands_say_what_to_do(run: Any, words: list[str]) -> None:
    status, _, err = run(*words)
    assert status == 1
    assert "no Relight was found: nothing serves from" in err
    assert "relight serve --systems PATH" in err


def test_wrong_setting_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_SHARDS", "lots")
    status, _, err = run("status")
    assert (status, err) == (
        1,
        "relight: RELIGHT_SHARDS: should be a valid integer, unable to parse string as an integer\n",
    )


def test_wrong_system_file_stops_serve_with_all_findings(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "system.yaml"
    file.write_text(
        SYSTEM.replace("needs: [calculator]", "needs: [calculator, tradng]").replace(
            "roundtrip: calc", "roundtrip: kalk"
        )
    )
    status, _, err = run("serve", "--systems", str(file))
    assert status == 1
    assert err.splitlines() == [
        f"relight: {file}:5: components.reporter.needs.1: 'tradng' is no component, database or MCP server",
        f"{file}:7: verify.0.roundtrip: 'kalkulator' is no component",
    ]
    assert not (tmp_path / "home").exists()


def test_status_shows_steps_and_what_happens_if_nobody_acts(run: Any, store: object) -> None:
    status, out, _ = run("status")
    assert status == 0
    lines = [re.sub(r" {2,}", "  ", line).strip() for line in out.splitlines()]
    assert any(re.match(r"lifecycle/metrics  preparing_for_restart\.preserving  .*  12  1/3$", line) for line in lines)
    said = lines.index("lifecycle/metrics: pause:calculator waits for calculator; if it stays silent: abort and resume")
    waive = 'relight act lifecycle/metrics waive --step pause:calculator --until 24h --reason "WHY"'
    assert lines[said + 1].startswith(waive)
    assert any(
        re.match(r"lifecycle/metrics: if nobody acts: abort and resume at \d\d:\d\d:\d\d", line) for line in lines
    )
    held = r"metrics: 12 operations held since \d\d:\d\d:\d\d; the first expires at \d\d:\d\d:\d\d$"
    assert any(re.match(held, line) for line in lines)


def test_in_a_checkout_the_advised_commands_are_those_of_the_launcher(
    run: Any, store: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELIGHT_COMMAND", "./relight")
    assert re.search(
        r'^ +\./relight act lifecycle/metrics abort --reason "WHY"  +aborted', run("status")[1], re.MULTILINE
    )
    assert "`./relight status` shows all" in run("status", "metrix")[2]


def test_every_command_is_known_to_the_advice() -> None:
    names = {one.name or one.callback.__name__ for one in main.app.registered_commands if one.callback}
    names |= {group.name or "" for group in main.app.registered_groups}
    assert names == set(words.COMMANDS) == set(COMMANDS)


def test_status_for_programs_is_one_document(run: Any, store: object) -> None:
    (view,) = json.loads(run("status", "metrics", "--json")[1])
    assert view["instance"] == "lifecycle/metrics"
    assert view["status"] == "Preparing for Restart"
    assert view["then"] == "abort and resume"
    assert view["gate"]["held"] == 12
    assert [s["status"] for s in view["steps"]] == ["done", "waiting", "planned"]
    assert [(act["act"], act["step"]) for act in view["acts"]] == [("waive", "pause:calculator"), ("abort", None)]
    assert view["acts"][1]["command"] == 'relight act lifecycle/metrics abort --reason "WHY"'
    assert "\x1b" not in json.dumps(view)


def test_unknown_names_are_failures_that_say_what_there_is(run: Any, store: object) -> None:
    assert run("status", "metrix")[0] == 1
    status, _, err = run("history", "lifecycle/metrix")
    assert status == 1
    assert "there are: lifecycle/metrics" in err
    assert "there are alert, lifecycle" in run("diagram", "livecycle")[2]


def test_history_shows_refusals_with_their_reasons(run: Any, store: object) -> None:
    out = run("history", "lifecycle/metrics")[1]
    assert re.search(r"6 .* operational +refused +restart\.requested +eve +eve may not", out)
    assert run("history", "lifecycle/metrics", "--after", "6")[0] == 0


def test_history_for_programs_keeps_record_and_hashes_as_they_are(run: Any, store: object) -> None:
    (line,) = run("history", "lifecycle/metrics", "--json")[1].splitlines()
    row = json.loads(line)
    assert (row["record"], row["previous"], row["hash"]) == (ROW.record, "aa", "bb")
    assert row["event"] == {"source": "src", "id": "e1", "type": "relight.restart.requested"}


def test_plan_prints_the_steps_in_order_without_a_server(run: Any, tmp_path: Path) -> None:
    (tmp_path / "system.yaml").write_text(SYSTEM)
    status, out, _ = run("plan", "restart", "--systems", str(tmp_path / "system.yaml"))
    assert status == 0
    order = [
        out.index(word) for word in ("pause:calculator", "flush:calculator", "point of no return", "stop:reporter")
    ]
    assert order == sorted(order)
    document = json.loads(run("plan", "restart", "metrics", "--systems", str(tmp_path), "--json")[1])
    names = [s["name"] for state in document["states"] for s in state["steps"]]
    assert names.index("stop:reporter") < names.index("stop:calculator")
    assert names.index("start:calculator") < names.index("start:reporter")
    assert all(s["does"] for state in document["states"] for s in state["steps"])


def test_plan_of_an_unknown_system_names_the_known(run: Any, tmp_path: Path) -> None:
    (tmp_path / "system.yaml").write_text(SYSTEM)
    status, _, err = run("plan", "restart", "metrix", "--systems", str(tmp_path))
    assert (status, err) == (1, "relight: no system is called 'metrix'; known: metrics\n")


def test_verify_exits_1_and_names_each_violation(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report = SimpleNamespace(
        machine="lifecycle", version=1, states=11, transitions=40, configurations=1234, violations=()
    )
    monkeypatch.setattr("machines.check.check_all", lambda: (report,))
    assert run("verify")[0] == 0
    bad = SimpleNamespace(**{**vars(report), "violations": ("state limbo cannot be left",)})
    monkeypatch.setattr("machines.check.check_all", lambda: (report, bad))
    status, out, _ = run("verify")
    assert status == 1
    assert "lifecycle: state limbo cannot be left" in out
    assert "1,234" in out


def test_diagram_is_mermaid_and_nothing_else(run: Any) -> None:
    status, out, _ = run("diagram", "lifecycle")
    assert status == 0
    assert out.startswith("stateDiagram-v2\n")
    assert "halted" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["restart.requested", "metrics", "--data", "{}", "--as", "ana"], "data.reason: Field required"),
        (["restart.requested", "metrics", "--data", "[1]", "--as", "ana"], "--data must be a JSON object"),
        (["restart.requested", "metrics", "--data", "{", "--as", "ana"], "--data is not JSON"),
        (["weather.changed", "metrics", "--as", "ana"], "the type 'relight.weather.changed' is not known"),
        (["restart.requested", "metrics", "--data", '{"reason":"x"}'], "say as whom: --as USER"),
        (["restart.requested", "metrics", "--data", '{"reason":"x"}', "--as", "../ana"], "there is no user '../ana'"),
    ],
)
def test_events_that_would_be_refused_are_not_published(run: Any, words: list[str], said: str) -> None:
    status, _, err = run("publish", *words)
    assert status == 1
    assert said in err


def test_restart_at_no_moment_is_refused_before_anything_is_asked_for(run: Any, store: object) -> None:
    status, _, err = run("restart", "metrics", "--due", "tomorrow")
    assert status == 1
    assert "--due 'tomorrow' is no moment" in err


ACTED = "lifecycle/metrics"


@pytest.fixture
def desk(store: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The same store, whose owner answers each signal with the log row that `store.answer` makes of it."""
    store.signals, store.answer = [], {"kind": "transition", "reason": "aborted: look into it"}

    async def signal(signals: list[Any]) -> None:
        store.signals += signals

    async def history(instance: str, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]:
        if not store.signals or store.answer is None:
            return ()
        event = EventKey("relight/cli", json.loads(store.signals[-1].body)["id"])
        about = {"kind": store.answer["kind"], "event": event, "record": json.dumps(store.answer)}
        return (replace(ROW, seq=13, state_to="preparing_for_restart.resuming", **about),)

    store.signal, store.history = signal, history
    monkeypatch.setattr("service.cli.act.store", store.opened)
    monkeypatch.setattr("service.cli.sign.store", store.opened)
    return store


def test_act_is_stored_under_the_local_users_name_and_its_outcome_is_told(run: Any, desk: SimpleNamespace) -> None:
    status, out, _ = run("act", ACTED, "abort", "--reason", "look into it")
    assert (status, out.splitlines()) == (
        0,
        [
            "done: aborted: look into it; lifecycle/metrics is preparing_for_restart.resuming. "
            "See `relight status metrics`"
        ],
    )
    (signal,) = desk.signals
    assert (signal.system, signal.user, signal.local) == ("metrics", getpass.getuser(), True)
    event = json.loads(signal.body)
    assert event["type"] == "relight.operator.acted"
    assert event["data"] == {"instance": ACTED, "act": "abort", "reason": "look into it"}


def test_refused_act_exits_1_with_the_reasons(run: Any, desk: SimpleNamespace) -> None:
    desk.answer = {"kind": "refusal", "reasons": ["seal is planned", "and nothing is stuck"]}
    status, out, _ = run("act", ACTED, "retry", "--step", "seal", "--reason", "x")
    assert (status, out) == (1, "refused: seal is planned; and nothing is stuck\n")
    said = json.loads(run("act", ACTED, "retry", "--step", "seal", "--reason", "x", "--json")[1])
    assert (said["accepted"], said["reasons"]) == (False, ["seal is planned", "and nothing is stuck"])


def test_item_of_the_checklist_is_signed_under_the_local_users_name(run: Any, desk: SimpleNamespace) -> None:
    desk.answer = {"kind": "transition", "reason": "'Document any issues encountered' is signed: INC-1"}
    status, out, _ = run("report", ACTED, "--sign", "10", "--reason", "INC-1", "--restart", "r7")
    assert (status, out) == (0, f"{desk.answer['reason']}. `relight report {ACTED}` shows it\n")
    (signal,) = desk.signals
    assert (signal.system, signal.user, signal.local) == ("metrics", getpass.getuser(), True)
    event = json.loads(signal.body)
    assert event["type"] == "relight.checklist.signed"
    assert event["data"] == {
        "instance": ACTED, "item": "Document any issues encountered", "reason": "INC-1", "restart": "r7",
    }  # fmt: skip
    desk.answer = {"kind": "refusal", "reasons": ["it was signed already, by ben"]}
    status, out, _ = run("report", ACTED, "--sign", "document", "--reason", "INC-1")
    assert (status, out) == (1, "refused: it was signed already, by ben\n")
    assert run("report", ACTED, "--sign", "10")[0] == 2


def test_waiver_lasts_for_a_span_or_until_a_moment(run: Any, desk: SimpleNamespace) -> None:
    waive = ("act", ACTED, "waive", "--step", "seal", "--reason", "x", "--until")
    assert run(*waive, "24h")[0] == 0
    until = datetime.fromisoformat(json.loads(desk.signals[-1].body)["data"]["until"])
    assert timedelta(hours=23) < until - datetime.now(UTC) < timedelta(hours=25)
    assert run(*waive, "2030-03-01T02:00:00+01:00")[0] == 0
    assert json.loads(desk.signals[-1].body)["data"]["until"] == "2030-03-01T02:00:00+01:00"
    count = len(desk.signals)
    status, _, err = run(*waive, "tomorrow")
    assert (status, len(desk.signals)) == (1, count)
    assert "--until 'tomorrow' is neither a span nor a moment" in err


def test_act_on_what_is_not_there_says_what_there_is_and_stores_nothing(run: Any, desk: SimpleNamespace) -> None:
    status, _, err = run("act", "lifecycle/metrix", "abort", "--reason", "x")
    assert status == 1
    assert "there is no instance 'lifecycle/metrix'; there are: lifecycle/metrics. Nothing was done." in err
    assert run("act", "metrics", "abort", "--reason", "x")[0] == 1
    assert desk.signals == []


def test_act_that_nobody_takes_in_says_that_it_is_kept(
    run: Any, desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cli.local_door.TAKEN_IN_WITHIN", timedelta(seconds=0.2))
    desk.answer = None
    status, _, err = run("act", ACTED, "abort", "--reason", "x")
    assert status == 1
    assert "no `relight serve` decides for metrics.\nIt is kept" in err


@pytest.fixture
def no_broker(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses are known, and nobody listens at the broker's."""
    monkeypatch.setenv("RELIGHT_POSTGRES_URL", "postgresql://relight@127.0.0.1:1/relight")
    monkeypatch.setenv("RELIGHT_AMQP_URL", "amqp://guest:guest@127.0.0.1:1/")
    monkeypatch.setattr("service.cli.restart.FOLLOWED_WITHIN", timedelta(seconds=0.3))


@pytest.mark.usefixtures("no_broker")
def test_restart_is_asked_for_while_the_broker_is_away(run: Any, desk: SimpleNamespace) -> None:
    status, out, _ = run("restart", "metrics")
    assert (status, len(desk.signals)) == (0, 1)
    assert "accepted: lifecycle/metrics is preparing_for_restart.resuming" in out


@pytest.mark.usefixtures("no_broker")
def test_restart_that_cannot_be_watched_is_not_asked_for(run: Any, desk: SimpleNamespace) -> None:
    status, _, err = run("restart", "metrics", "--watch")
    assert (status, desk.signals) == (1, [])
    assert "nothing was asked for" in err
    assert "without --watch" in err


@pytest.mark.usefixtures("no_broker")
def test_interrupted_restart_says_whether_it_was_asked_for(
    run: Any, desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []
    topic = connect.status_topic
    monkeypatch.setattr(connect, "status_topic", lambda settings: tried.append(settings) or topic(settings))
    monkeypatch.setattr("service.cli.restart.FOLLOWED_WITHIN", timedelta(seconds=60))
    monkeypatch.setattr("service.cli.local_door.TAKEN_IN_WITHIN", timedelta(seconds=60))
    desk.answer = None
    with interrupted_once(tried):
        status, _, err = run("restart", "metrics", "--watch")
    assert (status, desk.signals) == (1, [])
    assert "nothing was asked for" in err
    with interrupted_once(desk.signals):
        status, _, err = run("restart", "metrics")
    assert (status, len(desk.signals)) == (1, 1)
    assert "the restart goes on. `relight status metrics`" in err


@contextlib.contextmanager
def interrupted_once(filled: Sequence[object]) -> Iterator[None]:
    """Somebody presses Ctrl-C as soon as there is something in `filled`."""
    over = threading.Event()

    def press() -> None:
        while not filled and not over.wait(0.02):
            pass
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    person = threading.Thread(target=press)
    person.start()
    try:
        yield
    finally:
        over.set()
        person.join()
        signal.signal(signal.SIGINT, handler)
