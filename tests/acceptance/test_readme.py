"""README taken at its word: its picture, tables and links hold, its commands and scripts do what it says they do."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from machines.diagram import mermaid
from machines.registry import MACHINES
from schemas.system import System
from service.cli.main import app
from service.embedded import Embedded
from service.embedded.tracing import below
from service.settings import OTHERS, PREFIX
from tests.acceptance.process import environment
from tests.acceptance.readme import README, ROOT, block, blocks, links, named_tests, pages, rows, settings_table
from tests.servers import reachable_directory

HOME = ".relight"
"""Where README's scripts look for what `serve` has made."""


# ---- the page itself


def test_picture_of_the_lifecycle_is_drawn_from_its_table() -> None:
    assert blocks("mermaid") == [mermaid(MACHINES["lifecycle"])], "paste the output of: ./relight diagram lifecycle"


def test_every_setting_stands_in_the_table_in_the_words_of_the_code() -> None:
    assert rows("Configuration") == settings_table(), "the rows should be:\n" + "\n".join(settings_table())


def test_every_variable_and_command_that_is_named_exists() -> None:
    known = {row.split("`")[1] for row in settings_table()} | {f"{PREFIX}{name}" for name in OTHERS}
    assert set(re.findall(r"RELIGHT_[A-Z_]+", README)) - known == {"RELIGHT_PUBLISH_URL"}
    commands = {
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    }
    commands |= {group.name or "" for group in app.registered_groups}
    named = set(re.findall(r"\./relight ([a-z]+)", README))
    assert named - commands - {"test"} == set()
    assert {"demo", "serve", "restart", "publish", "watch", "status", "history", "plan", "verify", "diagram"} <= named


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_to_files_and_named_tests_exist(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []
    missing = [
        f"{file}::{test}"
        for file, test in named_tests(page)
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text("utf-8")
    ]
    assert missing == []


def test_shown_system_file_is_a_part_of_the_real_one_and_valid_by_itself() -> None:
    shown = yaml.safe_load(block("yaml", "system: metrics"))
    System.model_validate(shown)
    real = yaml.safe_load((ROOT / "examples" / "metrics" / "system.yaml").read_text("utf-8"))
    for check in shown["verify"]:
        if "equal" in check:
            check["equal"] = next(
                one["equal"] for one in real["verify"] if set(check["equal"]) <= set(one.get("equal", ()))
            )
    assert extra(shown, real) == []


def extra(shown: Any, real: Any, path: str = "") -> list[str]:
    """Where `shown` says something that `real` does not."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return [line for key, value in shown.items() for line in extra(value, real.get(key), f"{path}.{key}")]
    return [] if shown == real else [f"{path}: {shown!r}, not {real!r}"]


# ---- its commands and scripts, for real


class Newcomer:
    """Somebody in a folder with the example, who does what README says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment(
            folder / HOME,
            RELIGHT_HTTP_PORT="0",
            PYTHONPATH=str(ROOT),
            PATH=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        )
        self.started: list[subprocess.Popen[bytes]] = []

    def begin(self, command: list[str], output: str) -> Path:
        """Starts a terminal of its own; the file with what it prints."""
        file = self.folder / output
        with file.open("wb") as out:
            self.started.append(
                subprocess.Popen(
                    command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                    stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                )
            )  # fmt: skip
        return file

    def run(self, *command: str, timeout: float = 60) -> str:
        """A command to its good end; what it printed."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def script(self, name: str, words: str) -> list[str]:
        """Saves a script as README says; the command that runs it."""
        (self.folder / name).write_text(block("python", words))
        return [sys.executable, name]

    def end(self) -> None:
        """Ctrl-C in every terminal that is still open."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def newcomer() -> Iterator[Newcomer]:
    with reachable_directory() as folder:
        shutil.copytree(
            ROOT / "examples" / "metrics",
            folder / "examples" / "metrics",
            ignore=shutil.ignore_patterns("var", "__pycache__"),
        )
        somebody = Newcomer(folder)
        try:
            yield somebody
        finally:
            somebody.end()
            for pid in below(folder):
                os.kill(pid, signal.SIGKILL)
            asyncio.run(Embedded(folder / HOME / "servers").destroy())


def until(what: str, found: Callable[[], Any], within: float, said: Path) -> Any:
    """What `found` finds. Raises AssertionError with the end of the file `said` when it finds nothing in time."""
    deadline = time.monotonic() + within
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:.0f} s: {what}\n{said.read_text('utf-8', 'replace')[-3000:]}")
        time.sleep(0.2)
    return answer


def heard(output: Path) -> list[tuple[str, dict[str, Any]]]:
    """What watch.py has printed so far: a line with the routing key, a line with the body."""
    lines = output.read_text("utf-8").splitlines()
    return [(key, json.loads(body)) for key, body in zip(lines[::2], lines[1::2], strict=False) if body.endswith("}")]


def shape(value: Any) -> Any:
    """Names and types all the way down, without the values."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value).__name__


OWN = {
    "id",
    "time",
    "at",
    "causationid",
    "correlationid",
    "config_hash",
    "entered_at",
    "dwell_until",
    "deadline_at",
    "due",
}
"""Fields whose values are each reader's own: times, digests, and ids that are made anew."""


def common(value: Any) -> Any:
    """The values that are the same for every reader."""
    if isinstance(value, dict):
        return {key: common(inner) for key, inner in value.items() if key not in OWN | {"requested_at"}}
    return value


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_readme_alone_leads_to_a_restart_from_ones_own_script_and_to_its_message(newcomer: Newcomer) -> None:
    serve = block("sh", "serve --systems").strip()
    said = newcomer.begin(shlex.split(serve.replace("./relight", str(ROOT / "relight"))), "serve.log")
    until("serve serves", lambda: b"Relight serves metrics" in said.read_bytes(), 120, said)
    relight = str(ROOT / "relight")
    until("operational", lambda: "   operational   " in newcomer.run(relight, "status", "metrics"), 90, said)

    watched = newcomer.begin(newcomer.script("watch.py", "queue.bind"), "watch.log")
    restart = newcomer.script("restart.py", "metrics.restart.requested")
    time.sleep(5)  # as a person takes to go to the next terminal; the subscription must stand by then

    published = newcomer.run(*restart).removeprefix("published ").strip()
    key, message = until("its message on the status topic", lambda: heard(watched), 30, said)[0]
    shown = json.loads(block("json", "restart.requested"))
    assert key == block("text", "metrics.lifecycle.").strip()
    assert message["data"]["event"]["id"] == published
    assert shape(message) == shape(shown)
    assert common(message) == common(shown)

    twice = newcomer.run(*restart).removeprefix("published ").strip()
    refusal = until("the second one refused", lambda: first(heard(watched), "metrics.lifecycle._refused"), 30, said)
    assert refusal["data"]["event"]["id"] == twice
    assert "already in progress" in refusal["data"]["reasons"][0]

    last = until("operational again", lambda: first(heard(watched), "metrics.lifecycle.operational"), 90, said)
    assert (last["data"]["from"], last["data"]["status"]) == ("starting_up.restoring", "Operational")
    by = [line for line in newcomer.run(relight, "history", "lifecycle/metrics").splitlines() if " ana " in line]
    assert len(by) == 2

    newcomer.end()
    running = [words for words in below(newcomer.folder / HOME / "processes").values() if "supervisor" in words]
    assert len(running) == 4, "the example goes on running"
    newcomer.run(*shlex.split(block("sh", "./relight down").strip().replace("./relight", relight)))
    until("the example has ended", lambda: not below(newcomer.folder), 30, said)


def first(messages: list[tuple[str, dict[str, Any]]], key: str) -> dict[str, Any] | None:
    return next((body for found, body in messages if found == key), None)
