"""The container's parts, tried without a container: its first process, its image's recipe, and the compose file."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.adapters.systems import load_systems
from service.embedded.ports import free_port
from tests.serving import ROOT, Serving

ENTRYPOINT = ROOT / "deploy" / "entrypoint"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
URLS = {"RELIGHT_POSTGRES_URL": "postgresql://x@y/z", "RELIGHT_AMQP_URL": "amqp://x@y"}

PYTHON = """#!/bin/sh
# Stands in for Python: writes down its pid and arguments; `migrate` fails as often as the file `fails` has lines.
echo "$$ $*" >>"$PLACE/called"
case "$*" in
*migrate) [ -s "$PLACE/fails" ] || exit 0; sed -i 1d "$PLACE/fails"; echo 'PostgreSQL is away' >&2; exit 1 ;;
*hangs*) exec sleep 60 ;;
esac
exit 7
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a Python that only writes down how it was called, and a `sleep` that does not."""
    for name, text in (("python", PYTHON), ("sleep", "#!/bin/sh\nexec /bin/sleep 0.05\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "systems").mkdir()
    return tmp_path


def start(place: Path, *words: str, **more: str) -> "subprocess.Popen[str]":
    environment = {"PATH": f"{place}:/usr/bin:/bin", "PLACE": str(place), **more}
    return subprocess.Popen(
        [ENTRYPOINT, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def called(place: Path) -> list[str]:
    file = place / "called"
    return [line.split(" ", 1)[1].removeprefix("-P -m service.cli ") for line in file.read_text().splitlines()]


def test_tables_come_first_and_then_the_script_becomes_the_service(place: Path) -> None:
    done = start(place, "serve", str(place / "systems"), str(place), **URLS)
    assert done.wait(10) == 7
    assert called(place) == ["migrate", f"serve --systems {place / 'systems'} --systems {place}"]
    served = (place / "called").read_text().splitlines()[1]
    assert int(served.split(" ")[0]) == done.pid


def test_database_that_is_just_starting_is_waited_for_and_one_that_never_comes_is_said(place: Path) -> None:
    (place / "fails").write_text("once\ntwice\n")
    assert start(place, "serve", str(place), **URLS).wait(10) == 7
    assert called(place).count("migrate") == 3
    (place / "called").unlink()
    (place / "fails").write_text("again\n" * 100)
    done = start(place, "serve", str(place), **URLS)
    _, said = done.communicate(timeout=30)
    assert done.returncode == 1
    assert called(place) == ["migrate"] * 30
    assert "The service was not started" in said


def test_missing_url_and_missing_systems_are_wrong_usage_in_words(place: Path) -> None:
    for environment, words in ({}, "RELIGHT_POSTGRES_URL is not set"), (URLS, "/nowhere is not there"):
        done = start(place, "serve", "/nowhere", **environment)
        _, said = done.communicate(timeout=10)
        assert done.returncode == 2
        assert words in said


def test_every_other_command_is_handed_on_as_it_is(place: Path) -> None:
    assert start(place, "publish", "a b", "--data", '{"x": "$HOME"}').wait(10) == 7
    assert called(place) == ['publish a b --data {"x": "$HOME"}']


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_wait_for_the_database_at_once(place: Path, number: signal.Signals) -> None:
    (place / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (place / "fails").write_text("again\n")
    process = start(place, "serve", str(place), **URLS)
    deadline = time.monotonic() + 10
    while not (place / "called").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(30) == 128 + number


async def test_real_service_behind_it_serves_and_ends_on_term(postgres_url: str, amqp_url: str, tmp_path: Path) -> None:
    serving = Serving(tmp_path, postgres_url, amqp_url, "hello")
    system = (ROOT / "deploy" / "systems" / "hello.yaml").read_text()
    serving.systems[0].write_text(system.replace("s3://relight/state", f"file://{tmp_path}/state"))
    port = free_port()
    environment = serving.environment(
        HELLO_DB=postgres_url, PATH=f"{ROOT / '.relight' / 'venv' / 'bin'}:{os.environ['PATH']}", PYTHONPATH=str(ROOT),
        RELIGHT_HTTP_PORT=str(port),
    )  # fmt: skip
    serving.health = f"http://127.0.0.1:{port}"
    with serving.log.open("ab") as log:
        serving.process = await asyncio.create_subprocess_exec(
            ENTRYPOINT, "serve", str(serving.systems[0]), env=environment, stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        await serving.until("ready", serving.ready, 40)

        async def operational() -> bool:
            return await serving.state() == "operational"

        await serving.until("operational", operational, 40)
        serving.process.terminate()
        assert await asyncio.wait_for(serving.process.wait(), 20) == 0
    finally:
        await serving.stop()
        down = await asyncio.create_subprocess_exec(
            ENTRYPOINT, "down", "hello", env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        assert await asyncio.wait_for(down.wait(), 30) == 0


# ---- the image and the compose file


def instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE))
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        yield word, rest


def test_image_runs_as_an_ordinary_user_and_its_first_process_is_the_entry_script() -> None:
    last = dict(instructions())
    assert int(last["USER"].split(":")[0]) >= 1000
    assert last["ENTRYPOINT"] == '["/srv/relight/app/deploy/entrypoint"]'
    assert os.access(ENTRYPOINT, os.X_OK)
    words = [word for word, _ in instructions()]
    assert words.index("USER") > max(number for number, word in enumerate(words) if word in ("RUN", "COPY"))


def test_everything_the_image_copies_is_here_and_reaches_the_build() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {rest.split(" ")[0] for word, rest in instructions() if word == "COPY" and "--from" not in rest}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    imported = re.findall(r"^root_packages = (.*)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(re.findall(r'"(\w+)"', imported[0])) - {"relight_client"} == copied & {"service", "machines", "schemas"}


def test_image_has_the_python_that_its_path_file_names() -> None:
    (version,) = set(re.findall(r"FROM python:(\d+\.\d+)", DOCKERFILE))
    assert f"lib/python{version}/site-packages/relight.pth" in DOCKERFILE


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_service_is_watched_pinned_and_reached_from_this_machine_alone(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "build" in service or re.fullmatch(r"[a-z/]+:v?\d[\w.-]*", service["image"])
    for other, condition in service.get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in COMPOSE["services"][other]
    named = {volume.split(":")[0] for volume in service["volumes"] if volume[0].isalpha()}
    assert named <= set(COMPOSE["volumes"])


def test_no_password_stands_in_the_compose_file_but_the_one_everybody_knows() -> None:
    for service in COMPOSE["services"].values():
        for key, value in service["environment"].items():
            if re.search("PASS|SECRET|KEY|URL|_DB$|API", key) and key not in ("POSTGRES_DB", "AWS_ENDPOINT_URL"):
                assert re.search(r"\$\{(RELIGHT_PASSWORD|S3_\w+):-relight(-secret)?\}", value), key
    example = (ROOT / "deploy" / "example.env").read_text()
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    assert used == set(re.findall(r"^(?:# )?(\w+)=", example, re.MULTILINE))
    assert subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False).returncode in (0, 128)


def test_two_servers_alone_are_the_default_as_the_launcher_says() -> None:
    assert {name for name, service in COMPOSE["services"].items() if "profiles" not in service} == {
        "postgres",
        "rabbitmq",
    }


def test_systems_that_come_with_it_are_valid_and_find_their_secrets_and_bucket() -> None:
    systems = load_systems([ROOT / "deploy" / "systems"])
    relight = COMPOSE["services"]["relight"]
    for system in systems.values():
        assert {database.url.removeprefix("env:") for database in system.databases.values()} <= set(
            relight["environment"]
        )
        bucket = system.storage.state.removeprefix("s3://").split("/")[0]
        assert f"s3:/data/{bucket}" in COMPOSE["services"]["s3"]["volumes"]
