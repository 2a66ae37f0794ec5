"""Puts a run's figures where people read them: the README's table, docs/performance.md, docs/performance.svg."""

from pathlib import Path

from benchmarks import plot, report
from benchmarks.child import ROOT
from benchmarks.errors import BenchError
from benchmarks.report import Result

BEGIN, END = "<!-- bench:{name}: written by `relight bench --write` -->", "<!-- /bench:{name} -->"

PICTURE = "![Throughput and latency against load]({folder}performance.svg)"


def refused(size: str) -> str | None:
    """Why the figures of a run of this size are not written; None when they are."""
    if size in ("normal", "long"):
        return None
    return f"the figures of a {size} run are not worth writing down; nothing was measured. Run it without --{size}"


def write(result: Result, root: Path = ROOT) -> list[Path]:
    """The files it wrote. Raises BenchError when a page has lost its place for the figures."""
    readme, page, picture = root / "README.md", root / "docs" / "performance.md", root / "docs" / "performance.svg"
    texts = {
        readme: put(readme.read_text(), "small", f"{report.small(result)}\n{PICTURE.format(folder='docs/')}\n", readme),
        page: put(
            page.read_text(),
            "table",
            f"{report.title(result)}\n\n{report.markdown(result)}\n{PICTURE.format(folder='')}\n",
            page,
        ),
        picture: plot.svg(result["figures"]["curve"], result["figures"]["transitions_full_queue"]),
    }
    if (profile := result.get("profile")) is not None:
        texts[page] = put(texts[page], "profile", profile, page)
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)


def put(page: str, name: str, text: str, path: Path) -> str:
    """The page with `text` between the marks of this name. Raises BenchError when it has no such marks."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{path} has no line {begin!r} followed by {end!r}; nothing was written")
    return f"{before}{begin}\n{text}{end}{after}"
