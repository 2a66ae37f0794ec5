"""What `relight adopt` makes of what it finds: names, needs, masked secrets, and a file that the loader accepts."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from schemas.system import System
from service.adapters.host import Peer
from service.adapters.processes.systemd import Systemd
from service.adapters.systems import load_systems
from service.cli.adopt_found import (
    Found,
    FoundComponent,
    FoundDatabase,
    FoundMcp,
    FoundUnit,
    Names,
    called,
    circles,
    needs,
    slug,
)
from service.cli.adopt_text import Draft, draft
from service.cli.masking import bare, holds_secret, masked
from service.errors import Permanent
from tests.unit.steps_world import Shop

CANARY = "hunter2-Zx9"


def component(name: str, pid: int, *peers: Peer, ports: tuple[int, ...] = ()) -> FoundComponent:
    return FoundComponent(
        name=name, pid=pid, command=("python", "-m", name), folder="/srv/books", user="ana", ports=ports,
        variables=("BOOKS_KEY",), found_by=f"--process {pid}", peers=peers, pids=(pid,),
    )  # fmt: skip


ORDERS = FoundDatabase(
    name="orders", database="orders", reference="env:BOOKS_ORDERS_DB", given=False, place="db1:5432",
    identifier="7710700972076774755", bytes=1_500_000_000, version="15.4", sessions=("books (ledger)",),
    clients=((40001, 5432),),
)  # fmt: skip
OWN = replace(ORDERS, name="relight", database="relight", left_out="it holds Relight's own tables", clients=())
RESEARCH = FoundMcp(
    "research", "https://mcp.example/mcp", "https://mcp.example/mcp", ("search",), None, (("10.0.0.9", 443),)
)
FOUND = Found(
    databases=(ORDERS, OWN),
    mcp=(RESEARCH,),
    components=(
        component("desk", 12, Peer(40002, "127.0.0.1", 8080), Peer(40003, "10.0.0.9", 443)),
        component("ledger", 11, Peer(40001, "10.0.0.5", 5432), ports=(8080,)),
        replace(
            component("odd", 13),
            command=("odd", "--password", CANARY, f"--dsn=postgresql://u:{CANARY}@h/x"),
            reason="its command line seems to hold a secret",
        ),
    ),
    units=(FoundUnit("metrics.service", "Metrics (failed)", 0, reason="it is failed"),),
    problems=("--unit x: this host has no systemctl",),
)


def written(found: Found, folder: Path) -> tuple[System, Draft]:
    made = draft("books", found, "host1", "today")
    (folder / "books.yaml").write_text(made.text)
    return load_systems([folder / "books.yaml"])["books"], made


def test_file_is_valid_and_says_what_was_found(tmp_path: Path) -> None:
    system, made = written(FOUND, tmp_path)
    assert system.identity == {"orders": "7710700972076774755"}
    assert system.databases["orders"].url == "env:BOOKS_ORDERS_DB"
    assert system.mcp["research"].tools == ["search"]
    assert system.start_order() == ("ledger", "desk")
    assert system.components["ledger"].needs == ["orders"]
    assert system.components["desk"].needs == ["ledger", "research"]
    assert [check.title for check in system.verify] == ["sql orders", "files /srv/books", "mcp all"]
    assert made.variables == (("BOOKS_ORDERS_DB", "db1:5432"),)
    assert "1.5 GB" in made.text
    assert "# left out: relight on db1:5432: it holds Relight's own tables" in made.text
    assert "# left out: metrics.service" in made.text
    assert CANARY not in made.text
    assert any("no systemctl" in line for line in made.decide)
    assert any("starts no second copy" in line for line in made.decide)


def test_units_become_components_that_need_what_their_files_say(tmp_path: Path) -> None:
    unit = replace(component("report", 21), command=("report", "--password", CANARY), unit="metrics-report.service")
    report = replace(unit, unit_needs=(("calculator.service", "Requires"), ("postgresql.service", "After")))
    calculator = replace(
        component("calculator", 22, Peer(40001, "10.0.0.5", 5432)), unit="calculator.service",
        unit_needs=(("metrics-report.service", "After"),),
    )  # fmt: skip
    about = FoundUnit("metrics-report.service", "Reports\n  evil: {process: [x]} (active)", 21)
    system, made = written(replace(FOUND, components=(*FOUND.components, report, calculator), units=(about,)), tmp_path)
    found = system.components["report"]
    assert (found.service, found.process, found.needs) == ("metrics-report.service", None, ["calculator"])
    assert system.components["calculator"].needs == ["orders"]
    assert "# calculator: metrics-report.service says Requires=calculator.service" in made.text
    assert "calculator is also connected to report (calculator.service says After=" in made.text
    assert CANARY not in made.text
    assert any("metrics-report.service, calculator.service: whether the user" in line for line in made.decide)


def test_what_stands_in_a_comment_cannot_become_part_of_the_file(tmp_path: Path) -> None:
    evil = "x\n  sly: {process: [rm]}\u2028b\x85c\x0bd"
    one = replace(component("ledger", 11), user=evil, found_by=evil, folder='/srv/"\\\n# x', variables=(evil,))
    found = Found((replace(ORDERS, sessions=(evil,), place=evil),), (), (one,), (FoundUnit(evil, evil, 0),), (evil,))
    system, _ = written(found, tmp_path)
    assert list(system.components) == ["ledger"]
    assert system.components["ledger"].cwd == '/srv/"\\\n# x'


def test_two_that_are_connected_to_each_other_make_no_circle(tmp_path: Path) -> None:
    one = component("one", 1, Peer(5, "127.0.0.1", 8002), ports=(8001,))
    two = component("two", 2, Peer(6, "127.0.0.1", 8001), ports=(8002,))
    found = Found(components=(one, two))
    assert {name: [need.name for need in some] for name, some in needs(found).items()} == {"one": ["two"], "two": []}
    assert circles(found)[0].startswith("two is also connected to one")
    written(found, tmp_path)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python3.11", "-m", "metrics.calculator"], "calculator"),
        (["/usr/bin/python", "-u", "/opt/Job Runner.py", "--x"], "Job Runner"),
        (["python", "-c", "print()"], "python"),
        (["java", "-Xmx1g", "-jar", "/opt/shop-1.2.jar"], "shop-1.2"),
        (["/usr/sbin/nginx", "-g", "daemon off;"], "nginx"),
    ],
)
def test_process_is_called_what_a_person_would_call_it(command: list[str], name: str) -> None:
    assert called(command) == name


def test_names_are_valid_and_each_is_given_once() -> None:
    names = Names()
    assert [names.take(one) for one in ("Job Runner", "job-runner", "9lives", "…", "x" * 90)] == [
        "job-runner", "job-runner-2", "c-9lives", "c", "x" * 40,
    ]  # fmt: skip
    assert slug("a_b-") == "a_b"


@pytest.mark.parametrize(
    "words",
    [
        ["--password", CANARY], [f"--db-password={CANARY}"], [f"API_KEY={CANARY}"], [f"amqp://u:{CANARY}@h/"],
        [f"https://h/x?token={CANARY}&y=1"], [f"postgresql://{CANARY}@h/d"], ["--auth-token", CANARY], [f"-p{CANARY}"],
        ["abcdef0123456789abcdef0123456789"],
    ],
)  # fmt: skip
def test_secret_in_a_command_line_is_masked(words: list[str]) -> None:
    assert holds_secret(words)
    assert CANARY not in " ".join(masked(words))


@pytest.mark.parametrize(
    "words",
    [["python", "-m", "worker"], ["--port", "8080"], ["https://h/x?y=1"], ["-p8080"], ["--passive"], ["-p", "x"]],
)
def test_ordinary_arguments_stay(words: list[str]) -> None:
    assert masked(words) == tuple(words)
    assert bare("https://u:p@h:1/x?token=t#f") == "https://h:1/x"


# ---- units, through a program called systemctl

LISTED = ("systemctl", "list-units", "--type=service", "--all", "--output=json", "--no-pager", "--", "books-*.service")
SHOWN = (
    "systemctl", "show",
    "--property=Id,Description,ActiveState,MainPID,FragmentPath,WorkingDirectory,User,ControlGroup,"
    "Requires,Requisite,BindsTo,Wants,After",
    "--no-pager", "--", "books-desk.service", "books-ledger.service",
)  # fmt: skip


async def test_units_are_asked_for_by_argument_list_and_read() -> None:
    programs = Shop().memory.programs
    programs.scripts[LISTED] = (0, '[{"unit": "books-ledger.service"}, {"unit": "books-desk.service"}]', "")
    programs.scripts[SHOWN] = (
        0,
        "Id=books-desk.service\nDescription=The desk = a=b\nActiveState=active\nMainPID=12\nFragmentPath=/etc/x\n"
        "Requires=system.slice books-ledger.service\nAfter=books-ledger.service basic.target\n\n"
        "Id=books-ledger.service\nActiveState=failed\nMainPID=0\n",
        "",
    )
    desk, ledger = await Systemd(programs).units(["books-*"])
    assert (desk.name, desk.description, desk.main_pid, desk.needs) == (
        "books-desk.service", "The desk = a=b", 12, (("books-ledger.service", "Requires"),),
    )  # fmt: skip
    assert (ledger.active, ledger.main_pid, ledger.user) == ("failed", 0, "")


async def test_systemd_that_refuses_is_an_answer() -> None:
    programs = Shop().memory.programs
    programs.scripts[LISTED] = (1, "", "System has not been booted with systemd")
    with pytest.raises(Permanent, match="not been booted with systemd"):
        await Systemd(programs).units(["books-*"])
    programs.scripts[LISTED] = (0, "UNIT LOAD ACTIVE", "")
    with pytest.raises(Permanent, match="did not answer in JSON"):
        await Systemd(programs).units(["books-*"])


def test_draft_is_the_same_for_yaml_readers(tmp_path: Path) -> None:
    _, made = written(FOUND, tmp_path)
    assert yaml.safe_load(made.text)["components"]["ledger"]["process"] == ["python", "-m", "ledger"]
