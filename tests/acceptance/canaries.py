"""Planted secrets and the search for them: in texts, however they are written, and in what processes show.

Imports nothing of Relight: whoever looks for leaks must not share the code that is to prevent them.
"""

import base64
import contextlib
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

LETTERS = "ghjkmnpqrstvwxyz"
"""No hexadecimal digits: no digest holds a canary by chance."""
PIECE = 16
"""Letters of each part of a canary. Half of one is looked for: a secret that was cut is a leak too."""


@dataclass(frozen=True)
class Canary:
    """Two random words; as a password they stand on both sides of characters that URLs, shells and SQL know."""

    kind: str
    first: str
    second: str

    @classmethod
    def make(cls, kind: str) -> Self:
        return cls(kind, *("".join(secrets.choice(LETTERS) for _ in range(PIECE)) for _ in range(2)))

    @property
    def password(self) -> str:
        return f"{self.first}/:@%{self.second}"

    @property
    def quoted(self) -> str:
        """As a URL has it."""
        return quote(self.password, safe="")

    @property
    def token(self) -> str:
        """Without any special character."""
        return self.first + self.second

    def traces(self) -> set[str]:
        """Every half of each part, as it is, in hex, and in base64 wherever in a longer text it may stand."""
        found = set()
        for piece in (self.first, self.second):
            for half in (piece[: PIECE // 2], piece[PIECE // 2 :]):
                found |= {half, half.encode().hex()}
                for shift in range(3):
                    text = base64.b64encode(bytes(shift) + half.encode()).decode()
                    found.add(text[-(-shift * 8 // 6) : (shift + len(half)) * 8 // 6])
        return found


def sightings(canaries: Iterable[Canary], texts: Mapping[str, str]) -> list[str]:
    """`place: kind …what stands around it…`, one for each place and canary."""
    seen = []
    for canary in canaries:
        for place, text in texts.items():
            for trace in canary.traces():
                if (at := text.find(trace)) >= 0:
                    seen.append(f"{place}: {canary.kind} …{text[max(0, at - 120) : at + 60]}…")
                    break
    return seen


class Watcher:
    """Looks at every process of this machine, over and over: argument lists and environments. A context; a thread."""

    def __init__(self, canaries: Iterable[Canary], seen: Path | None = None) -> None:
        """`seen`: a folder in which a file is made with the name of each program that was looked at."""
        self._kinds = {trace.encode(): canary.kind for canary in canaries for trace in canary.traces()}
        self._seen = seen
        self._any = re.compile(b"|".join(map(re.escape, self._kinds)))
        self.arguments: set[str] = set()
        """`kind in program …` of each canary that stood in an argument list."""
        self.holders: defaultdict[str, set[str]] = defaultdict(set)
        """The programs in whose environment each kind stood."""
        self.programs: set[str] = set()
        """Every program that was seen at all: what was never looked at proves nothing."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._ending.wait(0.01):
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal():
                    with contextlib.suppress(OSError):
                        self._look(entry)

    def _look(self, process: Path) -> None:
        arguments = (process / "cmdline").read_bytes()
        program = named(arguments)
        self.programs.add(program)
        self.arguments |= {f"{self._kinds[trace]} in {program}" for trace in self._any.findall(arguments)}
        for trace in self._any.findall((process / "environ").read_bytes()):
            self.holders[self._kinds[trace]].add(program)
        if self._seen is not None and program and "/" not in program:
            (self._seen / program).touch()


def named(arguments: bytes) -> str:
    """`pg_dump`, `service.cli`, `gossip.py`: the module or script of a Python, else the program."""
    words = arguments.decode("utf-8", "replace").split("\0")
    name = Path(words[0]).name
    if name.startswith("python") or name == "sh":
        rest = [word for word in words[1:] if word not in ("-m", "-P", "-u", "-c", "-e")]
        if rest and Path(rest[0]).name == "witness.py":
            rest = rest[1:]
        name = Path(rest[0]).name if rest and rest[0] else name
    return name.partition(" ")[0].rstrip(":")
