"""A private RabbitMQ on this machine: own node, own epmd, loopback only, no guest, data that stays."""

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from service.cancellation import to_the_end
from service.embedded import node, processes
from service.embedded.errors import EmbeddedError, tail
from service.embedded.management import Management
from service.embedded.node import RabbitPorts
from service.embedded.place import Account, private_directory, settle, unsettle, write_private
from service.embedded.programs import epmd_program, rabbitmq_programs
from service.timeouts import time_limit

if TYPE_CHECKING:
    import subprocess

USER = "relight"
"""The administrator, made at the first start; the usual guest is never made."""

START_DEADLINE = 90.0
"""Seconds until the node must answer; it takes 4 to 7, more on a busy machine or with long queues."""

STOP_DEADLINE = 30.0
"""Seconds for a clean stop before it is ended at once."""

CTL_DEADLINE = 60.0
"""Seconds for one rabbitmqctl, which starts an Erlang of its own."""

PORT_CHOICES = 3
"""How often other ports are chosen when somebody was faster."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is remembered between runs, in a file that only we may read."""

    ports: RabbitPorts
    password: str


class RabbitServer:
    """One node under `directory`, with the plugins management and stream."""

    def __init__(self, directory: Path, *, name: str = "rabbitmq", settings: Mapping[str, str] | None = None) -> None:
        """Nothing is touched yet. `settings` are lines for rabbitmq.conf, such as `{"heartbeat": "10"}`."""
        self.directory = Path(directory)
        self.name = name
        self._settings = dict(settings or {})
        self._account = Account.current()
        self._home: Path | None = None
        self._record: _Record | None = None

    # ---- what others need to know

    @property
    def url(self) -> str:
        """`amqp://…` of the vhost `/` for the administrator, with the generated password."""
        return self.url_for()

    def url_for(self, vhost: str = "/", user: str | None = None, password: str | None = None) -> str:
        """The same for another vhost, or for a user made with `add_user`."""
        record = self._known()
        who = quote(user or USER, safe="")
        secret = quote(password if password is not None else record.password, safe="")
        return f"amqp://{who}:{secret}@127.0.0.1:{record.ports.amqp}/{quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        """`http://…` of the management interface and its API, with user and password."""
        record = self._known()
        return f"http://{USER}:{quote(record.password, safe='')}@127.0.0.1:{record.ports.management}"

    @property
    def ports(self) -> RabbitPorts:
        """Its ports; they are kept from run to run unless somebody else takes them meanwhile."""
        return self._known().ports

    @property
    def home(self) -> Path:
        """Where data, logs and passwords are; see `place.settle` for when this is not below `directory`."""
        if self._home is None:
            self._home = settle(self.directory, self._account) / self.name
        return self._home

    @property
    def log(self) -> Path:
        """The node's own log."""
        return self.home / "log" / "relight@localhost.log"

    @property
    def pids(self) -> list[int]:
        """All its processes, epmd among them, for tests that end them."""
        return processes.marked(node.MARK, str(self.home))

    def running(self) -> bool:
        """Whether its Erlang machine lives, whoever started it."""
        return self._node() is not None

    # ---- its life

    async def start(self) -> None:
        """Start it, or adopt the one of this directory that still runs; returns when it answers."""
        private_directory(self.home, self._account)
        self._load()
        if self.running() and self._record is not None:
            await self._until_it_answers(None)
            return
        await self._end_all()
        rabbitmq_programs()  # says what is missing before anything is made
        for _ in range(PORT_CHOICES):
            self._remember(RabbitPorts.choose(self._record.ports if self._record else None))
            if await self._try():
                return
        raise EmbeddedError(
            f"the private RabbitMQ found its ports taken {PORT_CHOICES} times in a row", log=self._console
        )

    async def stop(self) -> None:
        """Stop it cleanly, then its epmd. Does nothing when it does not run."""
        machine = self._node()
        if machine is not None:
            everyone = [pid for pid in self.pids if processes.program(pid) != "epmd"]
            processes.send([machine], signal.SIGTERM)
            await processes.gone(everyone, STOP_DEADLINE)
        await self._end_all()

    async def kill(self) -> None:
        """End all its processes at once with SIGKILL, as a power cut would; the next start recovers."""
        await self._end_all()

    async def write_out(self) -> None:
        """Make queues that were just declared survive a `kill`.

        RabbitMQ writes the name of a new quorum queue to its disk only half a second after confirming it (seen on
        3.10): killed before, it comes back with that queue empty, confirmed messages and all.
        """
        await self.ctl("eval", "[ok = dets:sync(Table) || Table <- dets:all()].")

    async def destroy(self) -> None:
        """End it at once and delete its data; a clean stop would only write what is deleted next."""
        await self._end_all()
        await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)
        self._record_file.unlink(missing_ok=True)
        self._record = None
        unsettle(self.directory, self.home.parent)

    # ---- users, vhosts, policies

    async def add_user(self, name: str, password: str, *, vhost: str = "/", tags: str = "") -> str:
        """Create a user (or change its password) with full rights in a vhost; returns its AMQP URL."""
        api = self.management()
        await api.put(f"/users/{quote(name, safe='')}", {"password": password, "tags": tags})
        await self.set_permissions(name, vhost=vhost)
        return self.url_for(vhost, name, password)

    async def set_permissions(
        self, user: str, *, vhost: str = "/", configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Give a user rights in a vhost, each a regular expression over names."""
        await self.management().put(
            f"/permissions/{quote(vhost, safe='')}/{quote(user, safe='')}",
            {"configure": configure, "write": write, "read": read},
        )

    async def delete_user(self, name: str) -> None:
        """Delete a user if it exists; its connections are closed."""
        await self.management().delete(f"/users/{quote(name, safe='')}")

    async def add_vhost(self, name: str) -> str:
        """Create a vhost with full rights for the administrator; returns its AMQP URL."""
        await self.management().put(f"/vhosts/{quote(name, safe='')}", {})
        await self.set_permissions(USER, vhost=name)
        return self.url_for(name)

    async def delete_vhost(self, name: str) -> None:
        """Delete a vhost if it exists, with all in it."""
        await self.management().delete(f"/vhosts/{quote(name, safe='')}")

    def management(self) -> Management:
        """The management API, spoken as the administrator."""
        record = self._known()
        return Management(record.ports.management, USER, record.password)

    async def ctl(self, *arguments: str, stdin: str = "") -> str:
        """Run rabbitmqctl on this node and return its output. Give secrets on `stdin`, never as an argument."""
        done = await processes.run(
            [rabbitmq_programs() / "rabbitmqctl", "--quiet", *arguments],
            account=self._account,
            env=self._environment(),
            stdin=stdin,
            timeout=CTL_DEADLINE,
        )
        if done.status != 0:
            raise EmbeddedError(f"rabbitmqctl {arguments[0] if arguments else ''} failed: {done.said}")
        return done.output

    # ---- inside

    @property
    def _record_file(self) -> Path:
        return self.home.parent / f"{self.name}.json"

    @property
    def _console(self) -> Path:
        return self.home / "console.log"

    def _known(self) -> _Record:
        self._load()
        if self._record is None:
            raise EmbeddedError(
                f"the private RabbitMQ of {self.directory} was never started",
                next_step="start it first (for a checkout: ./relight serve)",
            )
        return self._record

    def _load(self) -> None:
        if self._record is None:
            with contextlib.suppress(FileNotFoundError):
                found = json.loads(self._record_file.read_text())
                self._record = _Record(RabbitPorts(**found["ports"]), found["password"])

    def _remember(self, chosen: RabbitPorts) -> None:
        password = self._record.password if self._record else secrets.token_urlsafe(24)
        record = _Record(chosen, password)
        if record != self._record:
            numbers = {name: getattr(chosen, name) for name in RabbitPorts.__slots__}
            write_private(self._record_file, json.dumps({"ports": numbers, "password": password}) + "\n")
            self._record = record

    def _node(self) -> int | None:
        return next((pid for pid in self.pids if processes.program(pid).startswith("beam")), None)

    def _environment(self) -> dict[str, str]:
        return node.environment(self.home, self.ports)

    def _write_files(self) -> None:
        record = self._known()
        settings = node.settings(record.ports, USER, record.password, self._settings)
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        write_private(self.home / "rabbitmq.conf", text, self._account)
        write_private(self.home / "advanced.config", "[].\n", self._account)
        write_private(self.home / "enabled_plugins", node.PLUGINS, self._account)
        cookie = self.home / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, secrets.token_hex(24), self._account)
            cookie.chmod(0o400)

    async def _try(self) -> bool:
        """Start it once; false when somebody else took one of its ports meanwhile."""
        self._write_files()
        try:
            # Our own epmd first: left to itself Erlang would quietly share a stranger's on the same port.
            epmd = await self._start([epmd_program(), "-port", str(self.ports.epmd), "-address", "127.0.0.1"])
            begins = self._console.stat().st_size
            server = await self._start([rabbitmq_programs() / "rabbitmq-server"])
            if await self._until_it_answers((epmd.pid, server.pid), begins):
                return True
        except BaseException:
            # Also when we are cancelled: a half-started node is nobody's.
            await to_the_end(self._end_all())
            raise
        await self._end_all()
        return False

    async def _start(self, command: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
        """To the end: the thread starts it all the same, and only what has begun is found by `_end_all`."""
        return await to_the_end(
            asyncio.to_thread(
                processes.start_detached, command, account=self._account, env=self._environment(), log=self._console
            )
        )

    async def _until_it_answers(self, started: tuple[int, int] | None, begins: int = 0) -> bool:
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            if started is not None:
                epmd, server = (processes.alive(pid) for pid in started)
                if not epmd or not server:
                    if not epmd or self._port_was_taken(begins):
                        return False
                    raise EmbeddedError("the private RabbitMQ ended while it started", log=self._console)
            if await _speaks_amqp(self.ports.amqp) and await self.management().knows_us():
                await self._elect_leaders()
                return True
            await asyncio.sleep(0.1)
        raise EmbeddedError(
            f"the private RabbitMQ did not answer within {START_DEADLINE:.0f} s",
            log=self.log if self.log.exists() else self._console,
        )

    async def _elect_leaders(self) -> None:
        if not (self.home / "mnesia" / "relight@localhost" / "quorum").exists():
            return
        left = (await self.ctl("eval", node.ELECT)).strip()
        if left != "[]":
            raise EmbeddedError(f"queues of the private RabbitMQ found no leader: {left}", log=self.log)

    def _port_was_taken(self, begins: int) -> bool:
        with self._console.open("rb") as file:
            file.seek(begins)
            said = file.read()
        said += "\n".join(tail(self.log, 60)).encode()
        return b"eaddrinuse" in said or b"port_in_use" in said or b"address already in use" in said.lower()

    async def _end_all(self) -> None:
        """End every process of it that is left, until none is."""
        for _ in range(10):
            if not (left := self.pids):
                return
            processes.send(left, signal.SIGKILL)
            await processes.gone(left, STOP_DEADLINE)
        raise EmbeddedError(
            f"processes of the private RabbitMQ do not end: {self.pids}",
            next_step="look at them with ps; a process in state D waits for a disk",
        )

    def last_words(self) -> list[str]:
        """The end of its log, for a report."""
        return tail(self.log)


async def _speaks_amqp(port: int) -> bool:
    """Whether an AMQP 0-9-1 greeting is answered with a method frame (connection.start)."""
    try:
        async with time_limit(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"AMQP\x00\x00\x09\x01")
                return await reader.readexactly(1) == b"\x01"
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError):
        return False
