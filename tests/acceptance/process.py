"""A command of Relight as a real process: started, watched, told to end. No assertion lives here."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's Relight reaches the process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELIGHT_")}
    for name in ("RELIGHT_POSTGRES_BIN", "RELIGHT_RABBITMQ_BIN"):
        if name in os.environ:
            kept[name] = os.environ[name]
    # Any free port: files run side by side, and on machines where a Relight runs.
    return {**kept, "RELIGHT_HOME": str(home), "RELIGHT_HTTP_PORT": "0", "PYTHONUNBUFFERED": "1", **more}


def relight(home: Path, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A short command to its end."""
    command = [sys.executable, "-P", "-m", "service.cli", *words]
    return subprocess.run(
        command, env=environment(home), cwd="/", capture_output=True, text=True, check=False, timeout=timeout
    )


class Running:
    """A long command and its lines, as they come; it is killed when the block ends, if it still runs."""

    def __init__(self, home: Path, *words: str) -> None:
        self.lines: list[str] = []
        self._arrived: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.cli", *words],
            env=environment(home),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(5)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, words: str, within: float) -> str:
        """The first line, from here on, that has `words`. AssertionError with all that was said when none comes."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._arrived.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            if words in line:
                return line
        raise AssertionError(f"{words!r} was not said within {within} s:\n{self.text}")

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, within: float) -> int:
        """The exit status, once it has ended by itself."""
        status = self._process.wait(within)
        self._reader.join(5)
        return status

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.lines.append(line.rstrip("\n"))
            self._arrived.put(self.lines[-1])
        self._arrived.put(None)
