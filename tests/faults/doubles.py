"""Components of the system under fire: small real processes, and programs that tell them. Standard library only.

Each effect is a line that the effect itself writes, under the idempotency key it was given. Run as a program: `run` is
the process of a component, and with a PORT it takes requests; `pause`, `flush`, `report` and `resume` are what its
participant is told. Whatever is told to have an effect is a line of its own, also when it had that effect before.
"""

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

LINGERS = 1.0
"""Seconds that a command takes when a test wishes it: half of the shortest lease."""


def note(what: str, key: str | None = None) -> bool:
    """Writes that an effect happened; False, and nothing is written, when that key had its effect before."""
    component, effects = os.environ["RELIGHT_COMPONENT"], Path(os.environ["EFFECTS"])
    with effects.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if key is not None and any(json.loads(line)["key"] == key for line in file):
            return False
        line = {"component": component, "what": what, "key": key, "pid": os.getpid()}
        if "TOKEN" in os.environ:
            line["token"] = int(os.environ["TOKEN"])
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def run() -> None:
    """A component: holds a count in memory, loads it from what it flushed before, and ends when it is told."""
    state = os.environ.get("RELIGHT_STATE")
    content = Path(state.removeprefix("file://")).read_bytes() if state else b'{"count": 0}'
    memory().write_bytes(content)
    note("start")
    fresh = loaded().with_suffix(".new")
    fresh.write_text(hashlib.sha256(content).hexdigest() if state else "")

    def end(_: int, __: FrameType | None) -> None:
        loaded().unlink()
        note("stop")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    for ignored in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
    if "PORT" in os.environ:
        listen(int(os.environ["PORT"]))
    fresh.replace(loaded())  # from here on it can be asked and told
    while True:
        signal.pause()


def listen(port: int) -> None:
    """From now on this component is told by requests: each does what the program of that command does."""
    # Imported only here: programs that only tell are started for each command, and are quick.
    import subprocess
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            about = {"RELIGHT_COMMAND_ID": self.headers["Idempotency-Key"], "TOKEN": str(asked["token"])}
            program = [sys.executable, "-E", "-S", __file__, asked["command"]]
            done = subprocess.run(program, env={**os.environ, **about}, capture_output=True, check=False)
            self.send_response(500 if done.returncode else 200)
            self.end_headers()
            self.wfile.write(done.stderr if done.returncode else done.stdout)

    Thread(target=ThreadingHTTPServer(("127.0.0.1", port), Door).serve_forever, daemon=True).start()


def tell(command: str) -> None:
    """What a participant does when it is told: once for a key, and the same answer each time."""
    if command != "report":
        with told().open("a") as file:
            file.write(json.dumps(os.environ["RELIGHT_COMMAND_ID"]) + "\n")
    if not loaded().exists():
        sys.exit("not up yet")
    if command in ("pause", "flush", "resume"):
        if wished("lingers"):
            time.sleep(LINGERS)
        if wished("fails"):
            sys.exit("not this time")
    answer: dict[str, object] = {"outcome": "done"}
    if command != "report":
        first = note(command, os.environ["RELIGHT_COMMAND_ID"])
        if command == "resume" and first:
            memory().write_text(json.dumps({"count": json.loads(memory().read_bytes())["count"] + 1}))
    if command == "flush":
        content = memory().read_bytes()
        place = memory().with_suffix(f".{hashlib.sha256(content).hexdigest()[:12]}.flushed")
        place.write_bytes(content)
        answer |= {"digest": hashlib.sha256(content).hexdigest(), "where": f"file://{place}"}
    if command == "report" and loaded().read_text():
        answer["digest"] = loaded().read_text()
    answer["values"] = json.loads(memory().read_bytes())
    print(json.dumps(answer))


def wished(what: str) -> bool:
    """Whether a test has asked for this; once for each time that it asked."""
    mark = memory().with_suffix(f".{what}")
    found = mark.exists()
    mark.unlink(missing_ok=True)
    return found


def told() -> Path:
    return Path(os.environ["EFFECTS"]).with_name("told.jsonl")


def memory() -> Path:
    return Path(os.environ["EFFECTS"]).with_name(f"{os.environ['RELIGHT_COMPONENT']}.memory")


def loaded() -> Path:
    return memory().with_suffix(".loaded")


if __name__ == "__main__":
    run() if sys.argv[1] == "run" else tell(sys.argv[1])
