"""Whoever judges a run from outside shares no code with Relight: the imports of those files, read and not run."""

import ast
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FAULTS = Path(__file__).resolve().parents[1] / "faults"
JUDGES = [
    *sorted((FAULTS / "checker").glob("*.py")),
    *(FAULTS / f"{name}.py" for name in ("evidence", "witness", "load", "subscriber", "doubles")),
]
"""The checker, and whoever watches, publishes or suffers for it: an error in a shared part would hide from them all."""
LIBRARIES = frozenset({"asyncpg", "aio_pika"})
"""What they may use besides the standard library and each other."""


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_to_be_collected() -> None:
    """Python 3.11 ends a parse with SystemError when the collector finalizes a failed task in the middle of it."""
    gc.collect()


@pytest.mark.parametrize("file", JUDGES, ids=lambda file: f"{file.relative_to(FAULTS)}")
def test_whoever_judges_shares_no_code_with_whom_it_judges(file: Path) -> None:
    apart = {f"tests.faults.{one.relative_to(FAULTS).with_suffix('').as_posix().replace('/', '.')}" for one in JUDGES}
    apart |= {"tests.faults.checker", *LIBRARIES, *sys.stdlib_module_names}
    strange = sorted(set(imported(file)) - apart)
    assert not strange, f"tests/faults/{file.relative_to(FAULTS)} imports {strange}"


def imported(file: Path) -> Iterator[str]:
    """The modules that it names anywhere: of a library, the standard one too, only the first word."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        yield from (name if name.startswith(("tests.", ".")) else name.split(".")[0] for name in names)
