"""YAML text to plain values, each with its line; bounded, and nothing a value could do. No schema lives here."""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field

import yaml

from schemas.base import Json

MAX_BYTES = 256 * 1024
"""A system's file has a few KiB; a larger one is a mistake."""
MAX_DEPTH = 32
"""Levels of nesting."""
MAX_VALUES = 20_000
"""Values after every alias was followed: a few lines of aliases of aliases could otherwise mean billions."""

Path = tuple[str | int, ...]

_CORE = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2: `no` is a text, `22:30` is no number, a date is no object."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [c if c != "\0" else "" for c in _first]
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a line (from 1) of a file; `path` is where in the document, if that is known."""

    line: int
    message: str
    path: Path = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """A document: its values, the line of each value's key (or of the list item), by path."""

    value: Json
    lines: dict[Path, int]
    findings: tuple[Finding, ...] = ()

    def line(self, path: Path) -> int:
        """The line of the nearest thing that exists: a missing key stands where its parent does."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


@dataclass(slots=True)
class _Walk:
    loader: _Loader
    lines: dict[Path, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    values: int = 0

    def value(self, node: yaml.Node, path: Path, line: int) -> Json:
        self.values += 1
        if self.values > MAX_VALUES:
            raise _TooMuchError(f"it has more than {MAX_VALUES} values after its aliases were followed")
        if len(path) > MAX_DEPTH:
            raise _TooMuchError(f"it is nested deeper than {MAX_DEPTH} levels")
        self.lines[path] = line
        if node.tag not in _CORE:
            self.findings.append(Finding(line, f"the tag {_short(node.tag)} is not allowed", path))
            return None
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self.value(item, (*path, i), _line(item)) for i, item in enumerate(node.value)]
            case _:
                return self._scalar(node, path, line)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> Json:
        found: dict[str, Json] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.findings.append(Finding(line, "a key must be a plain word", path))
                continue
            key: str = key_node.value
            if key in found:
                message = f"stands there twice; the first is in line {first[key]}"
                self.findings.append(Finding(line, message, (*path, key)))
                continue
            first[key] = line
            found[key] = self.value(value_node, (*path, key), line)
        return found

    def _scalar(self, node: yaml.Node, path: Path, line: int) -> Json:
        try:
            value: Hashable = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self.findings.append(Finding(line, f"is not readable: {error}", path))
            return None
        return value if isinstance(value, str | int | float | bool) else None


class _TooMuchError(Exception):
    pass


def parse(content: bytes) -> Tree | tuple[Finding, ...]:
    """The document in `content`, or why there is none. A tree may carry findings of its own (duplicate keys, tags)."""
    if len(content) > MAX_BYTES:
        return (Finding(1, f"the file has {len(content)} bytes; at most {MAX_BYTES} are allowed"),)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return (Finding(content[: error.start].count(b"\n") + 1, f"the file is not UTF-8: {error.reason}"),)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return (Finding(1, "the file is empty"),)
        walk = _Walk(loader)
        value = walk.value(node, (), _line(node))
    except yaml.MarkedYAMLError as error:
        return (_syntax(error),)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return (Finding(line, f"the character #x{ord(text[error.position]):04x} is not allowed in YAML"),)
    except yaml.YAMLError as error:
        return (Finding(1, f"the file is not YAML: {error}"),)
    except RecursionError:
        return (Finding(1, f"it is nested deeper than {MAX_DEPTH} levels"),)
    except _TooMuchError as error:
        return (Finding(1, str(error)),)
    return Tree(value, walk.lines, tuple(walk.findings))


def _syntax(error: yaml.MarkedYAMLError) -> Finding:
    mark = error.problem_mark or error.context_mark
    words = ", ".join(part for part in (error.context, error.problem) if part)
    return Finding((mark.line if mark else 0) + 1, f"the file is not YAML: {words}")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
