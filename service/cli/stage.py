"""What the demo runs on: a folder of its own, a real `relight serve`, and the end of everything that was started.

Nothing is shown and nothing is restarted here. Ending is thorough and may be repeated: processes that an earlier,
killed demo left are ended the same way.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.cli.home import user_file
from service.embedded import Embedded
from service.embedded.place import write_private
from service.embedded.tracing import below
from service.errors import RelightError
from service.settings import CHECKOUT, Servers

EXAMPLE = CHECKOUT / "examples" / "metrics"
STOP_WITHIN = 40.0
"""Seconds for `serve` to end by itself: it stops RabbitMQ, which takes about five."""
COMPONENT_WITHIN = timedelta(seconds=12)
"""For a component to end at TERM; the example's own database stops in order within it."""
COMPONENTS = ("reporter", "calculator", "research-server", "trading-server")
"""The example's components in the order in which they are ended: nobody loses what it needs."""


@dataclass(slots=True)
class Stage:
    """A demo's folder and its processes. `user` publishes the restart; `system` is the name in the system's file."""

    folder: Path
    servers: Servers
    system: str = "metrics"
    user: str = "svc-deploy"
    _serving: subprocess.Popen[bytes] | None = None

    @property
    def example(self) -> Path:
        return self.folder / "metrics"

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    @property
    def own_servers(self) -> Path:
        return self.folder / "servers"

    def set_up(self) -> None:
        """An empty folder with a copy of the example: the checkout is not written to, nothing is left from before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shutil.copytree(EXAMPLE, self.example, ignore=shutil.ignore_patterns("var", ".*", "__pycache__"))
        if not self.servers.embedded:
            self._join_servers()

    def _join_servers(self) -> None:
        """On somebody's servers: a name that was not used there before, and the URL's own user in every part."""
        url = self.servers.amqp_url.get_secret_value() if self.servers.amqp_url is not None else ""
        self.user = unquote(urlsplit(url).username or "guest")
        self.system = f"metrics-{secrets.token_hex(3)}"
        file = self.example / "system.yaml"
        text = re.sub(r"(?m)^system: .*$", f"system: {self.system}", file.read_text())
        text = re.sub(r"(?m)^allow:.*$", f'allow:\n  answer: ["{self.user}"]', text)
        text = re.sub(r"(?m)^  restart: \[", f'  restart: ["{self.user}", ', text)
        file.write_text(text.replace("metrics.calculator.url", f"{self.system}.calculator.url"))
        users = self.folder / "users"
        users.mkdir(mode=0o700)
        for name in (self.user, f"{self.system}.calculator"):
            write_private(user_file(self.folder, name), url + "\n")

    def amqp_url(self) -> str:
        """The broker, as the user who publishes."""
        return user_file(self.folder, self.user).read_text().strip()

    def start(self) -> None:
        """Starts `relight serve` as a person would, in a session of its own: a Ctrl-C at the terminal is ours alone."""
        environment = {
            **os.environ,
            "RELIGHT_HOME": str(self.folder),
            "RELIGHT_USERS": str(self.folder / "users"),
            "RELIGHT_LOG_FORMAT": "text",
            "PYTHONPATH": str(CHECKOUT),
        }
        environment.pop("RELIGHT_HTTP_PORT", None)  # a port of the person's own Relight
        with self.log.open("wb") as output:
            self._serving = subprocess.Popen(
                [sys.executable, "-P", "-m", "service.cli", "serve", "--systems", str(self.example)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    async def until_serving(self, within: float) -> None:
        """Returns when `serve` says that it serves. Raises RelightError with its last words when it does not."""
        deadline = asyncio.get_running_loop().time() + within
        while b"Relight serves" not in self.log.read_bytes():
            if self._serving is None or self._serving.poll() is not None:
                raise RelightError(f"`relight serve` ended while it started:\n{self.last_words()}")
            if asyncio.get_running_loop().time() > deadline:
                raise RelightError(f"`relight serve` did not begin within {within:.0f} s:\n{self.last_words()}")
            await asyncio.sleep(0.1)

    def last_words(self, lines: int = 12) -> str:
        """The end of serve's log."""
        with contextlib.suppress(OSError):
            return "\n".join(f"  {line}" for line in self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    async def end(self) -> list[str]:
        """Ends everything that belongs to this folder; what could not be ended, which should be nothing."""
        if not self.folder.exists():
            return []
        await self._end_serving()
        await self._end_components()
        with contextlib.suppress(RelightError):
            await Embedded(self.own_servers).destroy()
        await asyncio.to_thread(self._delete_trading)
        return await _sweep(self.folder)

    async def _end_serving(self) -> None:
        serving = self._serving
        if serving is None:
            return
        if serving.poll() is None:
            serving.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(serving.wait, STOP_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(serving.pid, signal.SIGKILL)
            await asyncio.to_thread(serving.wait)

    async def _end_components(self) -> None:
        from service.adapters.processes.local import SupervisedProcesses
        from service.clock import SystemClock

        processes = SupervisedProcesses(self.folder / "processes", SystemClock())
        for component in COMPONENTS:
            name = f"{self.system}.{component}"
            for how in ("TERM", "KILL"):
                with contextlib.suppress(RelightError):
                    if (await processes.state(name)).running:
                        await processes.tell(name, how)
                        await processes.wait_stopped(name, COMPONENT_WITHIN)

    def _delete_trading(self) -> None:
        """The example's own data, wherever it had to put it (as root it may lie outside of this folder)."""
        if not (self.example / "var" / "trading").exists():
            return
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [sys.executable, "-m", "metrics.server", "--delete"],
                cwd=self.example,
                check=False,
                capture_output=True,
                timeout=30,
            )


async def _sweep(folder: Path) -> list[str]:
    """Whatever else still works in the folder: asked to end, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        left = await asyncio.to_thread(below, folder)
        if not left:
            return []
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not await asyncio.to_thread(below, folder):
                return []
    return [f"process {pid}: {words}" for pid, words in (await asyncio.to_thread(below, folder)).items()]
