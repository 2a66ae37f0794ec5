"""What `serve` leaves in Relight's folder for the other commands: where its servers are, and that it runs.

Files with passwords are readable by their owner only.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from schemas.system import System
from service.embedded import Endpoints
from service.embedded.place import write_private
from service.errors import RelightError
from service.masking import MASKS
from service.settings import Servers

ENDPOINTS = "endpoints.json"
LOCK = "serve.lock"
NOTHING_STARTED = (
    "nothing was started.\nUse that one, end it first, or give this one a folder of its own with RELIGHT_HOME."
)


@dataclass(frozen=True, slots=True)
class Found:
    """Where the servers are, and how they were found: `by` is for messages."""

    postgres_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    by: str
    health_url: str | None = None

    def __post_init__(self) -> None:
        """Their passwords are shown nowhere from here on."""
        MASKS.learn(self.postgres_url)
        MASKS.learn(self.amqp_url)


def find(servers: Servers) -> Found:
    """The servers to talk to: the settings', or those that `serve` started. Raises RelightError when there are none."""
    if servers.postgres_url is not None and servers.amqp_url is not None:
        return Found(servers.postgres_url.get_secret_value(), servers.amqp_url.get_secret_value(), "the environment")
    file = servers.home / ENDPOINTS
    try:
        raw = json.loads(file.read_text())
        return Found(raw["postgres_url"], raw["amqp_url"], str(file), raw.get("health_url"))
    except FileNotFoundError:
        raise RelightError(
            f"no Relight was found: nothing serves from {servers.home}, and RELIGHT_POSTGRES_URL and RELIGHT_AMQP_URL "
            "are not set.\nStart one with `relight serve --systems PATH`, or set both to the servers of a Relight."
        ) from None
    except PermissionError:
        raise RelightError(f"{file} belongs to another user; run this as the user who runs `relight serve`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RelightError(f"{file} is damaged ({error}); restart `relight serve`, which writes it anew") from error


def write_endpoints(home: Path, endpoints: Endpoints, health_url: str) -> None:
    """For the other commands of this checkout, as long as `serve` runs."""
    content = {
        "postgres_url": endpoints.postgres_url,
        "amqp_url": endpoints.amqp_url,
        "management_url": endpoints.management_url,
        "health_url": health_url,
        "pid": os.getpid(),
    }
    write_private(home / ENDPOINTS, json.dumps(content, indent=1) + "\n")


def remove_endpoints(home: Path) -> None:
    (home / ENDPOINTS).unlink(missing_ok=True)


def write_systems(home: Path, systems: Iterable[System]) -> None:
    """What `serve` last knew of its systems, for commands that must not need a server: secrets are references."""
    (home / "systems").mkdir(mode=0o700, parents=True, exist_ok=True)
    for system in systems:
        write_private(home / "systems" / f"{system.system}.json", system.canonical() + "\n")


def read_system(home: Path, name: str) -> System:
    """What `serve` last knew of the system. Raises FileNotFoundError and pydantic's ValidationError."""
    return System.model_validate_json((home / "systems" / f"{name}.json").read_text())


def user_file(home: Path, user: str) -> Path:
    """Where the AMQP URL of a broker user is kept: `<home>/users/ana.url`."""
    return home / "users" / f"{quote(user, safe='')}.url"


def page_file(home: Path, system: str) -> Path:
    """Where `serve --observe` keeps its newest page of a system; `<system>.json` beside it is the same for programs."""
    return home / "observed" / f"{system}.md"


def answer_file(home: Path, system: str) -> Path:
    """Where it keeps the page that answered the newest request for a restart."""
    return home / "observed" / f"{system}.asked.md"


@contextlib.contextmanager
def only_one(home: Path, otherwise: str = NOTHING_STARTED) -> Iterator[None]:
    """Held while `serve` runs on this folder. Raises RelightError when another one does; a killed one holds nothing.

    `otherwise` ends that error: what it means, and what to do.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise RelightError(
                f"another `relight serve` (pid {pid or 'unknown'}) already runs on {home}; {otherwise}"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)
