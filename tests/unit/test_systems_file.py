"""What a person sees who wrote a system's file: everything wrong with it at once, each with file, line and path."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.adapters.systems import load_systems
from service.errors import Misconfigured

GOOD = """\
system: metrics
zone: UTC
allow: {restart: [ana]}
databases:
  trading: {url: "env:METRICS_DB"}
storage: {state: "file:///tmp/state"}
components:
  calculator:
    process: [python, -m, calculator]
    needs: [trading]
    participant: amqp
  reporter:
    process: [python, -m, reporter]
    needs: [calculator]
    participant:
      pause: {signal: USR1}
verify:
  - {sql: trading, query: "select 1", is: 1}
  - {roundtrip: calculator, within: 5s}
  - {equal: [win_rate], to: snapshot}
alerts:
  - {metric: memory, warning: 80, critical: 90}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str, name: str = "system.yaml") -> Path:
        file = tmp_path / name
        file.write_bytes(text.encode())
        return file

    return written


def problems(*paths: Path) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        load_systems(paths)
    base = str(paths[0].parent if paths[0].suffix else paths[0])
    return [line.removeprefix(base).removeprefix("/") for line in caught.value.problems]


def test_good_file_is_read_with_the_folder_it_stands_in(write: Write) -> None:
    file = write(GOOD)
    system = load_systems([file])["metrics"]
    assert system.folder == str(file.parent)
    assert system.start_order() == ("calculator", "reporter")
    assert system.verify[0].model_dump(by_alias=True)["is"] == 1


def test_folder_with_system_yaml_means_that_file_only(write: Write, tmp_path: Path) -> None:
    write(GOOD)
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    assert list(load_systems([tmp_path])) == ["metrics"]


def test_folder_of_several_files_gives_all_their_systems(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(GOOD)
    (tmp_path / "two.yml").write_text(GOOD.replace("system: metrics", "system: trading-agent"))
    assert sorted(load_systems([tmp_path])) == ["metrics", "trading-agent"]


def test_misspelt_reference_names_its_item_and_line(write: Write) -> None:
    file = write(GOOD.replace("needs: [trading]", "needs: [calculator2, tradng]"))
    assert problems(file) == [
        "system.yaml:10: components.calculator.needs.0: 'calculator2' is no component, database or MCP server",
        "system.yaml:10: components.calculator.needs.1: 'tradng' is no component, database or MCP server",
    ]


def test_each_reference_of_the_files_own_checks_has_its_own_line(write: Write) -> None:
    text = GOOD.replace("needs: [calculator]", "needs:\n      - calculator\n      - databse")
    text = text.replace("{sql: trading,", "{sql: traiding,").replace("roundtrip: calculator", "roundtrip: reporter")
    assert problems(write(text)) == [
        "system.yaml:16: components.reporter.needs.1: 'databse' is no component, database or MCP server",
        "system.yaml:20: verify.0.sql: 'traiding' is no database",
        "system.yaml:21: verify.1.roundtrip: 'reporter' does not answer `report`",
    ]


def test_unknown_missing_and_wrong_values_are_all_told_at_once(write: Write) -> None:
    text = GOOD.replace("    process: [python, -m, reporter]\n", "    proces: [python, -m, reporter]\n")
    text = text.replace("zone: UTC", "zone: Mars/Olympus").replace("storage: {state", "storage: {stat")
    text = text.replace("warning: 80", "warning: 95") + "extra: 1\n"
    assert problems(write(text)) == [
        "system.yaml:2: zone: 'Mars/Olympus' is no time zone of the IANA database",
        "system.yaml:6: storage.state: is missing",
        "system.yaml:6: storage.stat: this key is not known",
        "system.yaml:12: components.reporter: a component has a `process` (an argument list) or a `unit` (of systemd); "
        "here is none",
        "system.yaml:13: components.reporter.proces: this key is not known",
        "system.yaml:22: alerts.0: critical must lie above warning",
        "system.yaml:23: extra: this key is not known",
    ]


def test_union_reports_the_branch_that_was_meant(write: Write) -> None:
    text = GOOD.replace('query: "select 1"', 'quary: "select 1"').replace("{signal: USR1}", "{signal: usr1}")
    assert problems(write(text)) == [
        "system.yaml:16: components.reporter.participant.pause.signal: "
        "String should match pattern '^[A-Z0-9+]{2,12}$' (given 'usr1')",
        "system.yaml:18: verify.0.query: is missing",
        "system.yaml:18: verify.0.quary: this key is not known",
    ]


def test_folder_key_is_the_readers_alone(write: Write) -> None:
    assert problems(write(GOOD + "folder: /etc\n")) == ["system.yaml:23: folder: this key is not known"]


def test_duplicate_key_is_refused_with_both_lines(write: Write) -> None:
    assert problems(write(GOOD + "zone: Europe/Berlin\n")) == [
        "system.yaml:23: zone: stands there twice; the first is in line 2"
    ]


def test_dates_times_and_words_stay_what_was_written(write: Write) -> None:
    text = GOOD.replace("is: 1}", "is: 2026-01-01}").replace("restart: [ana]", "restart: [no, 22:30, on]")
    system = load_systems([write(text)])["metrics"]
    assert system.allow.restart == ["no", "22:30", "on"]
    assert system.verify[0].model_dump(by_alias=True)["is"] == "2026-01-01"


def test_syntax_error_names_its_line(write: Write) -> None:
    (line,) = problems(write("system: metrics\ncomponents: {a: [1, 2\nverify: x\n"))
    assert line.startswith("system.yaml:3: the file is not YAML: while parsing a flow")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "system.yaml:1: the file is empty"),
        ("- a\n- b\n", "system.yaml:1: the file is not a mapping of keys"),
        ("a: 1\n---\nb: 2\n", "system.yaml:2: the file is not YAML: expected a single document"),
        ("system: !!python/object/apply:os.system [id]\n", "system.yaml:1: system: the tag !!python/object/apply"),
        ("a: *nowhere\n", "system.yaml:1: the file is not YAML: found undefined alias"),
        ("system: a\x07b\n", "system.yaml:1: the character #x0007 is not allowed in YAML"),
        ("? [a, b]\n: 1\n", "system.yaml:1: a key must be a plain word"),
    ],
)
def test_unreadable_files_say_why(write: Write, content: str, said: str) -> None:
    assert problems(write(content))[0].startswith(said)


def test_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "system.yaml"
    file.write_bytes(b"system: metrics\nzone: \xff\xfe\n")
    assert problems(file) == ["system.yaml:2: the file is not UTF-8: invalid start byte"]


def test_alias_bomb_is_refused_quickly(write: Write) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(f'*{old}' for _ in range(9))}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert problems(write(bomb)) == ["system.yaml:1: it has more than 20000 values after its aliases were followed"]


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 200 + "]" * 200, "a: " + "[" * 50_000])
def test_endless_nesting_is_refused(write: Write, text: str) -> None:
    assert problems(write(text)) == ["system.yaml:1: it is nested deeper than 32 levels"]


def test_huge_file_is_not_parsed(write: Write) -> None:
    assert problems(write("#" * 300_000)) == ["system.yaml: the file has 300000 bytes; at most 262144 are allowed"]


def test_two_files_with_the_same_system_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(GOOD)
    (tmp_path / "two.yaml").write_text("# mine\n" + GOOD)
    assert problems(tmp_path) == [f"two.yaml:2: system: {tmp_path}/one.yaml:1 already describes 'metrics'"]


def test_the_same_file_named_twice_is_one_file(write: Write, tmp_path: Path) -> None:
    assert list(load_systems([write(GOOD), tmp_path])) == ["metrics"]


def test_findings_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(GOOD.replace("zone: UTC", "zone: 5"))
    (tmp_path / "two.yaml").write_text("nothing: true\n")
    found = problems(tmp_path)
    assert found[0] == "one.yaml:2: zone: should be a valid string (given '5')"
    assert "two.yaml:1: system: is missing" in found
    assert "two.yaml:1: nothing: this key is not known" in found


def test_absent_file_and_empty_folder_say_so(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert problems(tmp_path / "absent.yaml", empty) == [
        "absent.yaml: cannot be read: No such file or directory",
        "empty: the folder holds neither system.yaml nor any other *.yaml",
    ]


def test_backup_of_a_system_without_databases_is_refused(write: Write) -> None:
    bare = GOOD.replace('databases:\n  trading: {url: "env:METRICS_DB"}\n', "").replace("    needs: [trading]\n", "")
    bare = bare.replace('  - {sql: trading, query: "select 1", is: 1}\n', "").replace(
        'state"}', 'state", backups: "file:///tmp/b"}'
    )
    file = write(bare + "restart: {backup: {}}\n")
    assert [line.partition(": ")[2] for line in problems(file)] == [
        "restart.backup: there is nothing to back up, because `databases` names none"
    ]
