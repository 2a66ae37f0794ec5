"""A real systemd of the tests' own: its user manager in a mount namespace and a control group of its own, with units
from a folder. Its pids are those of everybody: what looks into /proc sees the same processes. Nothing is mocked here.

The host need not be booted with systemd; it must let us make namespaces and control groups (root, no locked container).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from service.adapters.programs import LocalPrograms

MANAGER = next((one for one in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(one).exists()), None)
WITHIN = 40.0
"""Seconds in which the manager must answer (normally 0.2)."""
BEGIN = """\
set -e
for group in $GROUPS_; do mkdir -p "$group"; echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/system
exec env -i PATH="$PATH" HOME="$HOME_" XDG_RUNTIME_DIR="$HOME_/run" SYSTEMD_UNIT_PATH="$HOME_/units" \
  SYSTEMD_LOG_TARGET=console "$MANAGER" --user --unit=default.target
"""
TARGETS = ("default", "basic", "shutdown", "exit")


class OwnSystemd:
    """One manager. `unit` writes a unit; `programs` runs `systemctl` against this manager; `path` is a folder whose
    `systemctl` does the same, for a Relight that is a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "bin"
        self._process: subprocess.Popen[bytes] | None = None
        self._groups = tuple(f"{group}/relight-tests-{os.getpid()}-{home.name}" for group in _own_groups())

    @property
    def programs(self) -> "OwnPrograms":
        return OwnPrograms(self.path)

    def begin(self) -> str | None:
        """Why it cannot be had here; None once it answers."""
        if MANAGER is None or shutil.which("unshare") is None or shutil.which("systemctl") is None:
            return "systemd, systemctl or unshare is not installed"
        if os.geteuid() != 0:
            return "only root may make its namespace and control group"
        if not Path("/run/systemd").is_dir() or not self._groups:
            return "there is no /run/systemd, or no hierarchy of control groups that systemd could use"
        for folder in ("units", "run", "bin"):
            (self.home / folder).mkdir(mode=0o700, parents=True)
        for target in TARGETS:
            (self.home / "units" / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        program = self.path / "systemctl"
        real = shutil.which("systemctl")
        program.write_text(f'#!/bin/sh\nXDG_RUNTIME_DIR={self.home}/run exec {real} --user "$@"\n')
        program.chmod(0o755)
        with (self.home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", BEGIN],
                env={
                    "PATH": os.environ["PATH"], "HOME_": str(self.home), "GROUPS_": " ".join(self._groups),
                    "MANAGER": MANAGER,
                },
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.systemctl("is-active", "default.target").stdout.strip() == "active":
                return None
            time.sleep(0.05)
        said = (self.home / "log").read_text(errors="replace").strip()[-300:]
        self.end()
        return f"a systemd of our own does not come up here: {said}"

    def unit(self, name: str, service: str, unit: str = "") -> None:
        """Writes `name`.service: the lines of [Service], and of [Unit]; systemd reads it at once."""
        text = f"[Unit]\nDefaultDependencies=no\n{unit}\n[Service]\n{service}\n"
        (self.home / "units" / f"{name}.service").write_text(text)
        self.systemctl("daemon-reload")

    def systemctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.path / "systemctl"), *words], capture_output=True, text=True, timeout=WITHIN, check=False
        )

    def end(self) -> None:
        """Ends the manager and all that it started, by its control group; nothing is left of either."""
        if self._process is None:
            return
        deadline = time.monotonic() + WITHIN
        self._process.kill()
        self._process.wait()
        while (left := list(self._left())) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for group in self._groups:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        self._process = None

    def _left(self) -> Iterator[int]:
        for group in self._groups[:1]:
            for folder, _, _ in os.walk(group):
                with contextlib.suppress(OSError):
                    yield from map(int, Path(folder, "cgroup.procs").read_text().split())


class OwnPrograms(LocalPrograms):
    """Programs of this host, where `systemctl` is the one of an own systemd."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, timeout: timedelta
    ) -> tuple[int, str, str]:
        program = str(self._path / "systemctl") if command[0] == "systemctl" else command[0]
        return await super().run([program, *command[1:]], environment, folder, timeout)


def _own_groups() -> Iterator[str]:
    """Our folder in each hierarchy that systemd keeps its units in: cgroup v2, and `name=systemd` of v1."""
    mine = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        place = left.split(" ")[4]
        if kind == "cgroup2" and "" in mine:
            yield f"{place}{mine[''].rstrip('/')}"
        elif kind == "cgroup" and "name=systemd" in options and "name=systemd" in mine:
            yield f"{place}{mine['name=systemd'].rstrip('/')}"


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnSystemd]:
    """A real systemd for the tests of a module; they are skipped, with the reason, where it cannot be had."""
    own = OwnSystemd(tmp_path_factory.mktemp("systemd"))
    why = own.begin()
    if why is not None:
        pytest.skip(f"not tried on a real systemd: {why}")
    try:
        yield own
    finally:
        own.end()
