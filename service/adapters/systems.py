"""Reads systems' files from disk: all findings of all files at once, each with file, line and path. Decides nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path as File

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.base import Json
from schemas.system import System
from service.adapters.yaml_tree import MAX_BYTES, Finding, Path, Tree, parse
from service.errors import Misconfigured

Branches = tuple[tuple[Path, str], ...]
"""Which branch of which unions pydantic was trying, outermost first."""

ENDINGS = (".yaml", ".yml")


def load_systems(paths: Sequence[File]) -> dict[str, System]:
    """Systems by name. A path is a file, or a folder with `system.yaml` or else with any number of `*.yaml`.

    Raises Misconfigured with every finding of every file: `metrics/system.yaml:14: components.calculator.needs.1: …`.
    """
    problems: list[str] = []
    systems: dict[str, System] = {}
    places: dict[str, str] = {}
    for file in _files(paths, problems):
        tree = _read(file, problems)
        if tree is None:
            continue
        findings = [*tree.findings]
        system = _validate(tree, file, findings)
        if system is not None and not findings:
            here = f"{file}:{tree.line(('system',))}"
            if system.system in systems:
                problems.append(f"{here}: system: {places[system.system]} already describes {system.system!r}")
            systems.setdefault(system.system, system)
            places.setdefault(system.system, here)
        problems += _lines(file, findings)
    if problems:
        raise Misconfigured(tuple(problems))
    return systems


def _files(paths: Sequence[File], problems: list[str]) -> Iterator[File]:
    if not paths:
        problems.append("no system's file was named")
    seen: set[File] = set()
    for path in paths:
        if path.is_dir():
            main = path / "system.yaml"
            found = [main] if main.is_file() else sorted(f for f in path.iterdir() if f.suffix in ENDINGS)
            if not found:
                problems.append(f"{path}: the folder holds neither system.yaml nor any other *.yaml")
        else:
            found = [path]
        for file in found:
            if file.resolve() not in seen:  # a file named twice is still one file
                seen.add(file.resolve())
                yield file


def _read(file: File, problems: list[str]) -> Tree | None:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
            size = file.stat().st_size
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror or error}")
        return None
    if len(content) > MAX_BYTES:
        problems.append(f"{file}: the file has {size} bytes; at most {MAX_BYTES} are allowed")
        return None
    found = parse(content)
    if isinstance(found, Tree):
        return found
    problems += _lines(file, found)
    return None


def _lines(file: File, findings: Sequence[Finding]) -> list[str]:
    ordered = dict.fromkeys(sorted(findings, key=lambda f: f.line))
    return [
        f"{file}:{f.line}: {'.'.join(map(str, f.path))}: {f.message}" if f.path else f"{file}:{f.line}: {f.message}"
        for f in ordered
    ]


def _validate(tree: Tree, file: File, findings: list[Finding]) -> System | None:
    if not isinstance(tree.value, dict):
        findings.append(Finding(1, "the file is not a mapping of keys (system, components, verify, …)"))
        return None
    values = dict(tree.value)
    if "folder" in values:
        # Known to the model, for the reader of the file only.
        findings.append(Finding(tree.line(("folder",)), "this key is not known", ("folder",)))
    values["folder"] = str(file.resolve().parent)
    try:
        return System.model_validate(values)
    except ValidationError as error:
        findings += _explain(error, tree)
        return None


def _explain(error: ValidationError, tree: Tree) -> Iterator[Finding]:
    """Findings of a ValidationError at their lines; of a union's branches only those that come nearest."""
    found: list[tuple[Finding, Branches]] = []
    for item in error.errors(include_url=False):
        loc, missing = item["loc"], item["type"] == "missing"
        path, branches = _locate(loc[:-1] if missing else loc, tree.value)
        path = (*path, loc[-1]) if missing else path
        if not loc and item["type"] == "value_error":
            found += [(finding, branches) for finding in _split(_plain(item), tree)]
        else:
            found.append((Finding(tree.line(path), _plain(item), path), branches))
    yield from _nearest(found, 0)


def _nearest(found: list[tuple[Finding, Branches]], depth: int) -> list[Finding]:
    """What is sure, and of each union the branch that was meant: its fields were looked at, and fewest are wrong."""
    kept = [finding for finding, branches in found if len(branches) <= depth]
    unions: dict[Path, dict[str, list[tuple[Finding, Branches]]]] = {}
    for finding, branches in found:
        if len(branches) > depth:
            place, tag = branches[depth]
            unions.setdefault(place, {}).setdefault(tag, []).append((finding, branches))
    for place, tags in unions.items():
        candidates = [_nearest(group, depth + 1) for group in tags.values()]
        rank = [(all(f.path == place for f in group), len(group)) for group in candidates]
        kept += [f for group, r in zip(candidates, rank, strict=True) if r == min(rank) for f in group]
    return kept


def _locate(loc: Path, value: Json) -> tuple[Path, Branches]:
    """Pydantic's place as a path of the document; the branches of unions that it names on the way come apart."""
    path: Path = ()
    branches: list[tuple[Path, str]] = []
    for part in loc:
        inner = _inside(value, part)
        if inner is None:
            branches.append((path, str(part)))
        else:
            (value,) = inner
            path = (*path, part)
    return path, tuple(branches)


def _inside(value: Json, part: str | int) -> tuple[Json] | None:
    """What stands under a key or at an index, or None when nothing does."""
    match value:
        case dict() if part in value:
            return (value[str(part)],)
        case list() if isinstance(part, int) and part < len(value):
            return (value[part],)
        case _:
            return None


def _split(message: str, tree: Tree) -> Iterator[Finding]:
    """The file's own checks say several things at once, joined by `; `, each after its path."""
    for line in message.split("; "):
        head, colon, rest = line.partition(": ")
        path: Path = tuple(int(part) if part.isdigit() else part for part in head.split("."))
        if not colon or path[0] not in (tree.value if isinstance(tree.value, dict) else {}):
            yield Finding(1, line)
            continue
        path = _item(path, rest, tree.value)
        yield Finding(tree.line(path), rest, path)


def _item(path: Path, message: str, value: Json) -> Path:
    """A finding about a list names one of its items in quotes: then the path goes on to that item."""
    for part in path:
        inner = _inside(value, part)
        if inner is None:
            return path
        (value,) = inner
    if isinstance(value, list):
        for index, item in enumerate(value):
            if message.startswith(f"{item!r} "):
                return (*path, index)
    return path


def _plain(item: ErrorDetails) -> str:
    given = item["input"]
    match item["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "this key is not known"
        case "value_error" | "assertion_error":
            return item["msg"].removeprefix("Value error, ")
        case _:
            message = item["msg"].replace("Input should", "should")
            if isinstance(given, dict | list):
                return message
            return f"{message} (given {str(given)[:80]!r})"
