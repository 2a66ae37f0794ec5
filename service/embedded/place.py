"""Where a private server keeps its data, and as whom it runs. Nothing here starts anything."""

import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from service.embedded.errors import EmbeddedError

ROOTS_DATA = Path("/var/lib/relight")
"""Used only when root's directory cannot be reached by an ordinary user. Not /var/tmp: that is aged out."""

NOTE = "data-is-elsewhere.txt"
"""Says in the directory that was asked for where the data is instead."""

UNPRIVILEGED = "nobody"
"""The user that servers run as when Relight is root: PostgreSQL refuses root, and RabbitMQ should."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user a server runs as. `switch` is false when that is ourselves."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def current(cls) -> "Account":
        """Ourselves, or an ordinary user when we are root."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        try:
            entry = pwd.getpwnam(UNPRIVILEGED)
        except KeyError:
            raise EmbeddedError(
                f"there is no user {UNPRIVILEGED} on this machine; as root, Relight runs its servers as that user",
                next_step=f"run Relight as an ordinary user, or create the user {UNPRIVILEGED}",
            ) from None
        return cls(entry.pw_uid, entry.pw_gid, switch=True)

    def own(self, path: Path) -> Path:
        """Give a file or directory to this user."""
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
        return path

    def can_reach(self, directory: Path) -> bool:
        """Whether this user may pass through `directory` and everything above it."""
        return not self.switch or all(self._may_pass(part) for part in (directory, *directory.parents))

    def _may_pass(self, directory: Path) -> bool:
        try:
            found = directory.stat()
        except FileNotFoundError:
            return True
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def settle(directory: Path, account: Account) -> Path:
    """The directory in which servers of `directory` really keep their data; it exists afterwards.

    It is `directory` itself. Only for root, below a directory that an ordinary user cannot pass (/root, `mktemp -d`),
    it is one under `/var/lib/relight`, named by a hash; a note in `directory` says so.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if account.can_reach(directory):
        return directory
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    ROOTS_DATA.mkdir(mode=0o711, parents=True, exist_ok=True)
    real = ROOTS_DATA / name
    real.mkdir(mode=0o711, exist_ok=True)
    (directory / NOTE).write_text(
        f"The servers of this directory run as the user {UNPRIVILEGED}, who may not pass the directories above it.\n"
        f"Their data is in {real}\n"
    )
    (real / "belongs-to.txt").write_text(f"{directory}\n")
    return real


def unsettle(directory: Path, real: Path) -> None:
    """Undo `settle` once the last server's data was deleted from there; anything else stays."""
    if real == directory.absolute() or not real.exists():
        return
    if [entry.name for entry in real.iterdir() if entry.name != "belongs-to.txt"]:
        return
    (real / "belongs-to.txt").unlink(missing_ok=True)
    real.rmdir()
    (directory / NOTE).unlink(missing_ok=True)


def private_directory(path: Path, account: Account) -> Path:
    """A directory that only the server's user may enter; it exists afterwards."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return account.own(path)


def write_private(path: Path, text: str, account: Account | None = None) -> Path:
    """Write a file with mode 0600, whole or not at all; for the server's user, or else for ourselves."""
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if account is not None:
        account.own(partial)
    partial.replace(path)
    return path
