"""Writes the JSON Schemas of everything that crosses a border into `schemas/json/`, and the AsyncAPI document of what
crosses the broker to `schemas/asyncapi.json`, or checks that they are the newest.

`python -m schemas.generate` writes, `python -m schemas.generate --check` compares and exits 1. The models are the
source; no word of a schema is written here.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from schemas import asyncapi
from schemas.envelope import CloudEvent
from schemas.events import EVENTS
from schemas.notifications import NOTIFICATIONS
from schemas.system import System

FOLDER = Path(__file__).parent / "json"
ASYNCAPI = Path(__file__).parent / "asyncapi.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> Mapping[str, str]:
    """File name (relative to `schemas/json/`) to its text: envelope, system file, each event, each notification.

    A schema says what may be given: aliases are used, and a duration is what a file may write (`5m`).
    """
    return {name: _text(name, model) for name, model in _models()}


def differences(folder: Path = FOLDER, described: Path = ASYNCAPI) -> tuple[str, ...]:
    """What is not as the models say, one line a file: missing, changed, or of no model any more. Empty: all is well."""
    wanted = documents()
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.json")}
    return tuple(
        [f"{name} is missing" for name in wanted if name not in found]
        + [f"{name} differs from its model" for name in wanted if name in found and found[name] != wanted[name]]
        + [f"{name} belongs to no model" for name in sorted(found) if name not in wanted]
        + [f"{described.name} differs from its models"] * (_read(described) != asyncapi.document())
    )


def write(folder: Path = FOLDER, described: Path = ASYNCAPI) -> None:
    """Makes the folder and the AsyncAPI document what the models say; files of models that are gone go too."""
    described.write_text(asyncapi.document())
    wanted = documents()
    for path in folder.rglob("*.json"):
        if str(path.relative_to(folder)) not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _read(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def _models() -> Iterator[tuple[str, type[BaseModel]]]:
    yield "envelope.json", CloudEvent
    yield "system.json", System
    for event in EVENTS.values():
        yield f"events/{event.name}.json", event.data
    for name, notification in NOTIFICATIONS.items():
        yield f"notifications/{name}.json", notification


def _text(name: str, model: type[BaseModel]) -> str:
    head = {"$schema": DIALECT, "$id": f"urn:relight:schema:{name.removesuffix('.json').replace('/', ':')}"}
    return json.dumps({**head, **model.model_json_schema(by_alias=True)}, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 written or unchanged, 1 differs, 2 wrong usage."""
    if list(arguments) not in ([], ["--check"]):
        print("usage: python -m schemas.generate [--check]", file=sys.stderr)
        return 2
    if not arguments:
        write()
        print(f"{len(documents())} schemas written to {FOLDER}, and {ASYNCAPI.name} beside it")
        return 0
    found = differences()
    for line in found:
        print(f"schemas: {line}", file=sys.stderr)
    if found:
        print("run `python -m schemas.generate` and commit what it writes", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
