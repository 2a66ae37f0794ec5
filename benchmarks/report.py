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
    times = "one repetition" if figures["repetitions"] == 1 else f"medians of {figures['repetitions']} repetitions"
    warning = "" if figures["size"] in ("normal", "long") else f" ({figures['size']}: a first look, not to be quoted)"
    busy = f"; NOT CALM: a load of {about['load']} by others when it began" if about["load"] > 0.5 else ""
    return (
        f"{times}{warning}; {about['cores']} cores, {about['processor']}, fsync {about['fsync_ms']} ms, "
        f"PostgreSQL {about['postgresql']}, RabbitMQ {about['rabbitmq']}, Python {about['python']}{busy}"
    )


def rows(result: Result) -> list[tuple[str, str, str, str]]:
    """What, measured, goal, and whether it was reached."""
    f, r = result["figures"], result["ratios"]
    goals = {goal.name: goal for goal in GOALS}
    growth = f"{_n(f['growth_large_instances'])} instances and {_n(f['growth_large_log_rows'])} log rows"
    return [
        ("durable transitions, from a full queue", _per_second(f["transitions_full_queue"]), "", ""),
        ("durable transitions, live producer", _per_second(f["transitions_live"]), "", ""),
        ("absorbed events", _per_second(f["absorbed"]), "", ""),
        ("pgbench, one event a transaction, 16 connections", _per_second(f["pgbench_per_event"]), "", ""),
        _ratio("  transitions against it", r["to_pgbench_per_event"], goals["to_pgbench_per_event"]),
        ("naive, one after another", _per_second(f["naive_serial"]), "", ""),
        _ratio("  transitions against it", r["to_naive"], goals["to_naive"]),
        ("naive, 16 at once", _per_second(f["naive_16"]), "", ""),
        _ratio("  transitions against it", r["to_naive_16"], goals["to_naive_16"]),
        ("pgbench, the same batches in one call", _per_second(f["pgbench_batched"]), "", ""),
        ("the store alone", _per_second(f["store_commit"]), "", ""),
        _ratio("  against pgbench", r["store_to_pgbench_batched"], goals["store_to_pgbench_batched"]),
        ("latency at 20/s, p50 / p99", _latency(f, "idle"), "", ""),
        ("  naive", _latency(f, "naive_idle"), "", ""),
        _ratio("  p50 against naive", r["idle_p50_to_naive"], goals["idle_p50_to_naive"]),
        (f"latency at half of the full queue's rate ({_n(f['half_offered'])}/s)", _latency(f, "half"), "", ""),
        (
            f"a restart's {f['restart_steps']} empty steps",
            f"{f['restart_overhead_ms']:.0f} ms, {f['restart_overhead_ms_per_step']:.1f} ms a step", "", "",
        ),
        (
            f"with {_n(f['growth_small_instances'])} instances, checkpoints included",
            _per_second(f["growth_small"]), "", "",
        ),
        (f"with {growth}", _per_second(f["growth_large"]), "", ""),
        _ratio("  against it", r["growth"], goals["growth"]),
        ("two replicas with two shards, live producer", _per_second(f["two_replicas_live"]), "", ""),
        (
            "CPU seconds for 1,000 transitions: Python / PostgreSQL / RabbitMQ",
            " / ".join(f"{f[f'cpu_{part}_per_1000']:.3f}" for part in ("python", "postgres", "rabbitmq")), "", "",
        ),
        (
            "serve, resident", f"{f['resident_mb']:.0f} MB", f"≤ {RESIDENT.bound:.0f} MB",
            _mark(RESIDENT, f["resident_mb"]),
        ),
    ]  # fmt: skip


def _ratio(words: str, value: float, goal: Goal) -> tuple[str, str, str, str]:
    return words, f"{value:.2f} ×", f"{'≤' if goal.most else '≥'} {goal.bound:g} ×", _mark(goal, value)


def _mark(goal: Goal, value: float) -> str:
    return "✓" if goal.reached(value) else "✗"


def _per_second(value: float) -> str:
    return f"{_n(value)}/s"


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
    f, r, about = result["figures"], result["ratios"], result["machine"]
    lines = [
        "| | per second | Relight against it |",
        "|---|---|---|",
        f"| **Relight**, event in, decided, committed, told, acknowledged | **{_n(f['transitions_full_queue'])}** | |",
        f"| pgbench in C, one event a transaction, 16 connections | {_n(f['pgbench_per_event'])} "
        f"| {r['to_pgbench_per_event']:.2f} × |",
        f"| asyncpg and aio-pika, 16 events at once | {_n(f['naive_16'])} | {r['to_naive_16']:.1f} × |",
        f"| asyncpg and aio-pika, one event after another | {_n(f['naive_serial'])} | {r['to_naive']:.1f} × |",
        "",
        f"From publish to notification {_latency(f, 'idle')} (p50 / p99) at 20 a second, {_latency(f, 'half')} at "
        f"{_n(f['half_offered'])} a second; `serve` has {f['resident_mb']:.0f} MB in memory.",
        f"Taken on {about['cores']} cores ({about['processor']}), {about['memory_gb']:g} GB, fsync "
        f"{about['fsync_ms']:g} ms, {about['distribution']}, PostgreSQL {about['postgresql'].split(' ')[0]}, RabbitMQ "
        f"{about['rabbitmq']}, Python {about['python']}, {about['taken'][:10]}; load by others {about['load']:g}.",
    ]
    return "\n".join(lines) + "\n"
