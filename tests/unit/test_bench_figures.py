"""The arithmetic of the benchmark, its table, its picture and its pages: no server, no process."""

import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import limits, plot, profiling, report, writing
from benchmarks.errors import BenchError
from benchmarks.figures import GOALS, RESIDENT, medians, percentile, ranges, ratios, rounded
from benchmarks.run import bench
from benchmarks.sizes import LONG
from benchmarks.waves import VALUES, Instances, Wave

ROOT = Path(__file__).resolve().parents[2]

SAMPLES = {
    "transitions_full_queue": [3000.0, 6000.0, 4500.0],
    "pgbench_per_event": [1500.0, 2000.0, 9000.0],
    "pgbench_batched": [10.0, 10.0, 10.0],
    "store_commit": [8.0, 9.0, 9.5],
    "naive_serial": [300.0, 300.0, 300.0],
    "naive_16": [1000.0, 1000.0, 1000.0],
    "idle_p50_ms": [6.0, 6.0, 6.0],
    "naive_idle_p50_ms": [5.0, 5.0, 4.0],
    "transitions_live": [4000.0, 4000.0, 4000.0],
    "absorbed": [9000.0, 9000.0, 9000.0],
    "two_replicas_live": [5000.0, 5000.0, 5000.0],
    "resident_mb": [90.0, 90.0, 90.0],
    "growth_small": [100.0, 100.0, 100.0],
    "growth_large": [70.0, 80.0, 90.0],
}


RATIOS = {
    "to_pgbench_per_event", "store_to_pgbench_batched", "to_naive", "to_naive_16", "idle_p50_to_naive", "growth",
}  # fmt: skip
"""Others read them by these names."""


def result() -> dict[str, Any]:
    """As a run returns it; every figure that a page shows."""
    figures: dict[str, Any] = medians(SAMPLES) | {
        "idle_p99_ms": 12.0, "naive_idle_p99_ms": 9.0, "half_p50_ms": 7.0, "half_p99_ms": 20.0, "half_offered": 2250.0,
        "half_reached": 2200.0,
        "cpu_python_per_1000": 0.15, "cpu_postgres_per_1000": 0.08, "cpu_rabbitmq_per_1000": 0.05,
        "restart_overhead_ms": 300.0, "restart_overhead_ms_per_step": 10.0, "restart_steps": 30,
        "growth_small_instances": 1000, "growth_large_instances": 100_000, "growth_large_log_rows": 1_000_000,
        "size": "normal", "repetitions": 3,
        "curve": [
            {"offered": 1000.0, "reached": 990.0, "p50_ms": 5.0, "p99_ms": 9.0},
            {"offered": 4000.0, "reached": 3800.0, "p50_ms": 30.0, "p99_ms": 140.0},
        ],
    }  # fmt: skip
    machine = {
        "taken": "2026-03-01T02:00:00+00:00", "processor": "A & B", "cores": 2, "memory_gb": 8.0, "fsync_ms": 0.4,
        "system": "Linux", "distribution": "Debian", "python": "3.11.2", "postgresql": "15.1 (Debian)",
        "rabbitmq": "3.10.8", "load": 0.1,
    }  # fmt: skip
    quotients = ratios(SAMPLES)
    figures["ranges"] = ranges(SAMPLES | quotients)
    return {"figures": figures, "ratios": medians(quotients), "machine": machine}


def test_a_ratio_is_the_median_of_the_ratios_within_each_repetition() -> None:
    found = medians(ratios(SAMPLES))
    assert found["to_pgbench_per_event"] == 2.0, "2, 3 and 0.5, not the median of one over the median of the other"
    assert found["idle_p50_to_naive"] == 1.2
    assert set(found) == RATIOS == {goal.name for goal in GOALS}


def test_repetitions_that_are_missing_are_an_error_and_no_smaller_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios({**SAMPLES, "naive_16": [1000.0]})


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_least_and_the_most_stand_beside_each_rate_and_ratio() -> None:
    assert ranges({"a": [110.0, 90.0, 100.0]}) == {"a": (90.0, 110.0)}
    shown = {what.strip(): measured for what, measured, _, _ in report.rows(result())}
    assert shown["durable transitions, from a full queue"] == "4,500/s (3,000 to 6,000)"
    assert "2.00 × (0.50 to 3.00)" in report.small(result())


def test_figures_are_rounded_to_what_a_measurement_holds() -> None:
    found = rounded({"a": 4321.987, "b": 0.012345, "c": [{"d": 1.23456}], "e": 30, "f": "normal", "g": 0.0})
    assert found == {"a": 4322.0, "b": 0.0123, "c": [{"d": 1.23}], "e": 30, "f": "normal", "g": 0.0}


def test_a_goal_that_was_missed_is_marked_in_the_table() -> None:
    marks = {goal: mark for _, _, goal, mark in report.rows(result()) if goal}
    assert marks["≥ 1.5 ×"] == "✓"
    assert marks["≥ 5 ×"] == "✗", "4.5 times is not 5 times"
    assert marks[f"≤ {RESIDENT.bound:.0f} MB"] == "✓"


def test_the_table_names_the_true_size_of_the_growth() -> None:
    text = report.markdown(result())
    assert "100,000 instances and 1,000,000 log rows" in text
    assert text.count("\n|") == len(report.rows(result())) + 1


def test_a_run_on_a_busy_machine_and_a_quick_one_say_so() -> None:
    quiet = report.title(result())
    assert "NOT CALM" not in quiet
    assert "first look" not in quiet
    noisy = result()
    noisy["machine"]["load"] = 3.5
    noisy["figures"] |= {"size": "quick", "repetitions": 1}
    assert "one repetition" in report.title(noisy)
    assert "first look" in report.title(noisy)
    assert "NOT CALM: a load of 3.5" in report.title(noisy)


def test_the_picture_is_well_formed_and_each_point_lies_inside() -> None:
    figures = result()["figures"]
    picture = ET.fromstring(plot.svg(figures["curve"], figures["transitions_full_queue"]))
    space = "{http://www.w3.org/2000/svg}"
    lines = picture.findall(f"{space}polyline")
    assert len(lines) == 3, "reached, p50 and p99"
    assert len(picture.findall(f"{space}circle")) == 3 * len(figures["curve"])
    for line in lines:
        for point in (line.get("points") or "").split():
            x, y = map(float, point.split(","))
            assert plot.LEFT <= x <= plot.WIDTH - plot.RIGHT
            assert plot.TOP <= y <= plot.HEIGHT


def test_the_picture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        plot.svg([], 1.0)


def test_a_run_is_written_where_people_read_it_and_everything_else_stays(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name, mark in (("README.md", "small"), ("docs/performance.md", "table")):
        begin, end = writing.BEGIN.format(name=mark), writing.END.format(name=mark)
        (tmp_path / name).write_text(f"before\n{begin}\nfrom another run\n{end}\nafter\n")
    writing.write(result(), tmp_path)
    again = {path: path.read_text() for path in writing.write(result(), tmp_path)}
    assert "another run" not in again[tmp_path / "README.md"]
    assert "4,500" in again[tmp_path / "README.md"]
    assert again[tmp_path / "docs/performance.md"].startswith("before\n")
    assert again[tmp_path / "docs/performance.md"].endswith("-->\nafter\n")
    assert again[tmp_path / "docs/performance.svg"].startswith("<svg")


def test_a_page_without_a_place_for_figures_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("nothing of the kind\n")
    (tmp_path / "docs/performance.md").write_text("nothing\n")
    with pytest.raises(BenchError, match="nothing was written"):
        writing.write(result(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "nothing of the kind\n"
    assert not (tmp_path / "docs/performance.svg").exists()


def test_the_pages_of_this_checkout_have_their_places() -> None:
    pages = {
        "small": ROOT / "README.md",
        "table": ROOT / "docs/performance.md",
        "profile": ROOT / "docs/performance.md",
    }
    for name, page in pages.items():
        assert writing.BEGIN.format(name=name) in page.read_text(), f"{page} has no place for {name}"


def test_the_figures_of_a_quick_run_are_not_written() -> None:
    assert writing.refused("normal") is None
    assert "not worth" in (writing.refused("quick") or "")


@pytest.mark.parametrize("scattered", [False, True])
def test_a_wave_meets_each_instance_once_a_round_and_crosses_a_threshold_each_time(scattered: bool) -> None:
    instances = Instances(4, 5, scattered)
    wave = Wave(instances, "a", 20, 80)
    meant = [instances.where(number) for number in range(20, 100)]
    assert set(Counter(meant).values()) == {4}
    for system, metric in set(meant):
        values = [wave.value(20 + at) for at, where in enumerate(meant) if where == (system, metric)]
        assert values == [VALUES[1], VALUES[2], VALUES[3], VALUES[0]]


def test_a_still_wave_repeats_what_each_instance_heard_last() -> None:
    instances = Instances(2, 3)
    before = Wave(instances, "a", 0, 10)
    still = Wave(instances, "b", before.after, 6, still=True)
    last = {instances.where(number): before.value(number) for number in range(10)}
    for number in range(still.first, still.first + still.count):
        assert still.value(number) == last[instances.where(number)]
    assert still.after == 10, "the next wave goes on from where all stand"


def test_a_wave_is_the_same_in_the_process_that_publishes_it() -> None:
    wave = Wave(Instances(2, 3, scattered=True), "a", 5, 4)
    assert list(Wave.from_json(wave.as_json()).events()) == list(wave.events())
    assert len({key for _, key, _ in wave.events()}) == 4


def test_the_batches_script_passes_every_parameter_in_its_order() -> None:
    script = limits.batch_script(["the_shard", "sent", "rest"])
    assert "relight.commit(:the_shard, :gone, nullif(:rest::text, '')::jsonb) AS gone \\gset" in script
    said = "latency\n   0.010  0  SELECT * FROM public.staged\n   12.500  0  SELECT relight.commit(:a) AS gone \\gset\n"
    assert limits.found(limits._LATENCY, said) == "12.500"


def test_a_text_of_ours_is_no_variable_of_pgbench() -> None:
    text = '{"a":"it\'s","seq":2}'
    assert len(limits.plain(text)) == len(text)
    assert not set(limits.plain(text)) & set(":'\\")


async def test_a_run_that_would_fill_the_disk_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="Set RELIGHT_HOME"):
        await bench(tmp_path / "bench", replace(LONG, growth_log_rows=10**12), lambda _: None)
    assert not (tmp_path / "bench").exists()


def test_a_profile_shows_shares_of_what_was_seen() -> None:
    seen = {
        "total": 200,
        "ours": [["service/engine/work.py Work.append", 100], ["service/engine/work.py Work.live", 40]],
        "inner": [["json/encoder.py JSONEncoder.encode", 50]],
    }
    text = "\n".join(profiling._python(seen))
    assert "| `service/engine/work.py` | 70% |" in text
    assert "| `service/engine/work.py Work.append` | 50% |" in text
    assert "| `json/encoder.py JSONEncoder.encode` | 25% |" in text
    row = {"toplevel": False, "query": "SELECT  a | b\n FROM c", "ms": 20.0, "calls": 1000}
    assert "| … `SELECT a / b FROM c` | 20.0 | 1,000 |" in profiling._postgres([row], 1000)


def test_what_pgbench_did_not_say_is_an_error_with_its_words() -> None:
    with pytest.raises(BenchError, match="no such role"):
        limits.found(limits._TPS, "no such role")
