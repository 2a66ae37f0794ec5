"""The SVG of a machine: everything of its table is in it, and nothing lies upon anything else."""

import itertools
import re
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from machines import picture
from machines.diagram import labels
from machines.registry import MACHINES
from service.cli.main import app

SVG = "{http://www.w3.org/2000/svg}"
NAMES = sorted(MACHINES)


class Drawn:
    """A picture, read back: boxes by state, lines as (source to target: words), words as (text, left, right, y)."""

    def __init__(self, name: str) -> None:
        self.machine = MACHINES[name]
        self.root = ElementTree.fromstring(picture.svg(self.machine))
        titled = [(e, e.findtext(f"{SVG}title") or "") for e in self.root if e.tag in (f"{SVG}rect", f"{SVG}path")]
        states = {state.name for state in self.machine.states}
        self.boxes = {title: e for e, title in titled if title in states}
        self.lines = {title: e.get("d", "") for e, title in titled if " to " in title}
        self.rails = {title.removeprefix("rail of "): e.get("d", "") for e, title in titled if title.startswith("rail")}
        self.words = [
            (text, float(e.get("x", 0)), float(e.get("x", 0)) + picture._width(text), float(e.get("y", 0)))
            for e in self.root.iter(f"{SVG}text")
            if " → " in (text := "".join(e.itertext()).replace("→", " → "))
        ]

    def box(self, state: str) -> tuple[float, float, float, float]:
        x, y, w, h = (float(self.boxes[state].get(key, 0)) for key in ("x", "y", "width", "height"))
        return x, y, x + w, y + h


@pytest.mark.parametrize("name", NAMES)
def test_every_state_and_every_transition_is_drawn(name: str) -> None:
    drawn = Drawn(name)
    assert set(drawn.boxes) == {state.name for state in drawn.machine.states}
    wanted = {f"{a} to {b}: {words}" for (a, b), all_words in labels(drawn.machine).items() for words in all_words}
    assert set(drawn.lines) == wanted
    assert len(drawn.words) == len(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_boxes_overlap_and_all_lie_in_the_picture(name: str) -> None:
    drawn = Drawn(name)
    width, height = (float(drawn.root.get(key, 0)) for key in ("width", "height"))
    spans = sorted((drawn.box(state)[1], drawn.box(state)[3]) for state in drawn.boxes)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))
    assert all(right < width and bottom < height for _, _, right, bottom in map(drawn.box, drawn.boxes))


@pytest.mark.parametrize("name", NAMES)
def test_words_have_their_own_place_beside_the_boxes_and_before_the_rails(name: str) -> None:
    drawn = Drawn(name)
    boxes_end = max(drawn.box(state)[2] for state in drawn.boxes)
    rails_begin = min(float(way[1:].split(" ")[0]) for way in drawn.rails.values())
    assert all(boxes_end < left and right < rails_begin for _, left, right, _ in drawn.words)
    heights = sorted(y for *_, y in drawn.words)
    assert all(after - before >= 15 for before, after in itertools.pairwise(heights))


@pytest.mark.parametrize("name", NAMES)
def test_each_line_leaves_its_state_and_ends_on_the_rail_of_its_target(name: str) -> None:
    drawn = Drawn(name)
    for title, way in drawn.lines.items():
        source, target = re.split(" to |: ", title)[:2]
        x, y, end = (float(n) for n in re.findall(r"[\d.]+", way))
        _, top, right, bottom = drawn.box(source)
        assert x == right
        assert top < y < bottom
        rail_x, rail_top, rail_bottom = (float(n) for n in re.findall(r"[\d.]+", drawn.rails[target]))
        assert end == rail_x
        assert rail_top <= y <= rail_bottom
    rails = [float(way[1:].split(" ")[0]) for way in drawn.rails.values()]
    assert len(set(rails)) == len(rails)


def test_states_of_the_same_name_are_told_apart() -> None:
    said = [text for text, *_ in Drawn("alert").words]
    assert any("warning: rising" in text for text in said)
    assert any("normal: rising" in text for text in said)


def test_command_draws_svg_on_request_and_mermaid_otherwise() -> None:
    drawn = CliRunner().invoke(app, ["diagram", "--svg", "lifecycle"])
    assert (drawn.exit_code, drawn.output) == (0, picture.svg(MACHINES["lifecycle"]))
    assert CliRunner().invoke(app, ["diagram", "lifecycle"]).output.startswith("stateDiagram-v2")
