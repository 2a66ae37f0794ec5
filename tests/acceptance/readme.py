"""What README and the pages in docs/ claim, taken out of their text. Nothing is run and nothing is judged here."""

import re
from collections.abc import Iterator
from pathlib import Path

from service.settings import PREFIX, Engine, Http, Logs, Servers

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def pages() -> tuple[Path, ...]:
    """Every page that people read."""
    return (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))


def blocks(language: str, text: str = README) -> list[str]:
    """The contents of all fenced blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def block(language: str, words: str) -> str:
    """The one block of a language that holds these words. Raises AssertionError when there is none, or more."""
    found = [text for text in blocks(language) if words in text]
    assert len(found) == 1, f"README has {len(found)} {language} blocks with {words!r}"
    return found[0]


def settings_table() -> list[str]:
    """The rows of README's table of settings, as the docstrings of service/settings.py make them."""
    return [
        f"| `{PREFIX}{name.upper()}` | {' '.join((field.description or '').split()).removeprefix('Default: ')} |"
        for concern in (Servers, Engine, Http, Logs)
        for name, field in concern.model_fields.items()
    ]


def rows(heading: str) -> list[str]:
    """The table rows under a heading, without the table's head."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def links(page: Path) -> Iterator[str]:
    """Targets of a page's links that lead to files."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target:
            yield target


def named_tests(page: Path) -> Iterator[tuple[str, str]]:
    """(file, test) for each test that a page names as `tests/…/test_x.py::test_y`."""
    yield from re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text("utf-8"))
