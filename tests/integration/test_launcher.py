"""The launcher, with its surroundings faked: what it hands over, repairs, and says when it may not install."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import reachable_directory

CHECKOUT = Path(__file__).parents[2]
BARE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SERVERS_ELSEWHERE = {
    "RELIGHT_POSTGRES_URL": "postgresql://ana:secret@127.0.0.1:1/x",
    "RELIGHT_AMQP_URL": "amqp://ana:secret@127.0.0.1:1/",
}

FAKE_PYTHON = """#!/bin/bash
# Stands in for Python: makes "environments", "installs", and says how it was called.
case "$*" in
"-c "*) exit 0 ;;
"-m venv "*)
    mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"
    cp "$0" "$3/bin/python"
    ;;
"-m pip "*)
    echo "$*" >>"$FAKE_LOG"
    sleep 0.3
    [ ! -e "$FAKE_LOG.fail" ] || { echo 'no matching distribution'; exit 1; }
    ;;
*) printf 'called in %s: %s\\n' "$PWD" "$*" ;;
esac
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A checkout with nothing but the launcher and its lock, below a directory with a blank in its name."""
    with reachable_directory() as directory:
        place = directory / "a checkout"
        place.mkdir()
        place.chmod(0o777)
        for name in ("relight", "requirements.lock", "compose.yaml"):
            shutil.copy(CHECKOUT / name, place / name)
        fake = directory / "python"
        fake.write_text(FAKE_PYTHON)
        fake.chmod(0o755)
        yield place


def environment(place: Path, **more: str) -> dict[str, str]:
    parent = place.parent
    return {"PATH": BARE, "RELIGHT_PYTHON": str(parent / "python"), "FAKE_LOG": str(parent / "installed"), **more}


def launch(place: Path, *arguments: str, ordinary: bool = False, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run it without a terminal; as an ordinary user if wanted, whoever we are."""
    return subprocess.run(
        [place / "relight", *arguments],
        env=environment(place, **more),
        user="nobody" if ordinary and os.geteuid() == 0 else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def installations(place: Path) -> int:
    log = place.parent / "installed"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_it_is_bash_without_mistakes() -> None:
    for script in ("relight", ".ci/run"):
        subprocess.run(["bash", "-n", CHECKOUT / script], check=True)


def test_without_a_command_it_says_how_it_is_used_and_installs_nothing(place: Path) -> None:
    done = launch(place)
    assert done.returncode == 2
    assert "./relight <command>" in done.stdout
    assert launch(place, "--help").returncode == 0
    assert not (place / ".relight").exists()


def test_without_root_and_without_servers_it_says_exactly_what_to_do(place: Path) -> None:
    missing = {"RELIGHT_POSTGRES_BIN": "/nonexistent", "RELIGHT_RABBITMQ_BIN": "/nonexistent"}
    done = launch(place, "demo", ordinary=True, **missing)
    assert done.returncode == 2
    assert "sudo apt-get install --no-install-recommends postgresql rabbitmq-server" in done.stderr
    assert f"docker compose -f {place}/compose.yaml up" in done.stderr
    assert "export RELIGHT_AMQP_URL=amqp://" in done.stderr
    assert not (place / ".relight").exists()


def test_only_what_is_missing_is_named(place: Path) -> None:
    postgres_elsewhere = SERVERS_ELSEWHERE["RELIGHT_POSTGRES_URL"]
    done = launch(
        place,
        "serve",
        ordinary=True,
        RELIGHT_POSTGRES_URL=postgres_elsewhere,
        RELIGHT_RABBITMQ_BIN="/nonexistent",
    )
    assert done.returncode == 2
    assert "not installed on this machine: rabbitmq-server." in done.stderr


def test_with_servers_elsewhere_none_are_needed(place: Path) -> None:
    missing = {"RELIGHT_POSTGRES_BIN": "/nonexistent", "RELIGHT_RABBITMQ_BIN": "/nonexistent"}
    done = launch(place, "serve", "--systems", "a b", ordinary=True, **SERVERS_ELSEWHERE, **missing)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "called in /: -P -m service.cli serve --systems a b\n"


def test_test_runs_pytest_in_the_checkout(place: Path) -> None:
    done = launch(place, "test", "-k", "a or b", **SERVERS_ELSEWHERE)
    assert done.stdout == f"called in {place}: -m pytest -k a or b\n"


@pytest.mark.parametrize(
    ("arguments", "handed"),
    [
        ([], "-n 4 --dist loadfile --no-loadscope-reorder"),
        (["--faults"], "-n 3 --dist loadfile --no-loadscope-reorder --faults"),
        (["--long", "-x"], "-n 3 --dist loadfile --no-loadscope-reorder --long -x"),
        (["--faults", "-n0"], "--faults -n0"),
        (["tests/unit"], "tests/unit"),
    ],
)
def test_great_runs_and_whole_runs_use_several_workers(place: Path, arguments: list[str], handed: str) -> None:
    done = launch(place, "test", *arguments, **SERVERS_ELSEWHERE)
    assert done.stdout == f"called in {place}: -m pytest {handed}\n"


def test_a_second_run_installs_nothing_and_a_new_lock_does(place: Path) -> None:
    for _ in range(2):
        assert launch(place, "status").returncode == 0
    assert installations(place) == 1
    assert "--require-hashes" in (place.parent / "installed").read_text()
    with (place / "requirements.lock").open("a") as file:
        file.write("# changed\n")
    launch(place, "status")
    assert installations(place) == 2


def test_an_interrupted_installation_is_repaired(place: Path) -> None:
    half = place / ".relight" / "venv" / "bin"
    half.mkdir(parents=True)
    (half / "python").write_text("#!/bin/false\n")
    (half / "python").chmod(0o755)
    done = launch(place, "status")
    assert "called in" in done.stdout
    assert installations(place) == 1
    digest = hashlib.sha256((place / "requirements.lock").read_bytes()).hexdigest()
    assert (place / ".relight" / "venv" / ".complete").read_text() == f"{digest} {place}"


def test_a_failed_installation_shows_why_and_the_next_run_goes_on(place: Path) -> None:
    obstacle = place.parent / "installed.fail"
    obstacle.touch()
    done = launch(place, "status")
    assert done.returncode == 1
    assert "no matching distribution" in done.stderr
    assert "run the same command again" in done.stderr
    obstacle.unlink()
    assert launch(place, "status").returncode == 0


def test_two_at_once_install_once(place: Path) -> None:
    both = [
        subprocess.Popen([place / "relight", "status"], env=environment(place), stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert installations(place) == 1


def test_signals_reach_the_command(place: Path) -> None:
    launch(place, "status")
    python = place / ".relight" / "venv" / "bin" / "python"
    python.write_text("#!/bin/bash\necho ready\nexec sleep 60\n")
    process = subprocess.Popen([place / "relight", "serve"], env=environment(place, **SERVERS_ELSEWHERE), stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    began = time.monotonic()
    process.terminate()
    assert process.wait(timeout=10) == -15
    assert time.monotonic() - began < 5


def test_the_lock_names_no_place_and_every_package_has_its_hash() -> None:
    lines = (CHECKOUT / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-") or "/" in line.split(" # ")[0][:1]]
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#")):
            assert "==" in line
            assert lines[number + 1].strip().startswith("--hash=sha256:"), line
