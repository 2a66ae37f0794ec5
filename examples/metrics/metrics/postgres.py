"""A private PostgreSQL for the example: made once, run in the foreground, stopped in order. Only this file runs it."""

import ctypes
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

USER = "metrics"
PORTS = range(21000, 31000)
"""Below the range from which the kernel gives ports to everybody who asks for any."""
STOP_WITHIN = 20.0
"""Seconds for a fast shutdown; then it is ended at once and recovers at its next start."""
PR_SET_PDEATHSIG = 1
SETTINGS = """
# Written anew at each start.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 30
shared_buffers = '32MB'
timezone = 'UTC'
log_timezone = 'UTC'
"""


class Postgres:
    """One server whose DSN file and data are in `folder`; `dsn` is known once it was made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dsn_file = folder / "dsn"
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._user = self._account.pw_uid if self._account else None
        self._group = self._account.pw_gid if self._account else None
        self._extra_groups: list[int] | None = [] if self._account else None
        self._home = _reachable(folder, self._account)
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> str:
        """Makes the data if there is none, chooses the port, ends what a killed predecessor left. The DSN; nothing
        runs yet, and the DSN file is not written."""
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own(self._home)
        secret = self.folder / "password"
        if not (self._data / "PG_VERSION").exists():
            shutil.rmtree(self._data, ignore_errors=True)
            write_private(secret, secrets.token_urlsafe(24))
            self._initdb(secret.read_text())
        self._end_leftover()
        port = self._port()
        (self._data / "metrics.conf").write_text(f"{SETTINGS}port = {port}\n")
        self._own(self._data / "metrics.conf")
        return f"postgresql://{USER}:{secret.read_text()}@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        """Starts it as a child, which ends with us however we end."""
        self._process = subprocess.Popen(
            [_programs() / "postgres", "-D", self._data],
            preexec_fn=_end_with_parent,  # noqa: PLW1509  # one system call, and no thread runs yet
            cwd="/",
            user=self._user,
            group=self._group,
            extra_groups=self._extra_groups,
        )

    def poll(self) -> int | None:
        """Its exit status once it has ended."""
        return self._process.poll() if self._process else None

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, everything is on disk."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def delete(self) -> None:
        """Ends what a killed predecessor left and deletes data, password and DSN."""
        self._end_leftover()
        shutil.rmtree(self._home, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _initdb(self, password: str) -> None:
        # The password goes through a file that only the server's user may read: an argument could be read by anybody.
        aside = self._home / "pwfile"
        write_private(aside, password)
        self._own(aside)
        command: list[str | Path] = [_programs() / "initdb", "-D", self._data, "-U", USER, f"--pwfile={aside}"]
        command += ["--auth=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        done = subprocess.run(
            command,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            user=self._user,
            group=self._group,
            extra_groups=self._extra_groups,
        )
        aside.unlink()
        if done.returncode != 0:
            raise SystemExit(f"the trading database could not be made: {done.stderr.decode()}")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'metrics.conf'\n")

    def _port(self) -> int:
        """The one of last time, unless somebody else has taken it."""
        with suppress(OSError, ValueError, IndexError):
            before = int(self.dsn_file.read_text().rsplit(":", 1)[1].split("/")[0])
            if _free(before):
                return before
        return next(port for port in sorted(PORTS, key=lambda _: secrets.randbits(32)) if _free(port))

    def _end_leftover(self) -> None:
        with suppress(OSError, ValueError, IndexError):
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            # A pid may be somebody else's by now; a postmaster stands in its data directory.
            if Path(f"/proc/{pid}/cwd").readlink() == self._data.resolve():
                os.kill(pid, signal.SIGINT)
                deadline = time.monotonic() + STOP_WITHIN
                while Path(f"/proc/{pid}/cwd").exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
            (self._data / "postmaster.pid").unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, mode 0600."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)


def _reachable(folder: Path, account: pwd.struct_passwd | None) -> Path:
    """Where the server's user can keep data: in `folder`, or for root below a closed folder in /var/lib."""
    if account is None or all(_may_pass(part, account) for part in folder.parents if part.exists()):
        return folder / "server"
    return Path("/var/lib/relight-example") / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]


def _may_pass(part: Path, account: pwd.struct_passwd) -> bool:
    found = part.stat()
    return bool(found.st_mode & (stat.S_IXUSR if found.st_uid == account.pw_uid else stat.S_IXOTH))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _programs() -> Path:
    if chosen := os.environ.get("RELIGHT_POSTGRES_BIN"):
        return Path(chosen)
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if not found:
        raise SystemExit("PostgreSQL is not installed; apt-get install postgresql, or set RELIGHT_POSTGRES_BIN")
    return max(found, key=lambda path: int(path.parent.name))


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
