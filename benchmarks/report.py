"""The result as a table for people: what was measured, and beside it what it should be. Pure."""

from collections.abc import Mapping
from typing import Any

from benchmarks.figures import GOALS, RESIDENT, Goal

COLUMNS = ("WHAT", "MEASURED", "GOAL", "")

Result = Mapping[str, Any]
"""`figures`, `ratios`, `machine`, as `--json` prints them."""


def title(result: Result) -> str:
    """One line: how it was taken, and on what."""
    figures, about = result["figures"], result["machine"]
    warning = "" if figures["size"] in ("normal", "long") else f" ({figures['size']}: a first look, not to be quoted)"
    busy = f"; NOT CALM: a load of {about['load']} by others when it began" if about["load"] > 0.5 else ""
    return (
        f"{_times(figures).lower()}, the least and the most in brackets{warning}; "
        f"{about['cores']} cores, {about['processor']}, fsync {about['fsync_ms']} ms, "
        f"PostgreSQL {about['postgresql']}, RabbitMQ {about['rabbitmq']}, Python {about['python']}{busy}"
    )


def _times(figures: Mapping[str, Any]) -> str:
    count = figures["repetitions"]
    return "One repetition" if count == 1 else f"Medians of {count} repetitions"


def rows(result: Result) -> list[tuple[str, str, str, str]]:
    """What, measured, goal, and whether it was reached."""
    f, r = result["figures"], _Ratios(result)
    growth = f"{_n(f['growth_large_instances'])} instances and {_n(f['growth_large_log_rows'])} log rows"
    return [
        ("durable transitions, from a full queue", _per_second(f, "transitions_full_queue"), "", ""),
        ("durable transitions, live producer", _per_second(f, "transitions_live"), "", ""),
        ("absorbed events", _per_second(f, "absorbed"), "", ""),
        ("pgbench, one event a transaction, 16 connections", _per_second(f, "pgbench_per_event"), "", ""),
        r.row("  transitions against it", "to_pgbench_per_event"),
        ("naive, one after another", _per_second(f, "naive_serial"), "", ""),
        r.row("  transitions against it", "to_naive"),
        ("naive, 16 at once", _per_second(f, "naive_16"), "", ""),
        r.row("  transitions against it", "to_naive_16"),
        ("pgbench, the same batches in one call", _per_second(f, "pgbench_batched"), "", ""),
        ("the store alone", _per_second(f, "store_commit"), "", ""),
        r.row("  against pgbench", "store_to_pgbench_batched"),
        ("latency at 20/s, p50 / p99", _latency(f, "idle"), "", ""),
        ("  naive", _latency(f, "naive_idle"), "", ""),
        r.row("  p50 against naive", "idle_p50_to_naive"),
        (
            f"latency at half of the full queue's rate ({_n(f['half_offered'])}/s, {_n(f['half_reached'])}/s reached)",
            _latency(f, "half"), "", "",
        ),
        (
            f"a restart's {f['restart_steps']} empty steps",
            f"{f['restart_overhead_ms']:.0f} ms, {f['restart_overhead_ms_per_step']:.1f} ms a step", "", "",
        ),
        (
            f"with {_n(f['growth_small_instances'])} instances, checkpoints included",
            _per_second(f, "growth_small"), "", "",
        ),
        (f"with {growth}", _per_second(f, "growth_large"), "", ""),
        r.row("  against it", "growth"),
        ("two replicas with two shards, live producer", _per_second(f, "two_replicas_live"), "", ""),
        (
            "CPU seconds for 1,000 transitions: Python / PostgreSQL / RabbitMQ",
            " / ".join(f"{f[f'cpu_{part}_per_1000']:.3f}" for part in ("python", "postgres", "rabbitmq")), "", "",
        ),
        (
            "serve, resident", f"{f['resident_mb']:.0f} MB", f"≤ {RESIDENT.bound:.0f} MB",
            _mark(RESIDENT, f["resident_mb"]),
        ),
    ]  # fmt: skip


class _Ratios:
    """Each with the least and the most of the repetitions, and its goal."""

    def __init__(self, result: Result) -> None:
        self._ratios, self._ranges = result["ratios"], result["figures"]["ranges"]

    def row(self, words: str, name: str) -> tuple[str, str, str, str]:
        goal = next(goal for goal in GOALS if goal.name == name)
        wanted = f"{'≤' if goal.most else '≥'} {goal.bound:g} ×"
        return words, self.words(name), wanted, _mark(goal, self._ratios[name])

    def words(self, name: str) -> str:
        least, most = self._ranges[name]
        return f"{self._ratios[name]:.2f} × ({least:.2f} to {most:.2f})"


def _mark(goal: Goal, value: float) -> str:
    return "✓" if goal.reached(value) else "✗"


def _per_second(figures: Mapping[str, Any], name: str) -> str:
    least, most = figures["ranges"][name]
    return f"{_n(figures[name])}/s ({_n(least)} to {_n(most)})"


def _n(value: float) -> str:
    return f"{value:,.0f}"


def _latency(figures: Mapping[str, Any], name: str) -> str:
    return f"{figures[f'{name}_p50_ms']:.1f} / {figures[f'{name}_p99_ms']:.1f} ms"


def markdown(result: Result) -> str:
    """The same for a page."""
    lines = ["| what | measured | goal |", "|---|---|---|"]
    lines += [
        f"| {'… ' if what.startswith(' ') else ''}{what.strip()} | {measured} | {f'{goal} {mark}'.strip()} |"
        for what, measured, goal, mark in rows(result)
    ]
    return "\n".join(lines) + "\n"


def small(result: Result) -> str:
    """The few lines of the README."""
    f, r, about = result["figures"], _Ratios(result), result["machine"]
    lines = [
        "| | per second | Relight against it |",
        "|---|---|---|",
        f"| **Relight**, event in, decided, committed, told, acknowledged | **{_n(f['transitions_full_queue'])}** | |",
        f"| pgbench in C, one event a transaction, 16 connections | {_n(f['pgbench_per_event'])} "
        f"| {r.words('to_pgbench_per_event')} |",
        f"| asyncpg and aio-pika, 16 events at once | {_n(f['naive_16'])} | {r.words('to_naive_16')} |",
        f"| asyncpg and aio-pika, one event after another | {_n(f['naive_serial'])} | {r.words('to_naive')} |",
        "",
        f"{_times(f)}, the least and the most in brackets; a ratio is the median of those within each repetition.",
        f"From publish to notification {_latency(f, 'idle')} (p50 / p99) at 20 a second, {_latency(f, 'half')} at "
        f"{_n(f['half_offered'])} a second; `serve` has {f['resident_mb']:.0f} MB in memory.",
        f"Taken on {about['cores']} cores ({about['processor']}), {about['memory_gb']:g} GB, fsync "
        f"{about['fsync_ms']:g} ms, {about['distribution']}, PostgreSQL {about['postgresql'].split(' ')[0]}, RabbitMQ "
        f"{about['rabbitmq']}, Python {about['python']}, {about['taken'][:10]}; load by others {about['load']:g}.",
    ]
    return "\n".join(lines) + "\n"
