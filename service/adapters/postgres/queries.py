"""The named queries of `sql/*.sql`, read once. No SQL stands in Python, and none is put together from pieces."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_HEAD = re.compile(r"^-- (\w+) --\n-- (.+)\n", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """Name to query: each begins with `-- name --` and a line of comment. Raises ValueError for a name given twice."""
    heads = list(_HEAD.finditer(text))
    found: dict[str, str] = {}
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        if head[1] in found:
            raise ValueError(f"the query {head[1]} stands there twice")
        found[head[1]] = text[head.end() : following.start() if following else len(text)].strip().rstrip(";")
    return found


def read(name: str) -> Mapping[str, str]:
    """The queries of `sql/<name>.sql`."""
    return MappingProxyType(parse((Path(__file__).parent / "sql" / f"{name}.sql").read_text("utf-8")))


OWNER = read("owner")
STEPS = read("steps")
READER = read("reader")
LEFTOVERS = read("leftovers")
UPKEEP = read("upkeep")
